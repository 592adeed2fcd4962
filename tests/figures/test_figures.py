"""Figures are checked by what they draw, read back from the axes."""

import re
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import same_color, to_rgb
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from dinomix import figures
from dinomix.attention.heatmaps import COLOURS
from dinomix.confidence import precision_recall
from dinomix.data import TestSet
from dinomix.evaluation import Retrieval
from dinomix.figures.theme import from_zero, panels, text_colour
from dinomix.plumbing.workspace import figure_style
from dinomix.statistics import bootstrap
from dinomix.study import designs
from dinomix.study.results import QUERY_COLUMNS, intervals
from toycity import CLASSES


def marks_inside(figure: Figure) -> bool:
    """Whether no marker reaches beyond the frame of its axes."""
    figure.draw_without_rendering()
    for axis in figure.axes:
        frame = axis.get_window_extent()
        for line in axis.lines:
            if line.get_marker() in ("None", ""):
                continue
            radius = line.get_markersize() / 2 * figure.dpi / 72
            points = line.get_transform().transform(line.get_xydata())
            points = points[np.isfinite(points).all(axis=1)]
            low, high = points - radius, points + radius
            if (low < frame.min).any() or (high > frame.max).any():
                return False
    return True


def width_of(bar: Axes) -> float:
    """Inches of a colour bar, which may not be a sliver."""
    bar.figure.draw_without_rendering()
    return bar.get_window_extent().width / bar.figure.dpi


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dinov2_vitb14", "DINOv2 ViT-B/14"),
        ("dinov2_vitl14_reg", "DINOv2 ViT-L/14 with registers"),
        ("dinov3_vith16plus", "DINOv3 ViT-H+/16"),
        ("dinov3_vit7b16", "DINOv3 ViT-7B/16"),
        ("toy_vits14", "stand-in ViT-S/14"),
        ("toy_resnet", "stand-in ResNet"),
        ("timm/resnet50", "resnet50"),
        ("lowlight", "low light"),
        ("GeM, ViT", "GeM, ViT"),
    ],
)
def test_display_names(name, expected):
    assert figures.display_name(name) == expected


def test_text_has_the_higher_contrast():
    def luminance(colour):  # WCAG 2.1
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for colour in np.random.default_rng(0).random((200, 3)):
        on_black, on_white = (luminance(colour) + 0.05) / 0.05, 1.05 / (luminance(colour) + 0.05)
        if abs(on_black - on_white) > 0.1:
            assert text_colour(colour) == ("black" if on_black > on_white else "white")
    assert text_colour("tan") == "black"


@pytest.mark.parametrize(("low", "high"), [(0, 0.7), (0.65, 0.71), (0, 100), (3, 3)])
def test_an_axis_from_zero_holds_whole_marks(low, high):
    figure, ((axis,),) = panels(1, 1, ("column", 20))
    axis.plot([low, high], [low, high], "o", ms=6)
    from_zero(axis)
    start, end = axis.get_ylim()
    assert start <= 0 and end > high and marks_inside(figure)


def test_token_colours_are_principal_components():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 5, 3, 4)) * np.array([9, 5, 2, 0.1, 0.1])[:, None, None]
    colours = figures.token_colours(maps)
    assert colours.shape == (2, 3, 4, 3) and colours.min() == 0 and colours.max() == 1
    tokens = maps.transpose(0, 2, 3, 1).reshape(-1, 5)
    first = (tokens - tokens.mean(0)) @ np.linalg.eigh(np.cov(tokens.T))[1][:, -1]
    assert abs(np.corrcoef(first, colours.reshape(-1, 3)[:, 0])[0, 1]) > 0.98


