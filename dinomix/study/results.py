"""The one tidy table that every figure is drawn from."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dinomix.plumbing.files import atomic_path
from dinomix.plumbing.tables import ALL, MEAN, mean_and_range

COLUMNS = [
    *("profile", "method", "backbone", "trained_blocks", "mix_depth", "dim"),
    "image_size",  # at which images were described
    *("dataset", "convention", "condition", "k", "recall", "queries", "without_positives"),
    *("seed", "run"),
    *("parameters", "trained"),  # of the whole model; of these, those that learned
    *("val_recall", "epoch"),  # recall@1 on the validation set; the epoch that was kept
]


def save_results(tables: list[pd.DataFrame], path: str | Path) -> pd.DataFrame:
    """Results tables joined, their columns in order, and written as CSV.

    Raises:
        ValueError: a table has other columns than `COLUMNS`.
    """
    for table in tables:
        lacking, extra = set(COLUMNS) - set(table), set(table) - set(COLUMNS)
        if lacking or extra:
            raise ValueError(
                f"no results table: it lacks the columns {sorted(lacking)} and has {sorted(extra)}"
            )
    joined = pd.concat([table[COLUMNS] for table in tables], ignore_index=True)
    with atomic_path(path) as temporary:
        joined.to_csv(temporary, index=False)
    return joined


def overall(table: pd.DataFrame, also: Sequence[str] = ()) -> pd.DataFrame:
    """One recall for each data set, method, k and seed (and `also`), under the condition "mean".

    It is the unweighted mean over the conditions of the set, or, where a set has no named
    conditions, the recall over all its queries.
    """
    named = table[table["condition"] != ALL]
    plain = table[~table["dataset"].isin(named["dataset"])]
    keys = [c for c in ("method", "backbone", "dataset", "k", "seed") if c in table]
    groups = pd.concat([named, plain]).groupby([*keys, *also], sort=False, dropna=False)
    return groups["recall"].mean().reset_index().assign(condition=MEAN)


def spread(table: pd.DataFrame) -> pd.DataFrame:
    """The tables of papers, of `overall` recall: `tables.mean_and_range` over seeds, a row a method
    and a column a k.
    """
    groups = overall(table).groupby(["dataset", "method", "k"], sort=False)["recall"]
    cells = groups.agg(mean_and_range)
    return cells.unstack("k").rename(columns="R@{}".format).rename_axis(columns=None)


def compare(table: pd.DataFrame, before: str, after: str, k: int = 1) -> str:
    """How `overall` recall@k differs between two methods, in words; a line a data set.

    Every seed agrees if each of one method is better than each of the other.
    """
    lines = []
    for dataset, found in overall(table[table["k"] == k]).groupby("dataset", sort=False):
        a, b = (found.loc[found["method"] == name, "recall"] for name in (before, after))
        lines.append(
            f"{dataset}: {before} -> {after}: R@{k} {a.mean():.1f} -> {b.mean():.1f} "
            f"({_difference(a, b)})"
        )
    return "\n".join(lines)


def leaders(table: pd.DataFrame, k: int = 1) -> str:
    """The two methods of the highest `overall` recall@k, in words; a line a data set and backbone.

    As `spread` and `compare` say it; backbones are not compared with each other.
    """
    lines = []
    found = overall(table[table["k"] == k])
    for (dataset, net), group in found.groupby(["dataset", "backbone"], sort=False):
        recalls = dict(list(group.groupby("method")["recall"]))
        best = sorted(recalls, key=lambda name: -recalls[name].mean())[:2]
        said = "; next is ".join(f"{name}: {mean_and_range(recalls[name])}" for name in best)
        if len(best) == 2:
            said += f" ({_difference(*(recalls[name] for name in best))})"
        lines.append(f"{dataset}, {net}: R@{k} is highest for {said}")
    return "\n".join(lines)


def _difference(a: pd.Series, b: pd.Series) -> str:
    apart = a.max() < b.min() or b.max() < a.min()
    verdict = "every seed agrees" if apart else "the seeds overlap"
    if min(len(a), len(b)) < 2:
        verdict = "one seed, so chance is unknown"
    return f"{b.mean() - a.mean():+.1f}, {verdict}"
