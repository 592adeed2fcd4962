"""Recall@k: which queries find a database image of their place among the first k; and how sure."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import KDTree
from torch import nn

from dinomix import confidence
from dinomix.data import TestSet
from dinomix.images import size_text
from dinomix.plumbing.configs import real, whole, wholes
from dinomix.plumbing.errors import first_of
from dinomix.plumbing.files import atomic_path
from dinomix.plumbing.imagenames import names_under
from dinomix.plumbing.tables import ALL, ResultsTable
from dinomix.retrieval import SkippedImageWarning, describe, search, skipped_images
from dinomix.statistics import bootstrap, checked_level

COLUMNS = ["dataset", "convention", "condition", "k", "recall", "queries", "without_positives"]
THRESHOLDS = (5, 10, 25, 50, 100)  # metres
MATCHES = 10  # are retrieved at least, for what is said about single queries
UNLABELLED = (
    "it is unknown where these images were taken, so nothing can be right or wrong: retrieve "
    "works, recall does not. `dinomix.layouts` shows how positions can be given."
)


def positives(
    database_utm: np.ndarray | None, query_utm: np.ndarray | None, threshold: float
) -> list[np.ndarray]:
    """The database images within `threshold` of each query, the bound included.

    Args:
        database_utm, query_utm: positions (N, 2) and (Q, 2), in the threshold's unit.

    Returns:
        Q sorted int64 arrays of database indices; an empty one where a query has no positive.

    Raises:
        ValueError: there are no positions, as in an unlabelled test set, or the threshold is no
            number from 0 on.
    """
    if database_utm is None or query_utm is None:
        raise ValueError(UNLABELLED)
    reach = real("threshold", threshold)
    found = KDTree(database_utm).query_ball_point(query_utm, reach, return_sorted=True)
    return [np.array(indices, dtype=np.int64) for indices in found]


def hits(ranked: np.ndarray, positives_of: Sequence[np.ndarray]) -> np.ndarray:
    """Which of the retrieved, (Q, k) database indices, are their query's positives: bool (Q, k)."""
    if len(ranked) != len(positives_of):
        raise ValueError(f"{len(ranked)} rankings for the positives of {len(positives_of)} queries")
    owners = np.repeat(np.arange(len(ranked)), [len(truth) for truth in positives_of])
    truth = np.concatenate([np.empty(0, np.int64), *positives_of]).astype(np.int64)
    size = 1 + max(ranked.max(initial=0), truth.max(initial=0))
    # A pair of query and image is one number: a search for all of them is faster than Q searches.
    pairs = np.arange(len(ranked))[:, None] * size + ranked  # (Q, k)
    wanted = np.sort(np.append(owners * size + truth, -1))  # so that there is one
    found = wanted[np.searchsorted(wanted, pairs).clip(max=len(wanted) - 1)]
    return (found == pairs) & (ranked >= 0)


def recall_at_k(
    ranked: np.ndarray, positives_of: Sequence[np.ndarray], ks: Sequence[int] = (1, 5, 10)
) -> dict[int, float]:
    """Percent of queries with a positive among their first k (the paper's top-k accuracy), by k.

    Queries without any positive count as failures. Where k exceeds the database, all of it counts.
    No queries give nan. ValueError: a k is no whole number from 1 on, or there is none.
    """
    ks = wholes("ks", ks, least=1)
    right = hits(ranked, positives_of)
    if not len(right):
        return {k: float("nan") for k in ks}
    return {k: 100.0 * float(right[:, :k].any(axis=1).mean()) for k in ks}