def test_recall_bars_show_the_mean_of_seeds_and_of_conditions():
    recalls = {
        **{("a", "day", 0): 80.0, ("a", "night", 0): 40.0},
        **{("b", "day", 0): 90.0, ("b", "night", 0): 60.0},
        **{("b", "day", 1): 94.0, ("b", "night", 1): 70.0},
        ("b", "all", 0): 1.0,  # the row over all queries is no condition
    }
    table = pd.DataFrame(list(recalls), columns=["method", "condition", "seed"])
    table = table.assign(recall=recalls.values(), k=1, dataset="toy")
    (axis,) = figures.recall_bars(table).axes
    groups = [bars for bars in axis.containers if isinstance(bars, BarContainer)]
    assert [[bar.get_height() for bar in bars] for bars in groups] == [[80, 40, 60], [92, 65, 78.5]]
    axis.figure.draw_without_rendering()
    for text, highest in zip(axis.texts[3:], (94, 70, 82), strict=True):  # above its error bar
        assert axis.transData.inverted().transform(text.get_window_extent())[0, 1] > highest
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["day", "night", "mean"]


def test_equal_seeds_have_a_bar_although_their_mean_rounds():
    recall = 95.83333333333334
    table = pd.DataFrame({"seed": range(3), "recall": recall, "k": 1, "method": "a"})
    assert table.groupby("method")["recall"].mean()["a"] < recall
    table = table.assign(dataset="toy", condition="day")
    assert len(figures.recall_bars(table).axes[0].containers) == 2  # bars and lines


def test_training_curves_leave_out_the_untrained_row_where_there_is_no_loss():
    rows = [[0, np.nan, np.nan, 10.0, 20.0], [1, 2.0, 0.9, 20.0, 30.0], [2, 1.0, 0.5, 30.0, 40.0]]
    columns = ["epoch", "loss", "mined_share", "recall@1", "recall@5"]
    history = pd.DataFrame(rows, columns=columns)
    loss, mined, recall = figures.training_curves(history).axes
    assert loss.lines[0].get_ydata().tolist() == [2, 1]
    assert mined.lines[0].get_ydata().tolist() == [90, 50]
    assert [line.get_ydata().tolist() for line in recall.lines] == [[10, 20, 30], [20, 30, 40]]
    (legend,) = loss.figure.legends
    assert [text.get_text() for text in legend.texts] == ["R@1", "R@5"]
    assert marks_inside(loss.figure)
    assert legend.get_window_extent().y0 > recall.get_window_extent().y1  # never over the points


def test_a_damaged_query_and_what_it_did_not_find_are_gaps(test_root):
    test = TestSet(test_root)
    test.queries[0].write_bytes(b"broken")
    ranked = np.array([[-1, -1], *[[0, -1]] * 9])
    truth = [np.array([4])] * 10  # the last one, which index -1 would be
    made = Retrieval(test, ranked, np.zeros((10, 2)), truth, [test.queries[0]])
    figure = figures.comparison_rows({"one": made}, [0, 1], ["a", "b"])
    assert [len(axis.images) for axis in figure.axes] == [0, 0, 1, 1]
    frames = [axis.spines["left"] for axis in figure.axes]
    assert all(same_color(f.get_edgecolor(), figures.WRONG) for f in frames if f.get_visible())


def test_freezing_costs_and_map_draw_every_number(tmp_path):
    costs = pd.DataFrame({"trained_blocks": [0, 6] * 2, "scheme": ["x", "x", "y", "y"]})
    costs = costs.assign(activations=[0, 2, 3, 4], step=[5, 6, 7, 8])
    figure = figures.freezing_costs(costs)
    left, right = ([a.get_ydata().tolist() for a in axis.lines[:2]] for axis in figure.axes)
    assert left == [[0, 2], [3, 4]] and right == [[5, 6], [7, 8]]
    assert figure.axes[0].get_xticks().tolist() == [0, 6] and marks_inside(figure)
    figure = figures.test_map(np.array([[5.0, 5], [9, 7]]), np.array([[6.0, 6]]))
    points = figure.axes[0].collections
    assert points[0].get_offsets().tolist() == [[0, 0], [4, 2]]
    assert points[1].get_offsets().tolist() == [[1, 1]]
    assert figures.save_figure(figure, tmp_path / "sub" / "map.png") is figure
    assert (tmp_path / "sub" / "map.png").stat().st_size > 1000


