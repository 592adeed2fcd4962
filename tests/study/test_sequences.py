"""Votes of neighbouring frames, against a loop over all pairs of them."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dinomix.data import TestSet
from dinomix.evaluation import Retrieval
from dinomix.study.sequences import decode, recall_by_window, smooth

DRIVES = np.array([7, 7, 7, 7, 7, 2, 3, 3, 3])


@pytest.fixture
def similarities():
    return np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)


@pytest.mark.parametrize("window", [1, 3, 5, 99])
def test_smooth_is_the_mean_over_neighbours_of_the_same_drive(similarities, window):
    before = similarities.copy()
    got = smooth(similarities, DRIVES, window)
    for i in range(9):
        near = [
            similarities[j]
            for j in range(9)
            if abs(i - j) <= window // 2 and DRIVES[i] == DRIVES[j]
        ]
        np.testing.assert_allclose(got[i], np.mean(near, axis=0), rtol=1e-5, atol=1e-6)
    assert got.dtype == np.float32
    assert (similarities == before).all()


def test_smooth_takes_no_frames_and_whole_numbers():
    assert smooth(np.empty((0, 4)), np.empty(0), 3).shape == (0, 4)
    assert smooth(np.array([[0], [1]]), [0, 0], 3).tolist() == [[0.5], [0.5]]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        *(({"window": window}, f"window is {window}: take an odd") for window in (4, -1)),
        ({"drives": DRIVES[:8]}, r"drives \(8,\) do not fit 9 frames"),
        ({"similarities": np.ones(9)}, r"similarities \(9,\)"),
        ({"drives": np.array([2, 2, 1, 1, 1, 2, 3, 3, 3])}, "drive 2 is in several pieces"),
    ],
)
def test_what_does_not_fit_is_refused(similarities, change, complaint):
    with pytest.raises(ValueError, match=complaint):
        smooth(**{"similarities": similarities, "drives": DRIVES, "window": 3, **change})


def test_the_most_similar_come_first_and_of_equals_the_first():
    similarities = np.array([[0.1, 0.9, 0.5, 0.9]])
    ranks = {
        image: recall_by_window(similarities, np.zeros(1), [np.array([image])], (1,), (1, 2, 3, 9))
        for image in range(4)
    }
    found = {image: list(recall[1].values()).index(100.0) for image, recall in ranks.items()}
    assert found == {1: 0, 3: 1, 2: 2, 0: 3}


def test_neighbours_outvote_a_frame_that_is_wrong_by_itself():
    """Database images 0 and 1; the middle one of three frames is blinded."""
    similarities = np.array([[0.9, 0.1], [0.2, 0.5], [0.9, 0.1]])
    positives_of = [np.array([0])] * 3
    recall = recall_by_window(similarities, np.zeros(3), positives_of, windows=(1, 3), ks=(1, 2))
    assert recall[1] == {1: pytest.approx(200 / 3), 2: 100}
    assert recall[3] == {1: 100, 2: 100}


@pytest.mark.parametrize("window", [1, 3, 5])
def test_a_skipped_frame_or_database_image_is_never_right_nor_costs_its_neighbours(
    similarities, window
):
    skipped, gone = [2, 5], 3
    given = similarities.copy()
    given[skipped], given[:, gone] = np.nan, np.nan
    got = smooth(given, DRIVES, window)
    for i in range(9):
        near = [
            similarities[j]
            for j in range(9)
            if abs(i - j) <= window // 2 and DRIVES[i] == DRIVES[j] and j not in skipped
        ]
        expected = np.full(4, np.nan) if i in skipped else np.mean(near, axis=0)
        expected[gone] = np.nan
        np.testing.assert_allclose(got[i], expected, rtol=1e-5, atol=1e-6)
    found = recall_by_window(given, DRIVES, [np.array([gone])] * 9, [window], [4])
    assert found == {window: {4: 0.0}}
    found = recall_by_window(given, DRIVES, [np.array([0])] * 9, [window], [4])
    assert found[window][4] == pytest.approx(100 * 7 / 9)


def made_drives(seed, lost=()):
    """Two drives of four and three frames, with three matches each of eight images."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 30, (8, 2))
    names = [Path(str(i)) for i in range(8)]
    test = TestSet.from_lists("made", names, names[:7], places, places[:7])
    ranked = np.stack([rng.permutation(8)[:3] for _ in range(7)])
    ranked[list(lost)] = -1
    similarities = np.where(ranked < 0, -np.inf, -np.sort(-rng.random((7, 3))))
    return Retrieval(test, ranked, similarities, None), np.array([5, 5, 5, 5, 2, 2, 2])


@pytest.mark.parametrize("lost", [(), (1, 2), (0, 6), (4, 5, 6)])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_drive_of_all(seed, lost):
    found, drives = made_drives(seed, lost)
    got = decode(found, drives, step=3, price=0.1)
    for drive in (5, 2):
        frames = [i for i in np.flatnonzero(drives == drive) if i not in lost]
        best = {}  # (frame, column) -> the worth of the best drive through it
        for columns in itertools.product(range(3), repeat=len(frames)):
            path = list(zip(frames, columns, strict=True))
            worth = sum(found.similarities[at] for at in path)
            for (i, a), (j, b) in itertools.pairwise(path):
                here, there = (found.test.database_utm[found.ranked[at]] for at in ((i, a), (j, b)))
                worth -= 0.1 * abs(math.dist(here, there) / (j - i) - 3)
            for at in path:
                best[at] = max(best.get(at, -np.inf), worth)
        for i in frames:
            order = sorted(range(3), key=lambda column, i=i: -best[i, column])
            assert got.ranked[i].tolist() == found.ranked[i, order].tolist()
            assert got.similarities[i].tolist() == found.similarities[i, order].tolist()
    assert (got.ranked[list(lost)] == -1).all()
    free = decode(found, drives, step=3, price=0)
    assert (free.ranked == found.ranked).all()


def test_what_cannot_be_decoded():
    found, drives = made_drives(0)
    for change, complaint in (
        ({"drives": drives[:6]}, r"drives \(6,\) do not fit 7 frames"),
        ({"drives": np.array([1, 1, 2, 2, 1, 1, 1])}, "drive 1 is in several pieces"),
        ({"step": -1}, "step is -1"),
        ({"price": float("nan")}, "price is nan"),
    ):
        with pytest.raises(ValueError, match=complaint):
            decode(found, **{"drives": drives, "step": 3, **change})
    files, numbers = (
        (found.test.database, found.test.queries),
        (found.test.database_utm, np.ones((7, 2))),
    )
    for where, unit in (((None, None), "m"), (numbers, "places")):
        test = TestSet.from_lists("far", *files, *where, unit=unit)
        with pytest.raises(ValueError, match="far: no drive can be followed"):
            decode(replace(found, test=test), drives, step=3)
