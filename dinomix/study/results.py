"""The one tidy table that every figure is drawn from, and beside it which queries were right."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dinomix.plumbing.files import atomic_path
from dinomix.plumbing.tables import ALL, MEAN, mean_and_range
from dinomix.statistics import bootstrap, paired

COLUMNS = [
    *("profile", "method", "backbone", "trained_blocks", "mix_depth", "dim"),
    "image_size",  # at which images were described
    *("dataset", "convention", "condition", "k", "recall", "queries", "without_positives"),
    *("seed", "run"),
    *("parameters", "trained"),  # of the whole model; of these, those that learned
    *("val_recall", "epoch"),  # recall@1 on the validation set; the epoch that was kept
]
QUERIES = ".queries.csv.gz"  # how the table of queries ends that lies beside <name>.csv
# Of what `Study.queries` gives, all that tests of differences read.
QUERY_COLUMNS = ["dataset", "method", "backbone", "seed", "condition", "query", "group", "rank"]


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
    save_table(joined, path)
    return joined


def save_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV, packed where the path ends in .gz; all of it or nothing."""
    text = table.to_csv(index=False).encode(errors="surrogateescape")
    with atomic_path(path) as temporary:  # a packed file holds no name or time: bytes are the same
        temporary.write_bytes(gzip.compress(text, mtime=0) if f"{path}".endswith(".gz") else text)


def read_queries(path: str | Path) -> pd.DataFrame:
    """What `Study` or `dinomix evaluate --per-query` wrote.

    Raises:
        ValueError: it is something else, without queries or one of the columns query, group,
            condition and rank (from 1, or empty).
    """
    kinds = {**dict.fromkeys(QUERY_COLUMNS, str), "seed": int, "rank": "Int64"}
    text = {"keep_default_na": False, "na_values": [""], "encoding_errors": "surrogateescape"}
    try:
        table = pd.read_csv(path, dtype=kinds, **text)
        if lacking := {"query", "group", "condition", "rank"} - set(table):
            raise ValueError(f"it lacks the columns {sorted(lacking)}")
        named = table[["query", "group"]].notna().all(axis=None)
        if table.empty or not named or not table["rank"].dropna().ge(1).all():
            raise ValueError("rows should name a query, its group, and a rank from 1 on or none")
    except ValueError as error:
        raise ValueError(f"{path} is no table of queries: {error}") from error
    table = table.fillna({"condition": ""})
    return table if "dataset" in table else table.assign(dataset="")


def queries_beside(path: Path) -> pd.DataFrame | None:
    """The table of queries of a saved table of results; None where there is none."""
    beside = path.with_name(path.stem + QUERIES)
    return read_queries(beside) if beside.is_file() else None


def answers(queries: pd.DataFrame, k: int = 1) -> pd.DataFrame:
    """How often each method is right about each query within its first k, over seeds.

    As `overall` counts: of a data set with named conditions, the queries of these.

    Returns:
        a row a query of one data set, with columns group, weight (all conditions together weigh
        the same) and, under their names, the methods: float from 0 to 1.

    Raises:
        ValueError: the methods were asked different queries.
    """
    if queries["condition"].ne("").any():
        queries = queries[queries["condition"] != ""]
    right = (queries["rank"] <= k).fillna(False).astype(float)
    keys = [queries[name] for name in ("condition", "query", "group")]
    wide = right.groupby([*keys, queries["method"]], sort=False).mean().unstack()  # by method
    if lonely := int(wide.isna().any(axis=1).sum()):
        raise ValueError(
            f"{' and '.join(wide)} were not asked the same queries: {lonely} of {len(wide)} are "
            "of one only. Evaluate both on one test set"
        )
    count = wide.groupby(level="condition").transform("size")
    wide.insert(0, "weight", 1 / count)
    return wide.reset_index("group")


def intervals(queries: pd.DataFrame, ks: Sequence[int] = (1, 5, 10)) -> pd.DataFrame:
    """`overall` recall, the mean over seeds, with the 95 % interval over (groups of) queries.

    Columns dataset, backbone, method, condition ("mean"), k, recall, low and high, in percent.
    """
    rows = []
    names = ["dataset", "backbone", "method"]
    for which, asked in queries.groupby(names, sort=False):
        for k in ks:
            wide = answers(asked, k)
            right, options = wide[which[-1]], {"weights": wide["weight"]}
            ends = bootstrap(right, wide["group"], **options)
            recall = np.average(right, **options)
            rows.append((*which, MEAN, k, *(100 * share for share in (recall, *ends))))
    return pd.DataFrame(rows, columns=[*names, "condition", "k", "recall", "low", "high"])


