"""Pictures of a query, read back from their axes; and stepping through queries."""

import re
from threading import Event

import numpy as np
import pytest
from matplotlib.colors import same_color

from dinomix import TestSet
from dinomix.datasets.layouts import read_folders, read_frames
from dinomix.evaluation import Retrieval
from dinomix.figures import RIGHT, WRONG
from dinomix.model import ModelConfig, build_model
from dinomix.widgets.browser import (
    BY_NUMBER,
    EVERY,
    asked_for,
    place_map,
    query_in_words,
    ranking,
    retrieval_browser,
    step,
)
from tests.widgets.test_view import settle


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
    return [axis.get_title().replace("\n", " ") for axis in figure.axes]


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


def test_what_was_skipped_is_no_database_image(two_found):
    two_found.ranked[0] = -1
    two_found.skipped.append(two_found.test.queries[0])
    figure = ranking(two_found, 0)
    assert titles(figure) == ["query: damaged", "1: nothing found", "2: nothing found"]
    assert not any(axis.images for axis in figure.axes)
    (axis,) = place_map(two_found, 0).axes
    assert len(axis.collections) == 2 and not axis.texts  # the database and the query


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
    assert asked_for(retrieval, EVERY, False).tolist() == list(range(10))
    failures = asked_for(retrieval, "night", True)
    assert failures.tolist() == [5, 8]
    assert [step(failures, 5, by) for by in (0, 1, -1)] == [5, 8, 8]
    assert [step(failures, 8, by) for by in (0, 1, -1)] == [8, 5, 5]
    assert [step(failures, 6, by) for by in (0, 1, -1)] == [8, 8, 5]
    assert [step(failures, 9, by) for by in (0, 1, -1)] == [5, 5, 8]
    assert step(failures[:0], 3, 1) is None


def test_failures_from_the_surest_on(retrieval):
    retrieval.similarities[[0, 3, 5, 8], 0] = 0.6, 0.9, 0.7, 0.9
    assert asked_for(retrieval, EVERY, True).tolist() == [0, 3, 5, 8]
    failures = asked_for(retrieval, EVERY, True, "similarity")
    assert failures.tolist() == [3, 8, 5, 0]
    assert [step(failures, 8, by) for by in (0, 1, -1, None)] == [8, 5, 3, 3]
    assert [step(failures, 0, by) for by in (1, -1)] == [3, 5]

    view = retrieval_browser([retrieval.test], {"a": retrieval}, k=2)
    view.only_failures.value = True
    view.number.value = 9
    view.order.value = "similarity"
    assert "query 4 of 10 (1 of 4 that are like this)" in view.status.value
    assert "similarity 0.9, margin 0.4, spread -" in view.status.value
    assert re.search(r"spread -[\d.e+]+ m, ", view.status.value)
    view.next.click()
    assert view.number.value == 9
    view.order.value = BY_NUMBER
    assert view.number.value == 1


def test_words_tell_number_rank_and_answers(retrieval):
    day = np.arange(5)
    assert query_in_words(retrieval, None, day) == "no query is like this"
    words = query_in_words(retrieval, 3, day)
    first = "query 4 of 10 (4 of 5 that are like this), day, first right one at rank 2 (1 right"
    assert words.startswith(first) and words.endswith(retrieval.test.queries[3].name)
    nothing = Retrieval(retrieval.test, retrieval.ranked[:, :1], retrieval.similarities, [[]] * 10)
    words = query_in_words(nothing, 0, np.arange(10))
    assert words.startswith("query 1 of 10, day, none is right (0 right answers in the database)")
    retrieval.skipped.append(retrieval.test.queries[0])
    assert "query 1 of 10, day, a damaged image" in query_in_words(retrieval, 0, np.arange(10))


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
    words = "query 6 of 10 (1 of 2 that are like this), night, first right one at rank 2"
    assert words in view.status.value and view.number.value == 6
    view.number.value = 7
    assert "query 9 of 10 (2 of 2" in view.status.value and view.number.value == 9


def test_nothing_to_show_is_said(retrieval):
    retrieval.ranked[:, 0] = np.tile(np.arange(5), 2)  # no failures
    view = retrieval_browser([retrieval.test], {"a": retrieval})
    view.only_failures.value = True
    assert "no query is like this" in view.status.value
    assert view.ranking.layout.display == view.map.layout.display == "none"
    view.next.click()
    assert view.message.value == ""
    view.only_failures.value = False
    assert view.ranking.layout.display is None


def test_nothing_old_is_shown_while_a_method_loads_or_when_it_cannot(retrieval):
    loading = Event()

    def broken():
        loading.wait(10)
        raise FileNotFoundError("no weights at here.safetensors")

    view = retrieval_browser([retrieval.test], {"a": retrieval, "b": broken})
    view.method.value = "b"
    assert view.working and view.shown.layout.visibility == "hidden"
    view.next.click()  # of what is not there yet
    assert view.number.value == 1 and view.working
    loading.set()
    settle(view)
    assert "FileNotFoundError: no weights at here.safetensors" in view.message.value
    assert view.shown.layout.visibility == "hidden"
    view.method.value = "a"
    assert view.message.value == "" and view.shown.layout.visibility is None


def test_given_a_model_a_damaged_query_leaves_the_others(test_root):
    test = TestSet(test_root)
    test.queries[0].write_bytes(b"no image")
    config = ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8)
    with pytest.warns(UserWarning, match="skipped"):
        view = settle(retrieval_browser([test], {"a": build_model(config, weights="hub")}))
    assert view.message.value == "" and "a damaged image" in view.status.value
    view.next.click()
    assert "query 2 of 10, day, first right one" in view.status.value and view.message.value == ""


def test_another_test_set_may_lack_conditions_and_labels(retrieval):
    test, plain = retrieval.test, of_folders(retrieval, read_folders, name="photos")
    view = retrieval_browser([test, plain.test], {"a": [retrieval, plain]})
    view.condition.value = "night"
    view.only_failures.value = True
    view.test_set.value = "photos"
    assert view.condition.options == (EVERY,) and view.only_failures.disabled
    assert [name for _, name in view.order.options] == [BY_NUMBER, "similarity"]
    assert "query 5 of 5" in view.status.value and view.map.layout.display == "none"
    view.test_set.value = test.name
    assert not view.only_failures.disabled and "(3 of 4" in view.status.value
