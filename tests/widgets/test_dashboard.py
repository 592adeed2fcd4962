"""Summaries of a results table against averages by hand, charts read back, and the controls."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from dinomix.study.results import COLUMNS, intervals, save_results
from dinomix.widgets.dashboard import (
    Ablation,
    ablation_chart,
    ablation_dashboard,
    gather_results,
    passing,
)

RECALLS = {  # (mix_depth, condition, k, seed) -> recall
    (0, "day", 1, 0): 10.0,
    (0, "night", 1, 0): 20.0,
    (2, "day", 1, 0): 40.0,
    (2, "night", 1, 0): 20.0,
    (2, "day", 1, 1): 60.0,
    (2, "night", 1, 1): 30.0,
    (2, "day", 5, 0): 90.0,
    (10, "day", 1, 0): 50.0,
    (10, "night", 1, 0): 30.0,
    (None, "day", 1, 0): 5.0,
    (None, "night", 1, 0): 3.0,
    (None, "all", 1, 0): 4.0,
}


def results() -> pd.DataFrame:
    rows = []
    for (depth, condition, k, seed), recall in RECALLS.items():
        row = dict.fromkeys(COLUMNS, "x") | {"queries": 9, "without_positives": 0, "trained": 7}
        row |= {"parameters": 8, "epoch": 3, "val_recall": np.nan, "trained_blocks": 3, "dim": 512}
        row |= {"method": "GeM" if depth is None else "mix", "mix_depth": depth, "seed": seed}
        rows.append(row | {"condition": condition, "k": k, "recall": recall})
    return pd.DataFrame(rows).astype({"mix_depth": "Int64"})


ONE = {"k": ["1"], "condition": ["mean"]}


def test_means_and_spread_over_seeds():
    found = Ablation(results()).summary(["mix_depth"], "recall", ONE)
    assert found["mix_depth"].tolist() == ["0", "2", "10", "none"]  # by number, not by letter
    assert found["mean"].tolist() == [15, 37.5, 40, 4]
    assert found["low"].tolist() == [15, 30, 40, 4] and found["high"].tolist() == [15, 45, 40, 4]
    assert found["seeds"].tolist() == [1, 2, 1, 1]


def test_filters_axes_and_what_is_averaged():
    ablation = Ablation(results())
    only = {"k": ["1"], "mix_depth": ["2"], "condition": ["day", "night"]}
    found = ablation.summary(["condition", "seed"], "recall", only)
    assert found["mean"].tolist() == [40, 60, 20, 30]
    assert ablation.averaged(["condition", "seed"], "recall", only) == {}
    found = ablation.summary(["method"], "recall", only)
    assert found["mean"].tolist() == [(30 + 45) / 2] and found["low"].tolist() == [30]
    assert ablation.averaged(["method"], "recall", only) == {"condition": ["day", "night"]}
    assert ablation.summary(["method"], "val_recall", only).empty
    assert ablation.chosen({"k": []}).shape == ablation.table.shape


def test_tables_are_gathered_and_others_left_out(tmp_path):
    assert gather_results(tmp_path).empty
    save_results([results()], tmp_path / "toy" / "04_mixer_depth.csv")
    save_results([results()], tmp_path / "demo" / "03_bench.csv")
    pd.DataFrame({"backbone": ["a"], "flops": [1]}).to_csv(tmp_path / "costs.csv", index=False)
    old = results().drop(columns="image_size")
    old.to_csv(tmp_path / "toy" / "09_older.csv", index=False)
    found = gather_results(tmp_path)
    assert found["study"].unique().tolist() == ["bench", "mixer depth", "older"]
    assert found["val_recall"].isna().all() and found["val_recall"].dtype == float
    ablation = Ablation(found)
    assert ablation.values["mix_depth"] == ["0", "2", "10", "none"]
    assert ablation.values["condition"] == ["all", "day", "mean", "night"]
    both = ablation.summary(["study"], "recall", {**ONE, "mix_depth": ["2"]})
    assert both["mean"].tolist() == [37.5] * 3


def test_what_is_no_results_table_is_named():
    with pytest.raises(ValueError, match=r"lacks the columns \['k', 'recall'\]"):
        Ablation(results().drop(columns=["k", "recall"]))


def test_chart_joins_numbers_and_shows_the_spread():
    ablation = Ablation(results())
    filters = {**ONE, "method": ["mix"]}
    figure = ablation_chart(
        ablation.summary(["mix_depth"], "recall", filters), "mix_depth", None, None, "R@1 (%)"
    )
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ["0", "2", "10"]
    line, _, (bars,) = axis.containers[0]
    assert line.get_linestyle() == "-" and axis.get_ylabel() == "R@1 (%)"
    np.testing.assert_allclose(line.get_xydata(), [[0, 15], [1, 37.5], [2, 40]])
    np.testing.assert_allclose(bars.get_segments()[1], [[1, 30], [1, 45]])


def test_equal_seeds_have_a_mark_although_their_mean_rounds():
    seeds = {"mix_depth": ["2"], "mean": [95.83333333333333], "low": 95.83333333333334}
    summary = pd.DataFrame(seeds | {"high": 95.83333333333334})
    (axis,) = ablation_chart(summary, "mix_depth", None, None, "R@1 (%)").axes
    assert len(axis.containers) == 1


def test_chart_has_a_panel_and_a_colour_for_each_value():
    ablation = Ablation(results())
    filters = {"condition": ["day", "night"], "k": ["1"]}
    summary = ablation.summary(["method", "seed", "condition"], "recall", filters)
    figure = ablation_chart(summary, "method", "seed", "condition", "recall (%)")
    day, night = figure.axes
    assert (day.get_title(), night.get_title()) == ("day", "night")
    assert [container.get_label() for container in day.containers] == ["0", "1"]
    first, second = (container[0] for container in night.containers)
    assert first.get_linestyle() == "None" and first.get_color() != second.get_color()
    mix = [text.get_text() for text in night.get_xticklabels()].index("mix")
    assert first.get_xydata()[1, 0] < mix < second.get_xydata()[0, 0]  # side by side
    np.testing.assert_allclose(second.get_xydata()[:, 1], [30])


def rows_of(study: str, dataset: str, profile: str) -> list[dict]:
    rows = []
    for method, condition, k, seed in product("ab", ("day", "night"), (1, 5), (0, 1)):
        recall = 10.0 * k + seed + 5 * (method == "b") + 2 * (condition == "night")
        row = {"study": study, "dataset": dataset, "profile": profile, "method": method}
        rows.append(row | {"condition": condition, "k": k, "seed": seed, "recall": recall})
    return rows


@pytest.fixture
def table():
    rows = rows_of("03_first", "town", "demo") + rows_of("04_then", "city", "toy")
    return pd.DataFrame(rows)


def test_begins_with_one_study_data_set_and_k(table):
    view = ablation_dashboard(table)
    marked = {name: filter.value for name, filter in view.filters.items() if filter.value}
    first = {"study": ("03_first",), "dataset": ("town",), "k": ("1",), "condition": ("mean",)}
    assert marked == first
    assert view.message.value == "" and view.chart.value
    assert "2 points" in view.status.value and "averaged over" not in view.status.value
    assert "11.5" in view.table.value and "16.5" in view.table.value


def test_what_is_asked_for_is_marked_and_the_rest_fits_it(table):
    view = ablation_dashboard(table, marked={"profile": ["toy", "missing"], "k": ["5"]})
    marked = {name: filter.value for name, filter in view.filters.items() if filter.value}
    assert marked == {
        **{"profile": ("toy",), "study": ("04_then",), "dataset": ("city",)},
        **{"k": ("5",), "condition": ("mean",)},
    }
    view = ablation_dashboard(table, marked={"profile": ["missing"], "weather": ["wet"]})
    assert view.filters["study"].value == ("03_first",) and "2 points" in view.status.value


def test_axes_and_filters_redraw(table):
    view = ablation_dashboard(table)
    drawn = {view.chart.value}
    for change in (
        lambda: setattr(view.x, "value", "seed"),
        lambda: setattr(view.hue, "value", "method"),
        lambda: setattr(view.filters["condition"], "value", ["night"]),
        lambda: setattr(view.panel, "value", "condition"),
        lambda: setattr(view.filters["k"], "value", ["5"]),
    ):
        change()
        assert view.message.value == ""
        assert view.chart.value not in drawn
        drawn.add(view.chart.value)
    assert "4 points" in view.status.value


def test_what_is_averaged_nothing_left_and_nothing_there_are_said(table, tmp_path):
    view = ablation_dashboard(table)
    view.filters["condition"].value = ["day", "night"]
    view.filters["k"].value = []
    assert "averaged over condition: day, night; averaged over k: 1, 5" in view.status.value
    view.filters["dataset"].value = ["city"]  # which study 03_first does not have
    assert "nothing is left" in view.status.value and view.chart.layout.display == "none"
    view.filters["study"].value = []
    assert view.chart.layout.display is None
    empty = ablation_dashboard(gather_results(tmp_path), marked={"profile": ["toy"]})
    assert "there are no results yet" in empty.status.value and empty.message.value == ""


def test_precision_over_recall_of_the_queries_that_pass(table):
    rng = np.random.default_rng(0)
    queries = pd.DataFrame(product(["mix", "GeM"], [0, 1], ["day", "night"], range(6)))
    queries.columns = ["method", "seed", "condition", "query"]
    queries["rank"] = pd.array(rng.integers(1, 3, len(queries)), "Int64")
    queries["group"], queries["dataset"], queries["backbone"] = queries["query"], "town", "net"
    queries["positives"], queries["confidence_margin"] = 1, rng.random(len(queries))
    wanted = {"condition": ["mean"], "k": ["1"], "seed": ["0"], "study": ["none"]}
    assert passing(queries, wanted).equals(queries[queries["seed"] == 0])
    night = passing(queries, wanted | {"condition": ["mean", "night"], "method": ["GeM"]})
    assert len(night) == 6 and set(night["condition"]) == {"night"}

    view = ablation_dashboard(table, queries=queries)
    before = view.curves.value
    assert "precision (%) over recall (%)" in before
    ends = (
        intervals(queries, [1]).set_index("method").loc["GeM", ["recall", "low", "high"]].round(1)
    )
    row = "".join(f"      <td>{number}</td>\n" for number in ["GeM", 1, *ends])
    assert "interval over groups" in view.table.value and row in view.table.value
    view.filters["condition"].value = ["night"]
    assert view.curves.value and view.curves.value != before
    assert ablation_dashboard(table).curves.layout.display == "none"
