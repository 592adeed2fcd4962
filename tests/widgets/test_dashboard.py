"""The dashboard's controls on a made table."""

import pandas as pd
import pytest

from dinomix.widgets.dashboard import ablation_dashboard, gather_results


def results(study: str, dataset: str, profile: str) -> list[dict]:
    return [
        {
            **{"study": study, "dataset": dataset, "profile": profile, "method": method},
            **{
                "condition": condition,
                "k": k,
                "seed": seed,
                "recall": 10.0 * k + seed + shift + 2 * (condition == "night"),
            },
        }
        for method, shift in (("a", 0), ("b", 5))
        for condition in ("day", "night")
        for k in (1, 5)
        for seed in (0, 1)
    ]


@pytest.fixture
def table():
    rows = results("03_first", "town", "demo") + results("04_then", "city", "toy")
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


def test_what_is_averaged_is_named(table):
    view = ablation_dashboard(table)
    view.filters["condition"].value = ["day", "night"]
    view.filters["k"].value = []
    assert "averaged over condition: day, night; averaged over k: 1, 5" in view.status.value


def test_nothing_left_and_nothing_there_are_said(table, tmp_path):
    view = ablation_dashboard(table)
    view.filters["dataset"].value = ["city"]  # which study 03_first does not have
    assert "nothing is left" in view.status.value and view.chart.layout.display == "none"
    view.filters["study"].value = []
    assert view.chart.layout.display is None
    empty = ablation_dashboard(gather_results(tmp_path), marked={"profile": ["toy"]})
    assert "there are no results yet" in empty.status.value and empty.message.value == ""
