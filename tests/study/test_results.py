import pandas as pd
import pytest

from dinomix.evaluation import ALL
from dinomix.study.results import COLUMNS, compare, leaders, overall, save_results, spread


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
