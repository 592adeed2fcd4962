"""Methods side by side on the same queries: how right each one is, and which queries to show."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dinomix.data import TestSet
from dinomix.evaluation import Retrieval, hits, positives
from dinomix.plumbing.errors import named

REACH = 3.0  # thresholds: up to this far a wrong image may still show the query's scene
TURN = 45.0  # degrees: up to this far apart two cameras look the same way


def headings(paths: Sequence[Path]) -> np.ndarray:
    """Compass directions in degrees, field 9 of names in the UTM layout: (N,), NaN without one."""
    # A name begins with @, so its first field is index 1.
    fields = pd.Series([path.name for path in paths], dtype=str).str.split("@").str.get(9)
    return pd.to_numeric(fields, errors="coerce").replace([np.inf, -np.inf], np.nan).to_numpy(float)


def verdicts(retrieval: Retrieval) -> np.ndarray:
    """How right each retrieved image is: strings (Q, k).

    "right": a positive of recall. "near": none, but at most `REACH` thresholds away and, where
    both names tell a heading, facing at most `TURN` degrees another way. "wrong": anything else,
    also where none was retrieved (-1).
    """
    test = retrieval.test
    seen, asked = headings(test.database)[retrieval.ranked], headings(test.queries)[:, None]
    near = (retrieval.distances() <= REACH * test.threshold) & ~_turned_away(asked, seen)  # (Q, k)
    right = hits(retrieval.ranked, retrieval.positives)
    return np.where(right, "right", np.where(near, "near", "wrong"))


def matching_views(test: TestSet) -> np.ndarray:
    """The database image that shows what each query shows: int64 (Q,), -1 where there is none.

    The nearest positive of recall that faces at most `TURN` degrees another way, where both names
    tell a heading.
    """
    found = np.full(len(test.queries), -1)
    seen, asked = headings(test.database), headings(test.queries)
    truth = positives(test.database_utm, test.query_utm, test.threshold)
    for query, candidates in enumerate(truth):
        facing = candidates[~_turned_away(asked[query], seen[candidates])]
        apart = np.linalg.norm(test.database_utm[facing] - test.query_utm[query], axis=1)
        if len(facing):
            found[query] = facing[apart.argmin()]
    return found


def _turned_away(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.abs((ours - theirs + 180) % 360 - 180) > TURN  # false where either is NaN


def choose_cases(
    retrievals: Mapping[str, Retrieval], method: str, groups: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """For each challenge, a query on which a method shines and one on which it does not.

    By the first retrieved image: the success is the first query that the method gets right and the
    fewest others do; the failure, one that it gets wrong and the most others get right. Queries
    without positives are no case.

    Args:
        retrievals: by method, on the same test set.
        groups: the conditions of each challenge, such as {"illumination": ["dusk", "night"]}.

    Returns:
        up to two rows a challenge: challenge, condition, kind ("success" or "failure"), query (its
        index), right (how many other methods are right), others (how many there are).

    Raises:
        ValueError: an unknown method or condition, or retrievals of different test sets.
    """
    ours = named(retrievals, method, "retrieval of method")
    test, truth = ours.test, ours.positives
    for name, retrieval in retrievals.items():
        if retrieval.test.fingerprint != test.fingerprint:
            places = f"{name} retrieved on {retrieval.test.name} and {method} on {test.name}"
            raise ValueError(f"{places}: retrieve on the same test set")
    conditions, known = np.array(test.conditions), list(dict.fromkeys(test.conditions))
    if unknown := sorted({name for group in groups.values() for name in group} - set(known)):
        raise ValueError(f"{test.name} has no conditions {unknown}: it has {known}")
    first = {name: hits(found.ranked[:, :1], truth)[:, 0] for name, found in retrievals.items()}
    own = first.pop(method)  # (Q,)
    right = np.sum(list(first.values()), axis=0, dtype=int) + np.zeros(len(own), int)  # (Q,)
    possible = np.array([len(indices) > 0 for indices in truth])
    rows = []
    for challenge, group in groups.items():
        inside = possible & np.isin(conditions, list(group))
        for kind, chosen, cost in (("success", own, right), ("failure", ~own, -right)):
            numbers = np.flatnonzero(inside & chosen)
            if len(numbers):
                query = int(numbers[np.argmin(cost[numbers])])
                counts = int(right[query]), len(first)
                rows.append((challenge, conditions[query], kind, query, *counts))
    columns = ["challenge", "condition", "kind", "query", "right", "others"]
    return pd.DataFrame(rows, columns=columns)
