import numpy as np
import pandas as pd
import pytest

from dinomix.evaluation import ALL
from dinomix.statistics import bootstrap, paired
from dinomix.study.results import (
    COLUMNS,
    answers,
    compare,
    intervals,
    leaders,
    overall,
    read_queries,
    save_results,
    save_table,
    spread,
)


def row(**values):
    return {**dict.fromkeys(COLUMNS, 0), "k": 1, **values}


def test_tables_are_joined_and_written_in_one_order(tmp_path):
    a = pd.DataFrame([row(method="a", recall=50.0)])[COLUMNS[::-1]]
    b = pd.DataFrame([row(method="b", recall=60.0)])
    path = tmp_path / "results" / "table.csv"
    joined = save_results([a, b], path)
    assert list(joined.columns) == COLUMNS and joined["method"].tolist() == ["a", "b"]
    pd.testing.assert_frame_equal(pd.read_csv(path), joined)
    with pytest.raises(ValueError, match=r"\['seed'\].*\['sead'\]"):
        save_results([a.rename(columns={"seed": "sead"})], tmp_path / "other.csv")
    assert not (tmp_path / "other.csv").exists()


RECALLS = pd.DataFrame(
    [
        row(dataset="city", method="z", condition="night", recall=10.0, seed=0),
        row(dataset="city", method="z", condition="day", recall=90.0, seed=0),
        row(dataset="city", method="z", condition=ALL, recall=1.0, seed=0),
        row(dataset="city", method="z", condition="night", recall=20.0, seed=1),
        row(dataset="city", method="z", condition="day", recall=100.0, seed=1),
        row(dataset="city", method="z", condition=ALL, recall=1.0, seed=1),
        row(dataset="city", method="a", condition="night", recall=5.0),
        row(dataset="city", method="a", condition="day", recall=80.0),
        row(dataset="city", method="a", condition="day", recall=98.0, k=5),
        row(dataset="plain", method="a", condition=ALL, recall=33.0),
    ]
)


def test_overall_is_the_mean_over_conditions_or_all_queries():
    mean = overall(RECALLS).set_index(["dataset", "method", "k", "seed"])["recall"]
    assert mean.to_dict() == {
        ("city", "z", 1, 0): 50.0,
        ("city", "z", 1, 1): 60.0,
        ("city", "a", 1, 0): 42.5,
        ("city", "a", 5, 0): 98.0,
        ("plain", "a", 1, 0): 33.0,
    }
    # and what it is told to tell apart stays apart

    table = pd.concat([RECALLS.assign(dim=64), RECALLS.assign(dim=128, recall=7.0)])
    assert len(overall(table, also=["dim"])) == 2 * len(overall(RECALLS))
    depths = pd.concat([RECALLS.assign(mix_depth=pd.NA), RECALLS.assign(mix_depth=2)])
    assert len(overall(depths, also=["mix_depth"])) == 2 * len(overall(RECALLS))


def test_spread_shows_mean_lowest_and_highest():
    wide = spread(RECALLS)
    assert wide.columns.tolist() == ["R@1", "R@5"]
    assert wide.loc[("city", "z"), "R@1"] == "55.0 [50.0, 60.0]"
    assert wide.loc[("city", "a")].tolist() == ["42.5", "98.0"]
    assert wide.index.tolist() == [("city", "z"), ("city", "a"), ("plain", "a")]


def seeds(method, *recalls):
    return [
        row(dataset="city", method=method, condition="day", recall=recall, seed=seed)
        for seed, recall in enumerate(recalls)
    ]


@pytest.mark.parametrize(
    ("recalls", "words"),
    [
        ((20.0, 24.0), "R@1 12.0 -> 22.0 (+10.0, every seed agrees)"),
        ((4.0, 8.0), "R@1 12.0 -> 6.0 (-6.0, every seed agrees)"),
        ((14.0, 24.0), "R@1 12.0 -> 19.0 (+7.0, the seeds overlap)"),
        ((40.0,), "R@1 12.0 -> 40.0 (+28.0, one seed, so chance is unknown)"),
    ],
)
def test_compare_says_whether_seeds_agree(recalls, words):
    table = pd.DataFrame([*seeds("a", 10.0, 14.0), *seeds("b", *recalls)])
    assert compare(table, "a", "b") == f"city: a -> b: {words}"


def test_leaders_are_those_of_each_data_set_and_backbone():
    table = pd.DataFrame([*seeds("a", 10.0, 14.0), *seeds("b", 20.0, 24.0), *seeds("c", 9.0, 30.0)])
    assert leaders(table.assign(backbone="net")) == (
        "city, net: R@1 is highest for b: 22.0 [20.0, 24.0]; "
        "next is c: 19.5 [9.0, 30.0] (-2.5, the seeds overlap)"
    )
    other = table[table["method"] == "a"].assign(backbone="other", method="d")
    lines = leaders(pd.concat([other, table.assign(backbone="net")])).splitlines()
    assert lines[0] == "city, other: R@1 is highest for d: 12.0 [10.0, 14.0]" and len(lines) == 2
    one = table[table["seed"] == 0].assign(backbone="net")
    assert leaders(one).endswith(
        "for b: 20.0; next is a: 10.0 (-10.0, one seed, so chance is unknown)"
    )


