"""What others report: numbers to stand beside measured ones, never among them.

From the DINO-Mix paper (Sci Rep 14, 22100, 2024), its authors' published code and logs, and the
README files of the other methods' repositories. Recall in percent lies in `reported.csv`, and what
counts as right in `reported_sets.csv`: its first six test sets are the paper's (Table 2), and the
last three, which others report under the same names, cannot be compared with these.
"""

from pathlib import Path

import pandas as pd

from dinomix.datasets.benchmarks import BENCHMARKS


def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(Path(__file__).with_name(name))


def test_sets() -> pd.DataFrame:
    """The test sets: database, queries, convention, challenge; a row each."""
    table = _read("reported_sets.csv").set_index("dataset").rename_axis(None)
    known = [BENCHMARKS[name] for name in table["benchmark"]]
    for counted in ("database", "queries"):
        counts = pd.Series([getattr(benchmark, counted) for benchmark in known], table.index)
        table[counted] = counts.astype("Int64").where(table["counts_stated"])
    table["challenge"] = [benchmark.challenge for benchmark in known]
    return table[["database", "queries", "convention", "challenge"]]


def recalls() -> pd.DataFrame:
    """Columns method, dataset, convention, k, recall: what is reported, and only that."""
    table = _read("reported.csv")
    table.insert(2, "convention", table["dataset"].map(test_sets()["convention"]))
    return table


def table() -> pd.DataFrame:
    """`recalls` as papers print them: a row a method, R@1 / R@5 / R@10 in each column."""
    found = recalls()
    cells = found.groupby(["method", "dataset"])["recall"].agg(
        lambda values: " / ".join(f"{value:g}" for value in values)
    )
    return cells.unstack().loc[found["method"].unique(), test_sets().index].fillna("")
