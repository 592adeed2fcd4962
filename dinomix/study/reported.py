"""What others report: numbers to stand beside measured ones, never among them.

From the DINO-Mix paper (Sci Rep 14, 22100, 2024), its authors' published code and logs, and the
repositories of the other methods. Recall in percent lies in `reported.csv`; what counts as right in
`reported_sets.csv`: its first six test sets are the paper's (Table 2), and others of nearly the
same names cannot be compared with these. What a method is, and the source, stands in
`reported_methods.csv`, empty where the source does not say it. No method is here whose descriptor
of a query depends on the other queries.
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


def methods() -> pd.DataFrame:
    """The methods: dimension, image_size, training_data, source; text, a row each."""
    path = Path(__file__).with_name("reported_methods.csv")
    return pd.read_csv(path, dtype=str).fillna("").set_index("method").rename_axis(None)


def recalls() -> pd.DataFrame:
    """Columns method, dataset, convention, k, recall: what is reported, and only that."""
    table = _read("reported.csv")  # as papers print them: a column for each k
    table.insert(2, "convention", table["dataset"].map(test_sets()["convention"]))
    facts = ["method", "dataset", "convention"]
    table = table.melt(facts, var_name="k", value_name="recall", ignore_index=False).dropna()
    return table.sort_index(kind="stable").astype({"k": int}).reset_index(drop=True)


def table() -> pd.DataFrame:
    """`recalls` as papers print them, R@1 / R@5 / R@10 in a cell, beside what each method is."""
    numbers = _read("reported.csv").set_index(["method", "dataset"])
    texts = numbers.map("{:g}".format, na_action="ignore").fillna("-")  # a R@5 that is not reported
    cells = texts.agg(" / ".join, axis=1).str.removesuffix(" / - / -")
    wide = cells.unstack().reindex(columns=test_sets().index)
    return methods().drop(columns="source").join(wide).fillna("")