def test_image_grid_takes_gaps_and_attention_rows_carry_their_scale():
    image = np.zeros((4, 4, 3), np.uint8)
    figure = figures.image_grid([[image, None], [Image.fromarray(image)]], column_titles=["a", "b"])
    assert [len(axis.images) for axis in figure.axes] == [1, 0, 1, 0]
    figure = figures.attention_rows([[image, image], [image, None]], ["lowlight"], ["a", "b"])
    *shown, bar = figure.axes
    assert [label.get_text() for label in bar.get_yticklabels()] == ["low", "high"]
    assert COLOURS in [drawn.cmap.name for drawn in bar.collections]
    assert [[text.get_text() for text in axis.texts] for axis in shown] == [[], [], [], ["no heat"]]
    assert shown[0].get_ylabel() == "low light"
    assert width_of(bar) > 0.1


def test_every_class_has_its_own_colour():
    classes = np.arange(len(CLASSES), dtype=np.uint8)[None]  # (1, 6)
    colours = figures.class_colours(classes)
    assert colours.shape == (1, len(CLASSES), 3)
    assert len({tuple(colour) for colour in colours[0]}) == len(CLASSES)
    key = dict(zip(CLASSES, figures.CLASS_COLOURS, strict=True))
    (legend,) = figures.image_grid([list(colours)], key=key).legends
    assert [text.get_text() for text in legend.texts] == list(CLASSES)
    assert [to_rgb(patch.get_facecolor()) for patch in legend.get_patches()] == list(key.values())


def study_table():
    """Two methods, each with a backbone and a depth of its own."""
    rows = [
        (method, backbone, i, 1000 * (i + 1), condition, k, seed, 10.0 * (i + 1) + seed + k + 3 * c)
        for i, (method, backbone) in enumerate([("mix", "vit"), ("gem", "cnn")])
        for c, condition in enumerate(("day", "night", "all"))
        for k in (1, 5)
        for seed in (0, 1)
    ]
    columns = ["method", "backbone", "depth", "parameters", "condition", "k", "seed", "recall"]
    return pd.DataFrame(rows, columns=columns).assign(dataset="city")


def test_recall_heatmap_prints_means_and_marks_the_best_of_a_backbone():
    table = study_table()
    rival = table[table["method"] == "gem"].assign(method="max", recall=table["recall"] - 1.2)
    rival.loc[rival["condition"] == "night", "recall"] += 1.1  # as good, rounded
    first, second, bar = figures.recall_heatmap(pd.concat([table, rival])).axes
    printed = [[text.get_text() for text in axis.texts] for axis in (first, second)]
    assert printed == [["12", "14", "13"], ["22", "24", "23", "20", "24", "22"]]  # day, night, mean
    bold = [[text.get_fontweight() == "bold" for text in axis.texts] for axis in (first, second)]
    assert bold == [[False] * 3, [True, True, True, False, True, False]]  # one alone is no best
    assert [axis.get_title() for axis in (first, second)] == ["vit", "cnn"]
    assert width_of(bar) > 0.1


def test_recall_dots_show_mean_spread_and_interval():
    first, _, *cnn = figures.recall_dots(study_table(), ks=(1, 5)).axes  # a row a backbone
    ends, spread, dot = first.lines
    assert ends.get_xdata().tolist() == spread.get_xdata().tolist() == [12.5, 13.5]
    assert dot.get_xdata().tolist() == [13.0]
    assert ends.get_solid_capstyle() == "butt"  # no longer than it is
    assert [label.get_text() for label in first.get_yticklabels()] == ["mix"]
    assert (first.get_title("left"), cnn[0].get_title("left")) == ("vit", "cnn")
    assert [axis.get_xlabel() for axis in cnn] == ["R@1 (%)", "R@5 (%)"]
    perfect = study_table().assign(recall=100.0, backbone="toy_vits14")
    for methods in (["mix"], ["mix", "gem"]):  # few rows, and all at the end
        figure = figures.recall_dots(perfect[perfect["method"].isin(methods)], ks=(1, 5))
        assert marks_inside(figure) and figure.axes[-1].get_xticks().max() == 100