def overall(table: pd.DataFrame, also: Sequence[str] = ()) -> pd.DataFrame:
    """One recall for each data set, method, k and seed (and `also`), under the condition "mean".

    It is the unweighted mean over the conditions of the set, or, where a set has no named
    conditions, the recall over all its queries.
    """
    named = table[table["condition"] != ALL]
    plain = table[~table["dataset"].isin(named["dataset"])]
    keys = [c for c in ("method", "backbone", "dataset", "k", "seed") if c in table]
    groups = pd.concat([named, plain]).groupby([*keys, *also], sort=False, dropna=False)
    found = groups["recall"].mean()
    if {"low", "high"} <= set(table):  # no interval follows from those of its parts
        ends = groups[["low", "high"]].first().where(groups.size() == 1)
        found = pd.concat([found, ends], axis=1)
    return found.reset_index().assign(condition=MEAN)


def spread(table: pd.DataFrame, queries: pd.DataFrame | None = None) -> pd.DataFrame:
    """The tables of papers, of `overall` recall: `tables.mean_and_range` over seeds, a row a method
    and a column a k; and, where its queries are given, beside each the interval over these.
    """
    groups = overall(table).groupby(["dataset", "method", "k"], sort=False)["recall"]
    cells = groups.agg(mean_and_range)
    wide = cells.unstack("k").rename(columns="R@{}".format).rename_axis(columns=None)
    if queries is None:
        return wide
    ends = intervals(queries, list(dict.fromkeys(table["k"])))
    ends["text"] = [f"[{low:.1f}, {high:.1f}]" for low, high in ends[["low", "high"]].to_numpy()]
    asked = ends.pivot(index=["dataset", "method"], columns="k", values="text")
    asked = asked.rename(columns="R@{}, queries".format)
    return wide.join(asked)[[name for k in asked for name in (k.removesuffix(", queries"), k)]]


def compare(
    table: pd.DataFrame, before: str, after: str, k: int = 1, queries: pd.DataFrame | None = None
) -> str:
    """How `overall` recall@k differs between two methods, in words; a line a data set.

    With the table's queries: the 95 % interval of the difference, and how often chance does as
    much, by `statistics.paired` over groups of queries, each right as often as over seeds. That is
    about queries; about training, every seed agrees if each of one method is better than each of
    the other.
    """
    lines = []
    for dataset, rows in table[table["k"] == k].groupby("dataset", sort=False):
        means = overall(rows).groupby("method")["recall"].mean()
        lines.append(
            f"{dataset}: {before} -> {after}: R@{k} {means[before]:.1f} -> {means[after]:.1f} "
            f"({_difference(rows, before, after, k, queries)})"
        )
    return "\n".join(lines)


def leaders(table: pd.DataFrame, k: int = 1, queries: pd.DataFrame | None = None) -> str:
    """The two methods of the highest `overall` recall@k, in words; a line a data set and backbone.

    As `spread` and `compare` say it; backbones are not compared with each other. The test is of
    these two as if nobody had picked them.
    """
    lines = []
    for (dataset, net), rows in table[table["k"] == k].groupby(["dataset", "backbone"], sort=False):
        recalls = dict(list(overall(rows).groupby("method")["recall"]))
        best = sorted(recalls, key=lambda name: -recalls[name].mean())[:2]
        said = "; next is ".join(f"{name}: {mean_and_range(recalls[name])}" for name in best)
        if len(best) == 2:
            said += f" ({_difference(rows, *best, k, queries)})"
        lines.append(f"{dataset}, {net}: R@{k} is highest for {said}")
    return "\n".join(lines)


def _difference(
    rows: pd.DataFrame, before: str, after: str, k: int, queries: pd.DataFrame | None
) -> str:
    """Of two methods in the rows of one data set."""
    found = overall(rows)
    a, b = (found.loc[found["method"] == name, "recall"] for name in (before, after))
    apart = a.max() < b.min() or b.max() < a.min()
    verdict = "every seed agrees" if apart else "the seeds overlap"
    if min(len(a), len(b)) < 2:
        verdict = "one seed, so chance is unknown" if queries is None else "one seed"
    said = f"{b.mean() - a.mean():+.1f}"
    if queries is None:
        return f"{said}, {verdict}"
    asked = queries[queries["method"].isin([before, after])]
    for column in ("dataset", "backbone"):  # of these rows alone
        asked = asked[asked[column].isin(rows[column])]
    if set(rows["condition"]) - {ALL}:
        asked = asked[asked["condition"].isin(rows["condition"])]
    wide = answers(asked, k)
    test = paired(wide[before], wide[after], wide["group"], weights=wide["weight"])
    count, groups = f"{len(wide):,} queries", wide["group"].nunique()
    over = count if groups == len(wide) else f"{groups:,} group{'s' * (groups > 1)} of {count}"
    p = "p < 0.001" if test.p < 0.001 else f"p = {test.p:.3f}"
    return f"{said} [{100 * test.low:+.1f}, {100 * test.high:+.1f}] over {over}, {p}; {verdict}"
