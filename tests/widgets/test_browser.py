"""Pictures of a query, read back from their axes; and stepping through queries."""

import numpy as np
import pytest
from matplotlib.colors import same_color

from dinomix import TestSet
from dinomix.datasets.layouts import read_folders, read_frames
from dinomix.evaluation import Retrieval
from dinomix.figures import RIGHT, WRONG
from dinomix.widgets.browser import EVERY, Browsing, place_map, ranking, retrieval_browser


@pytest.fixture
def two_found(test_root):
    """Every query finds places 1 and 0, in this order; query i shows place i."""
    test = TestSet(test_root)
    truth = [np.array([query % 5]) for query in range(10)]
    return Retrieval(test, np.tile([1, 0], (10, 1)), np.full((10, 2), 0.25, np.float32), truth)


def of_folders(retrieval: Retrieval, read, **options) -> Retrieval:
    """The same of a test set that knows its images' order, or nothing of them."""
    test = retrieval.test
    other = read(test.database[0].parent, test.queries[0].parent, **options)
    truth = retrieval.positives[:5] if other.labelled else None
    return Retrieval(other, retrieval.ranked[:5], retrieval.similarities[:5], truth)


def titles(figure) -> list[str]:
    return [axis.get_title() for axis in figure.axes]


def frames(figure) -> list:
    return [axis.spines["left"] for axis in figure.axes]


def test_ranking_frames_right_and_wrong_where_that_is_known(two_found):
    figure = ranking(two_found, 0)
    assert titles(figure) == ["query", "1: wrong, 95.0 m, 0.25", "2: right, 5.0 m, 0.25"]
    query, first, second = frames(figure)
    assert not query.get_visible()
    assert same_color(first.get_edgecolor(), WRONG)
    assert same_color(second.get_edgecolor(), RIGHT)
    figure = ranking(of_folders(two_found, read_folders), 0)
    assert titles(figure) == ["query", "1: 0.25", "2: 0.25"]
    assert not any(frame.get_visible() for frame in frames(figure))


def test_map_shows_where_query_and_answers_lie(two_found):
    (axis,) = place_map(two_found, 0).axes
    database, query, second, first = (c.get_offsets().tolist() for c in axis.collections)
    assert len(database) == 5
    assert query == [[5, 0]]
    assert second == [[0, 0]] and first == [[100, 0]]  # the first one is drawn last, on top
    colours = [c.get_facecolor()[0] for c in axis.collections[2:]]
    assert same_color(colours[0], RIGHT) and same_color(colours[1], WRONG)
    assert [text.get_text() for text in axis.texts] == ["2", "1"]
    (axis,) = place_map(of_folders(two_found, read_frames, tolerance=1), 3).axes
    assert axis.get_xlabel() == "frame"
    assert axis.collections[1].get_offsets().tolist() == [[3, 0]]


def test_no_map_without_positions(two_found):
    assert place_map(of_folders(two_found, read_folders), 0) is None
    places = of_folders(two_found, read_frames, tolerance=1)
    places.test.unit = "places"
    assert place_map(places, 0) is None


@pytest.fixture
def retrieval(test_root):
    """Conditions day and night, five places each; places 0 and 3 are found first by no query."""
    test = TestSet(test_root)
    place = np.tile(np.arange(5), 2)
    first = np.where(np.isin(place, [0, 3]), 1, place)
    ranked = np.stack([first, np.where(first == place, (place + 1) % 5, place)], axis=1)
    truth = [np.array([i]) for i in place]
    return Retrieval(test, ranked, np.full((10, 2), 0.5, np.float32), truth)


def test_failures_of_a_condition_in_a_circle(retrieval):
    browsing = Browsing()
    browsing.choose(retrieval, EVERY, False)
    assert browsing.queries.tolist() == list(range(10)) and browsing.query == 0
    browsing.choose(retrieval, "night", True)
    assert browsing.queries.tolist() == [5, 8]
    seen = []
    for by in (1, 1, -1, -1):
        seen.append(browsing.query)
        browsing.step(by)
    assert seen == [5, 8, 5, 8] and browsing.query == 5


def test_the_query_stays_where_it_is_still_asked_for(retrieval):
    browsing = Browsing()
    browsing.choose(retrieval, EVERY, False)
    browsing.step(7)
    other_method = Retrieval(retrieval.test, retrieval.ranked, retrieval.similarities, [[]] * 10)
    browsing.choose(other_method, EVERY, False)
    assert browsing.query == 7
    browsing.choose(retrieval, EVERY, True)
    assert browsing.query == 8  # the next failure
    browsing.choose(retrieval, "day", False)
    assert browsing.query == 0  # there is none after it


def test_words_tell_rank_and_answers(retrieval):
    browsing = Browsing()
    assert browsing.in_words() == "no query is like this"
    browsing.choose(retrieval, "day", False)
    words = browsing.in_words()
    assert words.startswith("query 1 of 5, day, first right one at rank 2 (1 right answers")
    assert words.endswith(retrieval.test.queries[0].name)
    nothing = Retrieval(retrieval.test, retrieval.ranked[:, :1], retrieval.similarities, [[]] * 10)
    browsing.choose(nothing, "day", False)
    assert "none is right (0 right answers in the database)" in browsing.in_words()


def test_controls_change_what_is_shown(retrieval):
    view = retrieval_browser([retrieval.test], {"a": retrieval}, k=2)
    assert "query 1 of 10, day" in view.status.value and view.message.value == ""
    before = view.ranking.value, view.map.value
    assert all(before)
    view.next.click()
    assert "query 2 of 10" in view.status.value and view.number.value == 2
    assert view.ranking.value != before[0] and view.map.value != before[1]
    view.previous.click()
    assert (view.ranking.value, view.map.value) == before
    assert view.condition.options == (EVERY, "day", "night")
    view.condition.value = "night"
    view.only_failures.value = True
    assert "query 1 of 2, night, first right one at rank 2" in view.status.value
    assert view.number.max == 2
    view.number.value = 2
    assert "query 2 of 2" in view.status.value


def test_nothing_to_show_is_said_and_errors_show_in_the_view(retrieval):
    def broken():
        raise FileNotFoundError("no weights at here.safetensors")

    retrieval.ranked[:, 0] = np.tile(np.arange(5), 2)  # no failures
    view = retrieval_browser([retrieval.test], {"a": retrieval, "b": broken})
    view.only_failures.value = True
    assert "no query is like this" in view.status.value
    assert view.ranking.layout.display == view.map.layout.display == "none"
    view.next.click()
    assert view.message.value == ""
    view.only_failures.value = False
    assert view.ranking.layout.display is None
    view.method.value = "b"
    assert "FileNotFoundError: no weights at here.safetensors" in view.message.value
    view.method.value = "a"
    assert view.message.value == ""


def test_another_test_set_may_lack_conditions_and_labels(retrieval):
    test, plain = retrieval.test, of_folders(retrieval, read_folders, name="photos")
    view = retrieval_browser([test, plain.test], {"a": [retrieval, plain]})
    view.condition.value = "night"
    view.only_failures.value = True
    view.test_set.value = "photos"
    assert view.condition.options == (EVERY,) and view.only_failures.disabled
    assert "query 1 of 5" in view.status.value and view.map.layout.display == "none"
    view.test_set.value = test.name
    assert not view.only_failures.disabled and "query 1 of 4" in view.status.value