@pytest.mark.parametrize("draw", ["recall_bars", "recall_dots", "recall_heatmap", "recall_curves"])
def test_a_table_without_rows_of_a_k_is_named(draw):
    look = {"x": "k", "xlabel": "k"} if draw == "recall_curves" else {}
    with pytest.raises(ValueError, match="nothing to draw: the results table has no rows"):
        getattr(figures, draw)(study_table()[lambda t: t["k"] > 9], **look)


def test_recall_curves_follow_a_setting_and_its_costs():
    figure = figures.recall_curves(
        study_table(), "depth", xlabel="layers", ks=(1, 5), costs={"parameters": "parameters"}
    )
    recall, costs = figure.axes
    assert [line.get_ydata().tolist() for line in recall.lines] == [[13.0, 23.0], [17.0, 27.0]]
    assert [text.get_text() for text in figure.legends[0].texts] == ["R@1", "R@5"]
    assert costs.lines[0].get_ydata().tolist() == [1000, 2000]
    perfect = figures.recall_curves(study_table().assign(recall=100.0), "depth", xlabel="layers")
    assert perfect.axes[0].get_yticks().max() == 100 and marks_inside(perfect)
    by_backbone = figures.recall_curves(study_table(), "depth", hue="backbone", xlabel="layers")
    assert [t.get_text() for t in by_backbone.legends[0].texts] == ["vit", "cnn"]


def test_recall_curves_place_a_setting_by_its_value():
    blocks = {"mix": 3, "gem": 9}
    tables = [study_table().assign(blocks=study_table()["method"].map(blocks))]
    tables.append(tables[0].assign(blocks=tables[0]["blocks"] - 3))  # 0, 3, 6 and 9
    tables[1] = tables[1][tables[1]["blocks"] == 0]
    table = pd.concat(tables).astype({"blocks": "Int64"})
    costs = {"parameters": "parameters"}
    figure = figures.recall_curves(table, "blocks", xlabel="blocks", costs=costs)
    assert all(axis.get_xticks().tolist() == [0, 3, 9] for axis in figure.axes)
    assert figure.axes[1].lines[0].get_xdata().tolist() == [0, 3, 9] and marks_inside(figure)
    doubled = table.assign(blocks=2 ** table["blocks"])
    axis = figures.recall_curves(doubled, "blocks", xlabel="dim", log=True).axes[0]
    assert axis.get_xscale() == "log"
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1", "8", "512"]


def test_precision_is_drawn_over_recall_and_over_the_share_answered():
    right = np.array([True, False, True, False])
    curve = precision_recall(np.array([0.9, 0.8, 0.7, 0.6]), right, np.array([True] * 4))
    figure = figures.precision_recall({"mix": curve, "lowlight": curve[:2], "nothing": curve[:0]})
    for axis, column in zip(figure.axes, ("recall", "answered"), strict=True):
        assert axis.get_xlabel() == f"{column} (%)"
        lines = [line.get_xydata() for line in axis.lines]
        np.testing.assert_allclose(lines[0], 100 * curve[[column, "precision"]].to_numpy())
        assert [len(line) for line in lines] == [4, 2, 0]
    assert len({(line.get_linestyle(), line.get_color()) for line in axis.lines}) == 3
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["mix (AP 42)", "low light (AP 25)", "nothing (AP 0)"]


