"""The one tidy table that every figure is drawn from."""

from pathlib import Path

import pandas as pd

from dinomix.storage import atomic_path

COLUMNS = [
    "profile",
    "method",
    "backbone",
    "trained_blocks",
    "mix_depth",
    "dim",
    "dataset",
    "convention",
    "condition",
    "k",
    "recall",
    "queries",
    "without_positives",
    "seed",
    "run",
]


def save_results(tables: list[pd.DataFrame], path: str | Path) -> pd.DataFrame:
    """Join results tables, put their columns in order, write them as CSV, and give them back.

    Raises:
        ValueError: a table has other columns than `COLUMNS`; both sides of the difference are
            named.
    """
    for table in tables:
        if set(table.columns) != set(COLUMNS):
            raise ValueError(
                "not a results table: it lacks the columns "
                f"{sorted(set(COLUMNS) - set(table.columns))} and has in addition "
                f"{sorted(set(table.columns) - set(COLUMNS))}."
            )
    joined = pd.concat([table[COLUMNS] for table in tables], ignore_index=True)
    with atomic_path(path) as temporary:
        joined.to_csv(temporary, index=False)
    return joined


def pivot(table: pd.DataFrame, k: int = 1) -> pd.DataFrame:
    """Recall@k as people read it: a row for each method, a column for each condition.

    The columns follow the order in which conditions first stand in `table`; several seeds are
    averaged.
    """
    chosen = table[table["k"] == k]
    order = list(dict.fromkeys(chosen["condition"]))
    methods = list(dict.fromkeys(chosen["method"]))
    wide = chosen.pivot_table(index="method", columns="condition", values="recall", aggfunc="mean")
    return wide.loc[methods, order]
