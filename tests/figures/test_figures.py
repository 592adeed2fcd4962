"""Figures are checked by what they draw, read back from the axes."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import same_color

from dinomix import figures
from dinomix.data import TestSet
from dinomix.evaluation import Retrieval
from dinomix.figures.theme import panels
from toycity import CLASSES


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
    heights = [[bar.get_height() for bar in bars] for bars in axis.containers if len(bars) == 3]
    assert heights == [[80, 40, 60], [92, 65, 78.5]]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["day", "night", "mean"]


def test_training_curves_leave_out_the_untrained_row_where_there_is_no_loss():
    rows = [[0, np.nan, np.nan, 10.0, 20.0], [1, 2.0, 0.9, 20.0, 30.0], [2, 1.0, 0.5, 30.0, 40.0]]
    columns = ["epoch", "loss", "mined_share", "recall@1", "recall@5"]
    history = pd.DataFrame(rows, columns=columns)
    loss, mined, recall = figures.training_curves(history).axes
    assert loss.lines[0].get_ydata().tolist() == [2, 1]
    assert mined.lines[0].get_ydata().tolist() == [90, 50]
    assert [line.get_ydata().tolist() for line in recall.lines] == [[10, 20, 30], [20, 30, 40]]


def test_retrieval_rows_frame_right_green_and_wrong_red(test_root):
    test = TestSet(test_root)
    truth = [np.array([i % 5]) for i in range(10)]
    found = np.array([[0, 1]] * 10), np.array([[0.9, 0.8]] * 10)
    figure = figures.retrieval_rows(Retrieval(test, *found, truth), [0, 6])
    frames = [axis.spines["left"] for axis in figure.axes]
    assert [frame.get_visible() for frame in frames] == [False, True, True] * 2
    expected = [None, figures.RIGHT, figures.WRONG, None, figures.WRONG, figures.RIGHT]
    pairs = zip(frames, expected, strict=True)
    assert all(same_color(frame.get_edgecolor(), colour) for frame, colour in pairs if colour)
    assert figure.axes[0].get_ylabel() == "day" and figure.axes[3].get_ylabel() == "night"
    unlabelled = TestSet.from_lists("mine", test.database, test.queries, None, None)
    figure = figures.retrieval_rows(Retrieval(unlabelled, *found, None), [0, 6])
    assert not any(axis.spines["left"].get_visible() for axis in figure.axes)
    assert [axis.get_title() for axis in figure.axes] == ["query", "0.90", "0.80"] * 2


def test_freezing_costs_and_map_draw_every_number(tmp_path):
    costs = pd.DataFrame(
        {"trained_blocks": [0, 0], "scheme": ["x", "y"], "activations": [1, 2], "step": [3, 4]}
    )
    left, right = figures.freezing_costs(costs).axes
    assert [bar.get_height() for bars in left.containers for bar in bars] == [1, 2]
    assert [bar.get_height() for bars in right.containers for bar in bars] == [3, 4]
    figure = figures.test_map(np.array([[5.0, 5], [9, 7]]), np.array([[6.0, 6]]))
    points = figure.axes[0].collections
    assert points[0].get_offsets().tolist() == [[0, 0], [4, 2]]
    assert points[1].get_offsets().tolist() == [[1, 1]]
    assert figures.save_figure(figure, tmp_path / "sub" / "map.png") is figure
    assert (tmp_path / "sub" / "map.png").stat().st_size > 1000


def test_image_grid_takes_gaps_and_attention_rows_carry_their_scale():
    image = np.zeros((4, 4, 3), np.uint8)
    figure = figures.image_grid([[image, None], [image]], column_titles=["a", "b"])
    assert [len(axis.images) for axis in figure.axes] == [1, 0, 1, 0]
    figure = figures.attention_rows([[image, image]], ["one"], ["a", "b"])
    assert [label.get_text() for label in figure.axes[-1].get_yticklabels()] == ["low", "high"]


def test_every_class_has_its_own_colour():
    classes = np.arange(len(CLASSES), dtype=np.uint8)[None]  # (1, 6)
    colours = figures.class_colours(classes)
    assert colours.shape == (1, len(CLASSES), 3)
    assert len({tuple(colour) for colour in colours[0]}) == len(CLASSES)
    (axis,) = figures.class_legend(CLASSES).axes
    assert [text.get_text() for text in axis.texts] == list(CLASSES)
    assert [patch.get_facecolor()[:3] for patch in axis.patches] == figures.CLASS_COLOURS


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


def test_recall_heatmap_prints_means_and_marks_the_best():
    axis = figures.recall_heatmap(study_table()).axes[0]
    printed = [text.get_text() for text in axis.texts]
    assert printed == ["12", "14", "13", "22", "24", "23"]  # methods x (day, night, mean)
    assert [text.get_fontweight() for text in axis.texts] == ["normal"] * 3 + ["bold"] * 3


def test_recall_dots_show_mean_and_spread():
    first, second = figures.recall_dots(study_table(), ks=(1, 5)).axes
    spread, dot = first.lines[:2]
    assert spread.get_xdata().tolist() == [12.5, 13.5] and dot.get_xdata() == [13.0]
    assert [label.get_text() for label in first.get_yticklabels()] == ["mix", "gem"]
    assert dot.get_marker() != first.lines[3].get_marker()  # another backbone
    assert second.get_title() == "R@5 (%)"


def test_recall_curves_follow_a_setting_and_its_costs():
    figure = figures.recall_curves(
        study_table(), "depth", xlabel="layers", ks=(1, 5), costs={"parameters": "parameters"}
    )
    recall, costs = figure.axes
    lines = [line for line in recall.lines if len(line.get_xdata()) == 2]
    assert [line.get_ydata().tolist() for line in lines[:2]] == [[13.0, 23.0], [17.0, 27.0]]
    assert [text.get_text() for text in recall.get_legend().texts] == ["R@1", "R@5"]
    assert costs.lines[0].get_ydata().tolist() == [1000, 2000]
    by_backbone = figures.recall_curves(study_table(), "depth", hue="backbone", xlabel="layers")
    assert [t.get_text() for t in by_backbone.axes[0].get_legend().texts] == ["vit", "cnn"]


def test_class_gains_are_means_over_images():
    rows = [("a", "sky", 1.0), ("a", "sky", 3.0), ("a", "car", 0.5), ("b", "sky", np.nan)]
    shares = pd.DataFrame(rows, columns=["method", "class", "gain"])
    (axis,) = figures.class_gains(shares).axes
    assert axis.lines[0].get_ydata().tolist() == [2.0, 0.5]
    assert np.isnan(axis.lines[1].get_ydata()).all()
    assert [label.get_text() for label in axis.get_xticklabels()] == ["sky", "car"]


def test_comparison_rows_frame_by_verdict(test_root):
    test = TestSet(test_root)
    asked = len(test.queries)
    rest = np.ones((asked, 1), np.float32), [np.array([0])] * asked
    retrievals = {
        name: Retrieval(test, np.full((asked, 1), first), *rest)
        for name, first in {"good": 0, "bad": 4}.items()
    }
    figure = figures.comparison_rows(retrievals, [0], ["viewpoint"])
    query, good, bad = figure.axes[:3]
    assert same_color(good.spines["left"].get_edgecolor(), figures.RIGHT)
    assert same_color(bad.spines["left"].get_edgecolor(), figures.WRONG)
    assert good.get_title() == "good\n5.0 m" and bad.get_title() == "bad\n395.0 m"
    assert query.get_ylabel() == "viewpoint"


def test_pyplot_never_knows_a_figure_which_a_cell_would_show_while_a_thread_draws(monkeypatch):
    monkeypatch.setattr(plt, "figure", None)  # what all its figures are made by
    _, axes = panels(1, 2, (4, 2), sharey=True)
    assert axes.shape == (1, 2) and not plt.get_fignums()
