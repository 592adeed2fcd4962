"""Recall@k: which queries find a database image of their place among the first k."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import KDTree
from torch import nn

from dinomix.data import TestSet
from dinomix.images import size_text
from dinomix.plumbing.configs import real, whole, wholes
from dinomix.plumbing.tables import ALL, ResultsTable
from dinomix.retrieval import describe, search, skipped_images

COLUMNS = ["dataset", "convention", "condition", "k", "recall", "queries", "without_positives"]
UNLABELLED = (
    "it is unknown where these images were taken, so nothing can be right or wrong: retrieve "
    "works, recall does not. `datasets.layouts` lists how positions can be given."
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
    right = [np.isin(row, truth) for row, truth in zip(ranked, positives_of, strict=True)]
    return np.array(right).reshape(ranked.shape)


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

    def table(self, ks: Sequence[int] = (1, 5, 10)) -> ResultsTable:
        """A row for each k, of each condition and of all queries together.

        Columns: `COLUMNS`; recall in percent. `without_positives` counts queries that nothing
        could be right for: failures.

        Raises:
            ValueError: the test set is unlabelled, or fewer were retrieved than a k asks for.
        """
        if self.positives is None:
            raise ValueError(f"{self.test.name}: {UNLABELLED}")
        ks = wholes("ks", ks, least=1)
        found = self.ranked.shape[1]
        if max(ks) > found and found < len(set(self.test.database) - set(self.skipped)):
            raise ValueError(f"{found} were retrieved for each query, too few for recall@{max(ks)}")

        conditions = np.array(self.test.conditions)
        groups = {name: conditions == name for name in dict.fromkeys(self.test.conditions) if name}
        groups[ALL] = np.ones(len(conditions), dtype=bool)
        rows = []
        for condition, chosen in groups.items():
            truth = [self.positives[i] for i in np.flatnonzero(chosen)]
            lost = sum(not len(t) for t in truth)
            for k, recall in recall_at_k(self.ranked[chosen], truth, ks).items():
                which = self.test.name, self.test.convention, condition
                rows.append((*which, k, recall, len(truth), lost))
        return ResultsTable(rows, columns=COLUMNS)


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
    truth = None
    if test.labelled:
        truth = positives(test.database_utm, test.query_utm, test.threshold)
    skipped = [*skipped_images(test.database, database), *skipped_images(test.queries, queries)]
    return Retrieval(test, ranked, similarities, truth, skipped)


def evaluate(
    model: nn.Module, test: TestSet, ks: Sequence[int] = (1, 5, 10), **options
) -> ResultsTable:
    """Recall of a model on a test set, for each condition and for all queries together.

    Options as of `retrieve`.

    Returns:
        the columns of `Retrieval.table`, and which model it was: method, backbone, trained_blocks,
        mix_depth, dim, image_size (of the test). `attrs["skipped"]` lists damaged images.

    Raises:
        ValueError: the test set is unlabelled, or a k is no whole number from 1 on.
    """
    ks = wholes("ks", ks, least=1)
    if not test.labelled:  # said before any image is described
        raise ValueError(f"{test.name}: {UNLABELLED}")
    found = retrieve(model, test, max(ks), **options)
    table, config = found.table(ks), model.config
    table.attrs["skipped"] = [str(path) for path in found.skipped]
    return table.assign(
        method=config.aggregator,
        backbone=config.backbone,
        trained_blocks=config.trained_blocks,
        mix_depth=config.mix_depth if config.aggregator == "mix" else pd.NA,
        dim=model.dim,
        image_size=size_text(model.size_for(options.get("image_size"))),
    )
