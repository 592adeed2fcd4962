"""How sure a retrieval is of each first match, and how well that tells right from wrong.

Higher is surer. A query that found nothing is at -inf: it is never answered.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from dinomix.plumbing.errors import named

SPREAD_OVER = 10  # matches, so that the spread does not depend on how many more were retrieved
SLOPE = 50.0  # of weights exp(SLOPE * similarity): how hard the multi-similarity loss tells apart


def similarity(similarities: np.ndarray, places: np.ndarray | None, reach: float) -> np.ndarray:
    """The cosine similarity of the first match."""
    return similarities[:, 0].astype(np.float64)


def margin(similarities: np.ndarray, places: np.ndarray, reach: float) -> np.ndarray:
    """How much more similar the first match is than the best one of another place.

    That is one farther than `reach` from the first match, or at an unknown position. Where all
    that were retrieved are of the first match's place, it is the margin to the last of them: the
    true one is at least as large, so the query is called less sure than it is, never surer.
    """
    found = np.isfinite(similarities)  # (Q, k)
    apart = np.linalg.norm(places - places[:, :1], axis=2)  # (Q, k)
    elsewhere = found & ~(apart <= reach)
    elsewhere[:, 0] = False
    other = np.where(elsewhere, similarities, -np.inf).max(axis=1)
    last = np.where(found, similarities, np.inf).min(axis=1)
    rival = np.where(elsewhere.any(axis=1), other, last)
    return similarity(similarities, places, reach) - rival


def spread(similarities: np.ndarray, places: np.ndarray, reach: float) -> np.ndarray:
    """How close to each other the first `SPREAD_OVER` matches lie, in negative metres.

    Minus the root of their mean squared distance from their mean, both weighted by
    exp(SLOPE * similarity): in the manner of SUE (Zaffar, Nan, Kooij: On the Estimation of
    Image-matching Uncertainty in Visual Place Recognition, CVPR 2024). Even weights tell nothing
    on the toy city. -inf where fewer than two matches have a position.
    """
    places, similarities = places[:, :SPREAD_OVER], similarities[:, :SPREAD_OVER]
    known = np.isfinite(places).all(axis=2) & np.isfinite(similarities)  # (Q, s)
    alike = np.where(known, SLOPE * similarities.astype(np.float64), -np.inf)
    most = alike.max(axis=1, keepdims=True, initial=-np.finfo(float).max)  # or exp might overflow
    weights = np.exp(alike - most)
    weights = weights / weights.sum(axis=1, keepdims=True).clip(min=1)  # 0 where none is known
    places = np.where(known[..., None], places, 0)
    mean = (weights[..., None] * places).sum(axis=1, keepdims=True)  # (Q, 1, d)
    squares = (weights * ((places - mean) ** 2).sum(axis=2)).sum(axis=1)  # (Q,)
    return np.where(known.sum(axis=1) > 1, 0 - np.sqrt(squares), -np.inf)


# Of similarities (Q, k), falling along each row, -inf where nothing is found; where the matches
# were taken, (Q, k, d), NaN where that is unknown; and how far a place reaches, in the same unit.
Method = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
METHODS: dict[str, Method] = {"similarity": similarity, "margin": margin, "spread": spread}


def method_named(name: str) -> Method:
    """One of `METHODS`; ValueError, with the nearest name, where there is none."""
    return named(METHODS, name, "confidence")


def precision_recall(
    confidence: np.ndarray, right: np.ndarray, answerable: np.ndarray
) -> pd.DataFrame:
    """What is gained and lost by answering only where the confidence is at least a threshold.

    Args:
        confidence: (Q,); a query at -inf or NaN is never answered.
        right: bool (Q,), whether a query's first match is right.
        answerable: bool (Q,), whether a query has a positive.

    Returns:
        a row for each distinct confidence, falling, so that equals are answered together. Columns:
        threshold; precision, the right ones among the answered; recall, the right and answered
        ones among the answerable (NaN where there are none); answered, the share of all queries.
        All are from 0 to 1; precision over answered is the coverage curve. No row where nothing
        is answered.
    """
    order = np.argsort(-confidence, kind="stable")  # NaN last
    order = order[confidence[order] > -np.inf]
    asked, count = confidence[order], np.arange(1, len(order) + 1)
    last = np.append(asked[1:] != asked[:-1], True)[: len(asked)]  # of its equals
    correct = np.cumsum(right[order])[last]
    possible = np.sum(answerable)
    columns = {
        "threshold": asked[last],
        "precision": correct / count[last],
        "recall": correct / possible if possible else np.full(len(correct), np.nan),
        "answered": count[last] / max(1, len(confidence)),
    }
    return pd.DataFrame(columns, dtype=float)


def curve_of(queries: pd.DataFrame, name: str = "similarity") -> pd.DataFrame:
    """`precision_recall` of rows of a table of queries, such as those of one condition."""
    sure = queries[name if name == "similarity" else f"confidence_{name}"].to_numpy(float)
    right = queries["rank"].eq(1).fillna(False).to_numpy(bool)
    return precision_recall(sure, right, queries["positives"].gt(0).to_numpy(bool))


def average_precision(curve: pd.DataFrame) -> float:
    """The mean of precision over recall, in steps: each row's precision times the recall it adds.

    As scikit-learn's, times the recall of answering everything, since queries that have a positive
    but a wrong first match are never recalled. NaN where no query has a positive.
    """
    return float(curve["precision"] @ np.diff(curve["recall"], prepend=0))


def recall_at_precision(curve: pd.DataFrame, precision: float = 1.0) -> float:
    """The highest recall at a precision, by default without a wrong answer; 0 if there is none."""
    return float(curve.loc[curve["precision"] >= precision, "recall"].to_numpy().max(initial=0))


def threshold_for(curve: pd.DataFrame, precision: float) -> pd.Series:
    """The row of the lowest threshold that has the precision: the one that answers the most.

    Raises:
        ValueError: the precision is not reached; the best one is named.
    """
    enough = curve[curve["precision"] >= precision]
    if len(enough):
        return enough.iloc[-1]
    if curve.empty:
        raise ValueError("no query found anything, so there is no threshold")
    best = curve.loc[curve["precision"].idxmax()]
    raise ValueError(
        f"no threshold has a precision of {precision:g}: the best is {best['precision']:.3f}, "
        f"which answers {best['answered']:.1%} of the queries"
    )
