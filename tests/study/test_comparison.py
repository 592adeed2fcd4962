"""Verdicts by loops over every pair; cases on made-up retrievals whose choice is plain to see."""

import math
from pathlib import Path

import numpy as np
import pytest

from dinomix.data import TestSet
from dinomix.evaluation import Retrieval, positives
from dinomix.study.comparison import choose_cases, headings, matching_views, verdicts
from toycity import Camera, make_city
from toycity.writer import utm_name


def name(east: float, north: float = 0.0, heading: str = "") -> Path:
    return Path(f"@{east}@{north}@31@T@45.0@1.0@pano@@{heading}@0@@@2020@@.jpg")


def made(database: list[Path], queries: list[Path], ranked, conditions=None, title="made"):
    """A retrieval that returned `ranked`, on a test set of files that need not exist."""
    utm = [
        np.array([[float(f) for f in path.name.split("@")[1:3]] for path in paths]).reshape(-1, 2)
        for paths in (database, queries)
    ]
    test = TestSet.from_lists(title, database, queries, *utm)
    test.conditions = list(conditions or test.conditions)
    ranked = np.array(ranked)
    truth = positives(*utm, test.threshold)
    return Retrieval(test, ranked, np.zeros(ranked.shape, np.float32), truth)


def test_headings_are_where_the_toy_city_writes_them():
    written = utm_name(make_city(0, 2), Camera(0, 0, heading=275.4), "night", 0, "2020")
    paths = [Path(written), name(0, heading="090"), name(0), name(0, heading="inf"), Path("a.jpg")]
    np.testing.assert_array_equal(headings(paths), [275, 90, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(headings([name(0, heading="north")]), [np.nan])


def test_distance_and_verdicts_equal_a_slow_loop():
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 100, (14, 2)).round(1)
    looks = ["", "0", "30", "100", "200", "350", "340"]
    paths = [name(*place, looks[i % 7]) for i, place in enumerate(places)]
    database, queries = paths[:8], paths[8:]
    retrieval = made(database, queries, rng.permuted(np.tile(np.arange(8), (6, 1)), axis=1))
    found, metres = verdicts(retrieval), retrieval.distances()
    assert set(found.ravel()) == {"right", "near", "wrong"}
    for q in range(6):
        for r, d in enumerate(retrieval.ranked[q]):
            apart = math.dist(places[8 + q], places[d])
            assert metres[q, r] == pytest.approx(apart)
            ours, theirs = looks[(8 + q) % 7], looks[d % 7]
            turned = 0.0
            if ours and theirs:
                turned = abs(int(ours) - int(theirs))
                turned = min(turned, 360 - turned)
            if apart <= 25:
                assert found[q, r] == "right"
            else:
                assert found[q, r] == ("near" if apart <= 75 and turned <= 45 else "wrong")


@pytest.mark.parametrize(
    ("metres", "ours", "theirs", "verdict"),
    [
        (25.0, "0", "180", "right"),
        (25.5, "0", "45", "near"),
        (25.5, "0", "46", "wrong"),
        (75.0, "350", "35", "near"),  # across north
        (75.0, "350", "36", "wrong"),
        (75.5, "0", "0", "wrong"),
        (75.0, "", "180", "near"),  # distance alone decides
        (75.0, "180", "", "near"),
        (75.5, "", "", "wrong"),
    ],
)
def test_bounds_of_verdicts(metres, ours, theirs, verdict):
    retrieval = made([name(metres, heading=theirs)], [name(0, heading=ours)], [[0]])
    assert verdicts(retrieval).tolist() == [[verdict]]


def test_where_nothing_was_retrieved_is_wrong_and_nowhere():
    """The last database image, which index -1 would be, is the right one."""
    retrieval = made([name(400), name(0)], [name(0), name(0)], [[-1, -1], [1, -1]])
    assert verdicts(retrieval).tolist() == [["wrong", "wrong"], ["right", "wrong"]]
    np.testing.assert_array_equal(retrieval.distances(), [[np.nan, np.nan], [0, np.nan]])


def test_matching_views_face_the_same_way():
    database = [name(0, heading="180"), name(3, heading="10"), name(9), name(60, heading="0")]
    queries = [name(1, heading="350"), name(1, heading="90"), name(1), name(120, heading="0")]
    test = made(database, queries, np.zeros((4, 1), int)).test
    # The nearest faces the other way; then only one without a heading is left; then the nearest
    # will do; and the last query has nothing within the threshold.
    assert matching_views(test).tolist() == [1, 2, 0, -1]


def three_methods(**tops: list[int]) -> dict[str, Retrieval]:
    """Queries at places 0, 1, 2, ..., 100 m apart; the last one is far from every place."""
    database = [name(100.0 * place) for place in range(7)]
    queries = [*(name(100.0 * place + 5) for place in range(7)), name(9000.0)]
    conditions = ["day", "day", "dusk", "dusk", "night", "night", "night", "snow"]
    return {
        method: made(database, queries, [[t, 0] for t in top], conditions)
        for method, top in tops.items()
    }


def test_cases_are_the_ones_that_tell_methods_apart():
    retrievals = three_methods(
        ours=[0, 1, 2, 3, 4, 0, 0, 0],
        b=[0, 1, 0, 3, 0, 5, 6, 0],
        c=[0, 1, 2, 0, 0, 0, 6, 0],
    )
    groups = {"light": ["dusk", "night"], "none": [], "day": ["day"], "season": ["snow"]}
    cases = choose_cases(retrievals, "ours", groups)
    assert cases.to_dict("list") == {
        # All are right on both days, which leaves no failure; on snow nothing could be right.
        "challenge": ["light", "light", "day"],
        "condition": ["night", "night", "day"],
        "kind": ["success", "failure", "success"],
        "query": [4, 6, 0],
        "right": [0, 2, 2],
        "others": [2, 2, 2],
    }
    nobody = choose_cases(
        three_methods(ours=[1] * 8, b=[2, 2, 0, *[2] * 5]), "ours", {"light": ["dusk"]}
    )
    assert nobody[["kind", "query", "right"]].values.tolist() == [["failure", 2, 0]]


def test_a_method_alone_has_cases_too_and_no_cases_keep_the_columns():
    alone = three_methods(ours=[0, 0, *[0] * 6])
    cases = choose_cases(alone, "ours", {"day": ["day"]})
    assert cases[["kind", "query", "right", "others"]].values.tolist() == [
        ["success", 0, 0, 0],
        ["failure", 1, 0, 0],
    ]
    assert list(choose_cases(alone, "ours", {})) == list(cases)


def test_errors():
    retrievals = three_methods(ours=[0] * 8, b=[0] * 8)
    with pytest.raises(ValueError, match="no retrieval of method 'c'; there are b, ours"):
        choose_cases(retrievals, "c", {})
    with pytest.raises(ValueError, match=r"\['fog'\]: it has \['day'"):
        choose_cases(retrievals, "ours", {"weather": ["snow", "fog"]})
    retrievals["b"] = made([name(0)], [name(1)], [[0]], title="elsewhere")
    with pytest.raises(ValueError, match="b retrieved on elsewhere and ours on made"):
        choose_cases(retrievals, "ours", {})