def test_class_gains_are_means_over_images():
    rows = [("a", "sky", 1.0), ("a", "sky", 3.0), ("a", "car", 0.5), ("b", "sky", np.nan)]
    shares = pd.DataFrame(rows, columns=["method", "class", "gain"])
    (axis,) = figures.class_gains(shares).axes
    assert axis.lines[0].get_ydata().tolist() == [2.0, 0.5]
    interval = axis.collections[0].get_segments()[0][:, 1]  # scipy.stats.t.interval(0.95, 1, 2, 1)
    assert interval.tolist() == pytest.approx([0, 14.7062], abs=1e-4)  # no share is below 0
    assert np.isnan(axis.lines[1].get_ydata().astype(float)).all()
    assert [label.get_text() for label in axis.get_xticklabels()] == ["sky", "car"]


def test_comparison_rows_frame_by_verdict(test_root):
    test = TestSet(test_root)
    asked = len(test.queries)
    rest = np.ones((asked, 1), np.float32), [np.array([0])] * asked
    retrievals = {
        name: Retrieval(test, np.full((asked, 1), first), *rest)
        for name, first in {"good": 0, "bad": 4, "none": -1}.items()
    }
    figure = figures.comparison_rows(retrievals, [0], ["viewpoint"])
    query, good, bad, none = figure.axes[:4]
    assert none.get_title() == "none\n✗"  # no distance of what was not found
    assert same_color(good.spines["left"].get_edgecolor(), figures.RIGHT)
    assert same_color(bad.spines["left"].get_edgecolor(), figures.WRONG)
    assert good.get_title() == "good\n✓ 5.0 m" and bad.get_title() == "bad\n✗ 395.0 m"
    assert query.get_ylabel() == "viewpoint"
    assert [text.get_text() for text in figure.legends[0].texts] == ["✓ right (25 m)", "✗ wrong"]
    (none,) = figures.comparison_rows(retrievals, [], []).axes  # a method that never fails
    assert none.get_title() == "no such query"
    strict = TestSet(test_root, threshold=2)
    none = [np.array([], int)] * asked
    near = {"near": Retrieval(strict, np.zeros((asked, 1), int), rest[0], none)}
    (legend,) = figures.comparison_rows(near, [0], [""]).legends
    assert [text.get_text() for text in legend.texts] == ["≈ near (6 m, same view)"]


def test_pyplot_never_knows_a_figure_which_a_cell_would_show_while_a_thread_draws(monkeypatch):
    monkeypatch.setattr(plt, "figure", None)  # what all its figures are made by
    _, axes = panels(1, 2, ("page", 16), sharey=True)
    assert axes.shape == (1, 2) and not plt.get_fignums()


def test_intervals_are_drawn_where_the_table_has_them():
    table = study_table()
    table = table[(table["seed"] == 0) & (table["condition"] == "all")]
    table = table.assign(low=table["recall"] - 4, high=table["recall"] + 2, condition="mean")
    line, _, dot = figures.recall_dots(table, ks=(1,)).axes[0].lines
    assert line.get_xdata().tolist() == [13.0, 19.0] and dot.get_xdata() == [17.0]
    error = figures.recall_bars(table).axes[0].collections[0].get_segments()
    assert [end[1] for end in error[-1]] == pytest.approx([13.0, 19.0])
    look = {"hue": "backbone", "xlabel": "L"}
    for given, ends in ((table, (13.0, 19.0)), (study_table(), (12.5, 13.5))):
        axis = figures.recall_curves(given, "depth", **look).axes[0]
        band = axis.collections[0].get_paths()[0].vertices[:, 1]
        assert (band.min(), band.max()) == ends
    named = study_table().assign(low=0.0, high=99.0)  # of conditions: the mean has none
    line = figures.recall_dots(named, ks=(1,)).axes[0].lines[0]
    assert line.get_xdata().tolist() == [12.5, 13.5]


def asked(right, methods=("mix", "gem")):
    """Queries of `study_table`'s methods, as of `Study.queries`: `right` of 40 are right."""
    nets = {"mix": "vit", "gem": "cnn"}
    rows = [
        (
            "city",
            method,
            nets[method],
            0,
            condition,
            f"{condition}{i}",
            f"{i}",
            1 if i < right else 9,
        )
        for method in methods
        for condition in ("day", "night")
        for i in range(40)
    ]
    return pd.DataFrame(rows, columns=QUERY_COLUMNS)


