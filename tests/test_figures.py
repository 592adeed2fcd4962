"""Figures are checked by what they draw, read back from the axes."""

import numpy as np
import pandas as pd
from matplotlib.colors import same_color

from dinomix import figures
from dinomix.evaluation import Retrieval
from dinomix.testsets import TestSet
from dinomix.toycity import CLASSES


def test_token_colours_are_principal_components():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 5, 3, 4)) * np.array([9, 5, 2, 0.1, 0.1])[:, None, None]
    colours = figures.token_colours(maps)
    assert colours.shape == (2, 3, 4, 3) and colours.min() == 0 and colours.max() == 1
    tokens = maps.transpose(0, 2, 3, 1).reshape(-1, 5)
    first = (tokens - tokens.mean(0)) @ np.linalg.eigh(np.cov(tokens.T))[1][:, -1]
    assert abs(np.corrcoef(first, colours.reshape(-1, 3)[:, 0])[0, 1]) > 0.98


def results(recalls):
    rows = [
        {"method": m, "condition": c, "seed": s, "k": 1, "recall": r, "dataset": "toy"}
        for (m, c, s), r in recalls.items()
    ]
    return pd.DataFrame(rows)


def test_recall_bars_show_the_mean_of_seeds_and_of_conditions():
    table = results(
        {
            ("a", "day", 0): 80.0,
            ("a", "night", 0): 40.0,
            ("b", "day", 0): 90.0,
            ("b", "night", 0): 60.0,
            ("b", "day", 1): 94.0,
            ("b", "night", 1): 70.0,
            ("b", "all", 0): 1.0,  # the row over all queries is no condition
        }
    )
    (axis,) = figures.recall_bars(table).axes
    heights = [[bar.get_height() for bar in bars] for bars in axis.containers if len(bars) == 3]
    assert heights == [[80, 40, 60], [92, 65, 78.5]]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["day", "night", "mean"]


def test_training_curves_leave_out_the_untrained_row_where_there_is_no_loss():
    history = pd.DataFrame(
        {
            "epoch": [0, 1, 2],
            "loss": [np.nan, 2.0, 1.0],
            "mined_share": [np.nan, 0.9, 0.5],
            "recall@1": [10.0, 20.0, 30.0],
            "recall@5": [20.0, 30.0, 40.0],
        }
    )
    loss, mined, recall = figures.training_curves(history).axes
    assert loss.lines[0].get_ydata().tolist() == [2, 1]
    assert mined.lines[0].get_ydata().tolist() == [90, 50]
    assert [line.get_ydata().tolist() for line in recall.lines] == [[10, 20, 30], [20, 30, 40]]


def test_retrieval_rows_frame_right_green_and_wrong_red(test_root):
    test = TestSet(test_root)
    truth = [np.array([i % 5]) for i in range(10)]
    retrieval = Retrieval(test, np.array([[0, 1]] * 10), np.array([[0.9, 0.8]] * 10), truth)
    figure = figures.retrieval_rows(retrieval, [0, 6])
    colours = [axis.spines["left"].get_edgecolor() for axis in figure.axes]
    visible = [axis.spines["left"].get_visible() for axis in figure.axes]
    assert visible == [False, True, True] * 2
    expected = [None, figures.RIGHT, figures.WRONG, None, figures.WRONG, figures.RIGHT]
    assert all(same_color(c, e) for c, e in zip(colours, expected, strict=True) if e)
    assert figure.axes[0].get_ylabel() == "day" and figure.axes[3].get_ylabel() == "night"


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


def test_image_grid_takes_gaps():
    image = np.zeros((4, 4, 3), np.uint8)
    figure = figures.image_grid([[image, None], [image]], column_titles=["a", "b"])
    assert [len(axis.images) for axis in figure.axes] == [1, 0, 1, 0]


def test_every_class_has_its_own_colour():
    classes = np.arange(len(CLASSES), dtype=np.uint8)[None]  # (1, 6)
    colours = figures.class_colours(classes)
    assert colours.shape == (1, len(CLASSES), 3)
    assert len({tuple(colour) for colour in colours[0]}) == len(CLASSES)
    (axis,) = figures.class_legend(CLASSES).axes
    assert [text.get_text() for text in axis.texts] == list(CLASSES)
    assert [patch.get_facecolor()[:3] for patch in axis.patches] == figures.CLASS_COLOURS