@dataclass(frozen=True)
class Retrieval:
    """What a model retrieved on a test set, for tables and pictures."""

    test: TestSet
    ranked: np.ndarray  # int64 (Q, k) database indices, nearest first; -1 where nothing is found
    similarities: np.ndarray  # float32 (Q, k)
    positives: list[np.ndarray] | None  # of each query; None where the test set is unlabelled
    skipped: list[Path] = field(default_factory=list)  # damaged images of database and queries

    def table(self, ks: Sequence[int] = (1, 5, 10), interval: float | None = None) -> ResultsTable:
        """A row for each k, of each condition and of all queries together.

        Columns: `COLUMNS`; recall in percent. `without_positives` counts queries that nothing
        could be right for: failures. With an `interval`, such as 0.95, also low and high: its ends
        by `statistics.bootstrap` over the groups of queries.

        Raises:
            ValueError: the test set is unlabelled, or fewer were retrieved than a k asks for.
        """
        ks, rows = self._countable(ks), []
        right, groups = hits(self.ranked, self.positives), np.array(self.test.groups, dtype=object)
        for condition, chosen in self._conditions():
            truth = [self.positives[i] for i in np.flatnonzero(chosen)]
            counts = len(truth), sum(not len(t) for t in truth)
            for k, recall in recall_at_k(self.ranked[chosen], truth, ks).items():
                ends = ()
                if interval is not None:
                    found = right[chosen, :k].any(axis=1)  # (q,)
                    ends = 100 * np.array(bootstrap(found, groups[chosen], level=interval))
                which = self.test.name, self.test.convention, condition
                rows.append((*which, k, recall, *counts, *ends))
        return ResultsTable(rows, columns=COLUMNS + ["low", "high"] * (interval is not None))

    def queries(self) -> pd.DataFrame:
        """A row a query, in the order of the test set.

        Columns: query (its file's name), group (queries that are not independent share one),
        condition, rank (of the first right image among those retrieved, from 1; <NA> where none
        is), similarity (of the first match; -inf where nothing is found), error_m (metres from
        the first match to the query), positives (how many), and confidence_<name> for the other
        `confidence.METHODS`. What cannot be known, as where the set is unlabelled, is missing.
        """
        test, count = self.test, len(self.test.queries)
        rank, answers = (pd.array([pd.NA] * count, "Int64") for _ in range(2))
        if self.positives is not None:
            right = hits(self.ranked, self.positives)  # (Q, k)
            some = right.any(axis=1)
            rank[some] = right[some].argmax(axis=1) + 1
            answers[:] = [len(truth) for truth in self.positives]
        columns = {
            "query": [path.name for path in test.queries],
            "group": test.groups,
            "condition": test.conditions,
            "rank": rank,
            "similarity": self.confidence("similarity"),
            "error_m": self.distances()[:, 0] if test.unit == "m" else np.nan,
            "positives": answers,
        }
        for name in list(confidence.METHODS)[1:]:
            known = name in self.confidences()
            columns[f"confidence_{name}"] = self.confidence(name) if known else np.nan
        return pd.DataFrame(columns)

    def confidences(self) -> list[str]:
        """Which of `confidence.METHODS` can be told: but for similarity, they take positions and a
        second match, and the spread takes distances.
        """
        if not self.test.labelled or self.ranked.shape[1] < 2:
            return ["similarity"]
        return ["similarity", "margin"] if self.test.unit == "places" else list(confidence.METHODS)

    def confidence(self, name: str = "similarity") -> np.ndarray:
        """How sure each first match is, by one of `confidence.METHODS`: float64 (Q,).

        Raises:
            ValueError: there is no such method, or it is not among `confidences`.
        """
        method = confidence.method_named(name)
        if name not in self.confidences():
            takes = "it takes positions, in metres or frames, and two matches for each query"
            raise ValueError(f"{self.test.name}: no {name}, for {takes}")
        return method(self.similarities, self._places(), self.test.threshold)

    def precision_recall(self, name: str = "similarity") -> pd.DataFrame:
        """`confidence.precision_recall` of the first matches, where it is known what is right."""
        self._require_labels()
        right = hits(self.ranked[:, :1], self.positives).any(axis=1)  # (Q,)
        answerable = np.array([len(truth) > 0 for truth in self.positives], dtype=bool)
        return confidence.precision_recall(self.confidence(name), right, answerable)

    def distances(self) -> np.ndarray:
        """From each query to what was retrieved for it, in metres or frames: float64 (Q, k).

        NaN where nothing was, or where the test set knows no positions, or places alone.
        """
        if not self.test.labelled or self.test.unit == "places":
            return np.full(self.ranked.shape, np.nan)
        return np.linalg.norm(self._places() - self.test.query_utm[:, None], axis=2)

    def recall_by_threshold(
        self, thresholds: Sequence[float] = THRESHOLDS, ks: Sequence[int] = (1,)
    ) -> pd.DataFrame:
        """Recall if positives were those within other thresholds, the bound included.

        Columns: condition, threshold, unit ("m", or "frames" of a sequence), k, recall in percent.

        Raises:
            ValueError: the test set is unlabelled or knows no distances, or as `table`.
        """
        ks, rows = self._countable(ks), []
        if self.test.unit == "places":
            raise ValueError(f"{self.test.name} knows places and no distances between them")
        distances = self.distances()
        for condition, chosen in self._conditions():
            for threshold in thresholds:
                near = distances[chosen] <= real("threshold", threshold)  # (q, k)
                for k in ks:
                    share = near[:, :k].any(axis=1).mean() if len(near) else np.nan
                    rows.append((condition, threshold, self.test.unit, k, 100 * share))
        return pd.DataFrame(rows, columns=["condition", "threshold", "unit", "k", "recall"])

    def median_error(self) -> dict[str, float]:
        """Half of the first matches are at most so many metres off: for each condition, and all.

        A query that found nothing is infinitely far off. Empty where positions are not in metres.
        """
        if self.test.unit != "m" or not self.test.labelled:
            return {}
        errors = np.nan_to_num(self.distances()[:, 0], nan=np.inf)
        return {name: float(np.median(errors[chosen])) for name, chosen in self._conditions()}

    def pairs(self, file: str | Path, k: int | None = None, root: str | Path | None = None) -> None:
        """Write each query with the first k of its matches (None: all), of which local features are
        to be matched: lines "query match", as hloc's pairs_from_retrieval.py writes them and
        COLMAP's `matches_importer --match_type pairs` reads them.

        Names are relative to `root`; None: the deepest folder that holds all. No image is paired
        with itself, and a `SkippedImageWarning` counts queries that found nothing.
        Sources: https://github.com/cvg/Hierarchical-Localization, https://colmap.github.io

        Raises ValueError: fewer were retrieved, an image lies outside of `root`, or a name has a
        space or begins with #, which such lists cannot say.
        """
        found, database = self.ranked.shape[1], len(self.test.database)
        if (k := found if k is None else whole("k", k, least=1)) > found:
            raise ValueError(f"{found} were retrieved for each query, fewer than k = {k}")
        names = names_under(root, [*self.test.database, *self.test.queries])
        if unfit := [name for name in names if name[0] == "#" or len(name.split()) != 1]:
            raise ValueError(
                f"a list of pairs cannot name {first_of([*map(repr, unfit)])}: take spaces out of "
                "the names of files and folders, and # from the beginning"
            )
        asked = zip(names[database:], self.ranked[:, :k].tolist(), strict=True)
        pairs = [(query, names[row]) for query, rows in asked for row in rows if row >= 0]
        lines = [f"{query} {match}\n" for query, match in pairs if query != match]
        with atomic_path(file) as path:
            path.write_text("".join(lines), "utf-8", "surrogateescape")
        if lost := int((self.ranked[:, 0] < 0).sum()):
            text = f"{lost} damaged queries found nothing, and are left out of {file}"
            warnings.warn(text, SkippedImageWarning, stacklevel=2)

    def _conditions(self) -> Iterator[tuple[str, np.ndarray]]:
        """The name of each condition, and of all queries together, with its queries: bool (Q,)."""
        conditions = np.array(self.test.conditions)
        for name in filter(None, dict.fromkeys(self.test.conditions)):
            yield name, conditions == name
        yield ALL, np.ones(len(conditions), dtype=bool)

    def _places(self) -> np.ndarray | None:
        """Where the matches were taken: (Q, k, 2), NaN where none is; None where unlabelled."""
        if not self.test.labelled:
            return None
        places = self.test.database_utm[self.ranked]
        return np.where(self.ranked[..., None] < 0, np.nan, places)

    def _countable(self, ks: Sequence[int]) -> list[int]:
        """The ks of recall@k, if there are labels and as many were retrieved."""
        self._require_labels()
        ks, found = wholes("ks", ks, least=1), self.ranked.shape[1]
        if max(ks) > found and found < len(set(self.test.database) - set(self.skipped)):
            raise ValueError(f"{found} were retrieved for each query, too few for recall@{max(ks)}")
        return ks

    def _require_labels(self) -> None:
        if self.positives is None:
            raise ValueError(f"{self.test.name}: {UNLABELLED}")