def test_dots_bars_and_marks_show_the_interval_over_queries():
    queries = asked(right=8)
    table = study_table()[lambda t: t["k"] == 1]
    (low, high), *_ = intervals(queries, [1])[["low", "high"]].to_numpy()
    assert high - low > 10
    thin, thick, _ = figures.recall_dots(table, (1,), queries).axes[0].lines
    assert thin.get_xdata().tolist() == pytest.approx([low, high])
    assert thick.get_xdata().tolist() == [12.5, 13.5]  # seeds
    table = table.assign(recall=20.0)
    error = figures.recall_bars(table, 1, queries).axes[0].collections[0].get_segments()
    assert error[-1][:, 1].tolist() == pytest.approx([low, high])
    of_day = bootstrap([1.0] * 8 + [0.0] * 32, [str(i) for i in range(40)])
    assert error[0][:, 1].tolist() == pytest.approx([100 * end for end in of_day])
    look = {"hue": "backbone", "xlabel": "L", "ks": (1,), "queries": queries}
    (axis,) = figures.recall_curves(table, "depth", **look).axes
    bars = [c for c in axis.collections if isinstance(c, LineCollection)]
    assert bars[0].get_segments()[0][:, 1].tolist() == pytest.approx([low, high])


def test_the_papers_arrangement_has_a_panel_for_each_test_set_and_a_line_for_each_k():
    other = study_table().assign(dataset="village", recall=50.0)
    look = {"ks": (1, 5), "paper": True}
    both = pd.concat([study_table(), other])
    figure = figures.recall_curves(both, "depth", xlabel="L", **look)
    city, village = figure.axes
    assert [line.get_ydata().tolist() for line in city.lines] == [[13.0, 23.0], [17.0, 27.0]]
    assert [line.get_ydata().tolist() for line in village.lines] == [[50.0, 50.0]] * 2
    assert [axis.get_title() for axis in figure.axes] == ["city", "village"]
    assert [text.get_text() for text in figure.legends[0].texts] == ["Top-1", "Top-5"]
    over_k = figures.recall_curves(study_table(), "k", hue="method", xlabel="k", **look)
    assert [line.get_xdata().tolist() for line in over_k.axes[0].lines] == [[1, 5]] * 2


