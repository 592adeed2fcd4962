"""Stepping through queries, without widgets and with them."""

import numpy as np
import pytest

from dinomix import TestSet
from dinomix.datasets.layouts import read_folders
from dinomix.evaluation import Retrieval
from dinomix.widgets.browser import EVERY, Browsing, retrieval_browser


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


def test_another_test_set_may_lack_conditions_and_labels(retrieval):
    test = retrieval.test
    folders = read_folders(test.database[0].parent, test.queries[0].parent, name="photos")
    plain = Retrieval(folders, retrieval.ranked[:5], retrieval.similarities[:5], None)
    view = retrieval_browser([test, folders], {"a": [retrieval, plain]})
    view.condition.value = "night"
    view.only_failures.value = True
    view.test_set.value = "photos"
    assert view.condition.options == (EVERY,) and view.only_failures.disabled
    assert "query 1 of 5" in view.status.value and view.map.layout.display == "none"
    view.test_set.value = test.name
    assert not view.only_failures.disabled and "query 1 of 4" in view.status.value


def test_errors_show_in_the_view(retrieval):
    def broken():
        raise FileNotFoundError("no weights at here.safetensors")

    view = retrieval_browser([retrieval.test], {"a": retrieval, "b": broken})
    view.method.value = "b"
    assert "FileNotFoundError: no weights at here.safetensors" in view.message.value
    view.method.value = "a"
    assert view.message.value == ""