def retrieve(
    model: nn.Module, test: TestSet, k: int = 10, database: np.ndarray | None = None, **options
) -> Retrieval:
    """Describe and search a test set, be it labelled or not.

    `database`: descriptors of its database, (N, D), where they are known; test sets may share one.
    With `on_error="skip"`, a damaged database image is never found, and a damaged query finds
    nothing (-1), which counts as a failure: no damage makes a recall look better. The other
    options are those of `describe`, too.
    """
    k = whole("k", k, least=1)
    if database is None:
        database = describe(model, test.database, **options)
    queries = describe(model, test.queries, **options)
    return retrieve_described(test, database, queries, k)


def retrieve_described(
    test: TestSet, database: np.ndarray, queries: np.ndarray, k: int
) -> Retrieval:
    """Search a test set by its descriptors (N, D) and (Q, D), as `describe` gives them."""
    if len(database) != (wanted := len(test.database)):
        raise ValueError(
            f"{len(database)} descriptors of the {wanted} database images of {test.name}"
        )
    similarities, ranked = search(database, queries, k)
    if not ranked.shape[1]:  # all of the database is damaged
        similarities, ranked = np.full((len(queries), 1), -np.inf), np.full((len(queries), 1), -1)
    truth = None
    if test.labelled:
        truth = positives(test.database_utm, test.query_utm, test.threshold)
    skipped = [*skipped_images(test.database, database), *skipped_images(test.queries, queries)]
    return Retrieval(test, ranked, similarities, truth, skipped)