@pytest.fixture
def asked():
    """Recalls of two methods and two seeds on two conditions, and the queries they are of."""
    rng, rows, tables = np.random.default_rng(0), [], []
    for method, share in (("a", 0.4), ("b", 0.7)):
        for seed in (0, 1):
            table = pd.DataFrame({"query": [f"{i}.jpg" for i in range(40)]})
            table["group"] = [f"place {i // 2 % 15}" for i in range(40)]
            table["condition"] = ["day"] * 30 + ["night"] * 10
            ranks = np.where(rng.random(40) < share, 1, rng.integers(2, 9, 40))
            table["rank"] = pd.array(ranks, "Int64").astype("Int64")
            table.loc[rng.random(40) < 0.2, "rank"] = pd.NA
            which = {"dataset": "city", "method": method, "backbone": "net", "seed": seed}
            tables.append(table.assign(**which))
            for (condition, k), part in [
                ((c, k), p) for c, p in table.groupby("condition") for k in (1, 5)
            ]:
                recall = 100 * (part["rank"] <= k).fillna(False).mean()
                rows.append(row(**which, condition=condition, recall=recall) | {"k": k})
    return pd.DataFrame(rows), pd.concat(tables, ignore_index=True)


def test_answers_are_shares_of_seeds_and_conditions_weigh_the_same(asked):
    table, queries = asked
    wide = answers(queries)
    for method in ("a", "b"):
        mean = np.average(wide[method], weights=wide["weight"])
        own = overall(table[(table["k"] == 1) & (table["method"] == method)])["recall"]
        assert 100 * mean == pytest.approx(own.mean())
    one = queries[(queries["method"] == "a") & (queries["query"] == "3.jpg")]
    assert wide["a"].xs("3.jpg", level="query").item() == (one["rank"] == 1).fillna(False).mean()
    found = intervals(queries, [5]).set_index("method")
    five = answers(queries, 5)
    ends = bootstrap(five["b"], five["group"], weights=five["weight"])
    assert found.loc["b", ["low", "high"]].tolist() == pytest.approx([100 * end for end in ends])
    kept = overall(intervals(queries, [1, 5]))
    assert kept[["low", "high"]].notna().all(axis=None)
    with pytest.raises(ValueError, match="a and b were not asked the same queries: 2 of 41"):
        answers(
            queries.replace({"query": {"3.jpg": "x.jpg"}}).assign(
                query=lambda t: t["query"].where(
                    t["method"].eq("a") | t["query"].ne("x.jpg"), "3.jpg"
                )
            )
        )


def test_differences_are_tested_over_groups_of_queries(asked):
    table, queries = asked
    wide = answers(queries)
    test = paired(wide["a"], wide["b"], wide["group"], weights=wide["weight"])
    p = "p < 0.001" if test.p < 0.001 else f"p = {test.p:.3f}"
    words = f"[{100 * test.low:+.1f}, {100 * test.high:+.1f}] over 15 groups of 40 queries, {p}; "
    said = compare(table, "a", "b", queries=queries)
    assert f"({100 * test.difference:+.1f} {words}" in said
    assert said.endswith(("every seed agrees)", "the seeds overlap)"))
    single = compare(table[table["seed"] == 0], "a", "b", queries=queries[queries["seed"] == 0])
    assert single.endswith("; one seed)")
    other = queries.assign(backbone="other", rank=9)  # methods of the same names on another
    assert compare(table, "a", "b", queries=pd.concat([queries, other])) == said
    night = compare(table[table["condition"] == "night"], "a", "b", queries=queries)
    assert "over 5 groups of 10 queries" in night
    alone = queries.assign(group=queries["query"])
    assert "over 40 queries, p" in compare(table, "a", "b", queries=alone)
    assert " over 15 groups of 40 queries, p" in leaders(table, queries=queries)
    cells = spread(table, queries)
    assert list(cells) == ["R@1", "R@1, queries", "R@5", "R@5, queries"]
    ends = intervals(queries, [1]).set_index("method").loc["b"]
    assert cells.loc[("city", "b"), "R@1, queries"] == f"[{ends['low']:.1f}, {ends['high']:.1f}]"


@pytest.mark.parametrize("name", ["q.csv", "q.csv.gz"])
def test_queries_are_read_as_they_were_written(asked, tmp_path, name):
    _, queries = asked
    queries.loc[0, ["query", "condition"]] = "NA", ""  # texts, and not a missing value
    queries.loc[1, "query"] = "\udcff.jpg"  # of a file system in another encoding
    save_table(queries, tmp_path / name)
    pd.testing.assert_frame_equal(read_queries(tmp_path / name), queries)
    first = (tmp_path / name).read_bytes()
    save_table(queries, tmp_path / name)
    assert (tmp_path / name).read_bytes() == first


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "No columns to parse"),
        ("query,condition,rank\na,,1\n", r"it lacks the columns \['group'\]"),
        ("query,group,condition,rank\n", "rows should name a query, its group"),
        ("query,group,condition,rank\na,,,1\n", "rows should name a query, its group"),
        ("query,group,condition,rank\na,b,,0\n", "a rank from 1 on or none"),
        ("query,group,condition,rank\na,b,,first\n", "first"),
    ],
)
def test_what_is_no_table_of_queries_is_named(tmp_path, text, complaint):
    (tmp_path / "q.csv").write_text(text)
    with pytest.raises(ValueError, match=f"q.csv is no table of queries: .*{complaint}"):
        read_queries(tmp_path / "q.csv")