@pytest.mark.parametrize(("style", "width"), [("paper", 174), ("talk", 300), ("notebook", 240)])
def test_a_figure_is_as_wide_as_its_style_says_and_its_pdf_keeps_text(tmp_path, style, width):
    figure_style(style)
    try:
        figure = figures.freezing_costs(
            pd.DataFrame({"trained_blocks": [0], "scheme": ["x"], "activations": [1], "step": [2]})
        )
        figures.save_figure(figure, tmp_path / "sub" / "a.png")
    finally:
        figure_style("paper")
    pdf = (tmp_path / "sub" / "a.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf  # TrueType, as it is
    (box,) = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ", pdf)
    assert float(box) / 72 * 25.4 == pytest.approx(width, abs=0.1)
    with Image.open(tmp_path / "sub" / "a.png") as png:
        assert png.width / 300 * 25.4 == pytest.approx(width, abs=0.1)
        assert png.info["dpi"][0] == pytest.approx(300, abs=0.1)


def test_a_pdf_is_written_only_beside_a_png_that_may_have_one(tmp_path):
    figure, _ = panels(1, 1, ("column", 8))
    figures.save_figure(figure, tmp_path / "a.png", pdf=False)
    figures.save_figure(figure, tmp_path / "b.svg")
    for name in ("c", "c.jpg"):
        with pytest.raises(ValueError, match=f"{name}: figures are written as .png, .pdf or .svg"):
            figures.save_figure(figure, tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.svg"}


def test_a_style_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no style 'poster' of figures; there are paper, talk"):
        figure_style("poster")


def test_a_method_looks_the_same_in_every_figure_and_like_no_other():
    lineups = tomllib.loads((Path(designs.__file__).parent / "lineups.toml").read_text())
    names = [*lineups["toy"], "DINO-Mix, robust", *(f"own {i}" for i in range(25))]
    together = figures.looks(names)
    assert len(set(together.values())) == len(names)
    for name in (*lineups["toy"], "DINO-Mix, robust"):
        assert figures.looks([name])[name] == together[name]
    assert figures.looks(["GeM", "own 3"])["own 3"] == figures.looks(["own 3"])["own 3"]
    bare = {(look.mark, look.hollow) for name, look in together.items() if name in lineups["toy"]}
    assert len(bare) == len(lineups["toy"])  # without colours, too
    mix, frozen = (together[name].bar["hatch"] for name in ("DINO-Mix", "GeM, ViT, frozen"))
    assert mix != frozen
    trained, frozen = (together[name].line for name in ("GeM", "GeM, frozen"))  # even of one mark
    assert trained["linestyle"] != frozen["linestyle"]
    table = study_table().replace({"mix": "SALAD", "gem": "MixVPR"})
    line = figures.recall_dots(table, (1,)).axes[0].lines[2]
    curve = figures.recall_curves(table, "k", hue="method", xlabel="k", ks=(1, 5)).axes[0].lines[0]
    shares = pd.DataFrame([["SALAD", "sky", 1.0]] * 2, columns=["method", "class", "gain"])
    mark = figures.class_gains(shares).axes[0].lines[0]
    for drawn in (line, curve, mark):
        assert same_color(drawn.get_color(), together["SALAD"].colour)
        assert drawn.get_marker() == together["SALAD"].line["marker"]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts of which the one covers the other."""
    figure.draw_without_rendering()
    beyond = {  # ticks that no axis reaches are there, but never drawn
        label
        for axis in figure.axes
        for line, limits in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim()))
        for tick in line.get_major_ticks()
        if not min(limits) <= tick.get_loc() <= max(limits)
        for label in (tick.label1, tick.label2)
    }
    texts = set(figure.findobj(Text)) - beyond
    shown = [text for text in texts if text.get_visible() and text.get_text()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown]
    edge = figure.bbox.padded(1)
    cut = [
        (name, "the edge")
        for name, box in boxes
        if not (edge.contains(*box.min) and edge.contains(*box.max))
    ]
    crossed = [
        (one, other)
        for i, (one, a) in enumerate(boxes)
        for other, b in boxes[i + 1 :]
        if a.x0 + 1 < b.x1 and b.x0 + 1 < a.x1 and a.y0 + 1 < b.y1 and b.y0 + 1 < a.y1
    ]
    return cut + crossed


@pytest.mark.parametrize("count", [*(pytest.param(n, marks=pytest.mark.slow) for n in (3, 40)), 14])
def test_no_labels_overlap_at_any_number_of_methods(count):
    names = [f"Method {i}, ViT, frozen" for i in range(count)]
    rows = [
        (name, ["toy_vits14", "toy_resnet"][i % 2], condition, k, 40.0 + i)
        for i, name in enumerate(names)
        for condition in ("autumn", "blur", "changed", "lowlight", "occlusion", "viewpoint")
        for k in (1, 5, 10)
    ]
    columns = ["method", "backbone", "condition", "k", "recall"]
    table = pd.DataFrame(rows, columns=columns).assign(dataset="toycity-test", seed=0)
    curve = precision_recall(np.array([0.9, 0.8]), np.array([True, False]), np.array([True] * 2))
    made = [
        figures.recall_dots(table),
        figures.recall_bars(table),
        figures.recall_curves(table, "k", hue="method", xlabel="k", ks=(1, 5, 10)),
        figures.recall_heatmap(table),
        figures.precision_recall(dict.fromkeys(names, curve)),
    ]
    assert [overlapping(figure) for figure in made] == [[]] * len(made)
    height = max(figure.get_figheight() for figure in made) * 25.4
    assert height < 240  # mm: fits on a page