def evaluate(
    model: nn.Module,
    test: TestSet,
    ks: Sequence[int] = (1, 5, 10),
    *,
    interval: float | None = None,
    **options,
) -> ResultsTable:
    """Recall of a model on a test set, for each condition and for all queries together.

    Options as of `retrieve`.

    Returns:
        the columns of `Retrieval.table`, and which model it was: method, backbone, trained_blocks,
        mix_depth, dim, image_size (of the test). `attrs["skipped"]` lists damaged images, and
        `attrs["median_error"]` is what `Retrieval.median_error` gives.

    Raises:
        ValueError: the test set is unlabelled, or a k is no whole number from 1 on.
    """
    return judge(model, test, ks, interval, **options)[0]


def judge(
    model: nn.Module, test: TestSet, ks: Sequence[int], interval: float | None = None, **options
) -> tuple[ResultsTable, Retrieval]:
    """What `evaluate` gives, and what that is made of: `MATCHES` for each query, or more."""
    ks = wholes("ks", ks, least=1)  # all is checked before any image is described
    if interval is not None:
        checked_level(interval)
    if not test.labelled:
        raise ValueError(f"{test.name}: {UNLABELLED}")
    found = retrieve(model, test, max(*ks, MATCHES), **options)
    table, config = found.table(ks, interval), model.config
    table.attrs["skipped"] = [str(path) for path in found.skipped]
    table.attrs["median_error"] = found.median_error()
    table = table.assign(
        method=config.aggregator,
        backbone=config.backbone,
        trained_blocks=config.trained_blocks,
        mix_depth=config.mix_depth if config.aggregator == "mix" else pd.NA,
        dim=model.dim,
        image_size=size_text(model.size_for(options.get("image_size"))),
    )
    return table, found
