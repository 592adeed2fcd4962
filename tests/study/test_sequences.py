"""Votes of neighbouring frames, against a loop over all pairs of them."""

import numpy as np
import pytest

from dinomix.study.sequences import recall_by_window, smooth

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
        ({"drives": DRIVES[:8]}, r"\(9, 4\) and drives \(8,\)"),
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
