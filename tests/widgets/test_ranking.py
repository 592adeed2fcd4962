"""Pictures of a query, read back from their axes."""

from functools import partial

import numpy as np
import pytest
from matplotlib.colors import same_color

from dinomix import TestSet
from dinomix.datasets.layouts import read_folders, read_frames
from dinomix.evaluation import Retrieval
from dinomix.figures import RIGHT, WRONG
from dinomix.widgets.browser import place_map, ranking

frames_of = partial(read_frames, tolerance=1)


@pytest.fixture
def retrieval(test_root):
    """Every query finds places 1 and 0, in this order; query i shows place i."""
    test = TestSet(test_root)
    truth = [np.array([query % 5]) for query in range(10)]
    return Retrieval(test, np.tile([1, 0], (10, 1)), np.full((10, 2), 0.25, np.float32), truth)


def of_folders(retrieval: Retrieval, read) -> Retrieval:
    test = retrieval.test
    other = read(test.database[0].parent, test.queries[0].parent)
    truth = retrieval.positives[:5] if other.labelled else None
    return Retrieval(other, retrieval.ranked[:5], retrieval.similarities[:5], truth)


def titles(figure) -> list[str]:
    return [axis.get_title() for axis in figure.axes]


def frames(figure) -> list:
    return [axis.spines["left"] for axis in figure.axes]


def test_ranking_frames_right_and_wrong(retrieval):
    figure = ranking(retrieval, 0)
    assert titles(figure) == ["query", "1: wrong, 95.0 m, 0.25", "2: right, 5.0 m, 0.25"]
    query, first, second = frames(figure)
    assert not query.get_visible()
    assert same_color(first.get_edgecolor(), WRONG)
    assert same_color(second.get_edgecolor(), RIGHT)


def test_ranking_frames_nothing_where_nothing_is_known(retrieval):
    figure = ranking(of_folders(retrieval, read_folders), 0)
    assert titles(figure) == ["query", "1: 0.25", "2: 0.25"]
    assert not any(frame.get_visible() for frame in frames(figure))


def test_map_shows_where_query_and_answers_lie(retrieval):
    (axis,) = place_map(retrieval, 0).axes
    database, query, second, first = (c.get_offsets().tolist() for c in axis.collections)
    assert len(database) == 5
    assert query == [[5, 0]]
    assert second == [[0, 0]] and first == [[100, 0]]  # the first one is drawn last, on top
    colours = [c.get_facecolor()[0] for c in axis.collections[2:]]
    assert same_color(colours[0], RIGHT) and same_color(colours[1], WRONG)
    assert [text.get_text() for text in axis.texts] == ["2", "1"]


def test_map_of_a_sequence_runs_along_its_frames(retrieval):
    (axis,) = place_map(of_folders(retrieval, frames_of), 3).axes
    assert axis.get_xlabel() == "frame"
    assert axis.collections[1].get_offsets().tolist() == [[3, 0]]


def test_no_map_without_positions(retrieval):
    assert place_map(of_folders(retrieval, read_folders), 0) is None
    places = of_folders(retrieval, frames_of)
    places.test.unit = "places"
    assert place_map(places, 0) is None
