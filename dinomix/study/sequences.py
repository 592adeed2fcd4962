"""Recognition from sequences: neighbouring frames of a drive see one place, so let them vote."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from dinomix.evaluation import Retrieval, recall_at_k
from dinomix.plumbing.configs import real


def smooth(similarities: np.ndarray, drives: np.ndarray, window: int) -> np.ndarray:
    """The similarities of each frame, averaged over its neighbours in the same drive: float (Q, N).

    Frame i takes the mean of the rows i - window // 2 to i + window // 2, cut off at its drive's
    ends: it looks ahead by half a window. Rows of NaN, of skipped frames, stay so, and do not count
    for their neighbours.

    Args:
        similarities: (Q, N) of each frame to each database image, in driving order.
        drives: (Q,) what drive each frame belongs to.

    Raises:
        ValueError: a window that is even or below 1, sizes that do not fit, or a drive in pieces.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window is {window}: take an odd number of frames, 1 or more")
    if similarities.ndim != 2:
        raise ValueError(f"similarities {similarities.shape} should be (Q, N)")
    drives = _in_order(drives, len(similarities))
    lost = np.isnan(similarities).all(axis=1)  # (Q,)
    similarities = np.where(lost[:, None], 0, similarities)
    total = similarities.astype(np.result_type(similarities, np.float32))  # a copy
    neighbours = (~lost).astype(int)
    for step in range(1, min(window // 2, len(drives) - 1) + 1):
        together = drives[step:] == drives[:-step]  # rows i and i + step
        total[:-step][together] += similarities[step:][together]
        total[step:][together] += similarities[:-step][together]
        neighbours[:-step] += together & ~lost[step:]
        neighbours[step:] += together & ~lost[:-step]
    total[lost] = np.nan
    return total / np.maximum(neighbours, 1)[:, None].astype(total.dtype)


def decode(
    retrieval: Retrieval, drives: np.ndarray, *, step: float, price: float = 0.005
) -> Retrieval:
    """The matches of each frame in the order of the best drives through them, by Viterbi's method.

    A drive picks one match a frame. Its worth is the sum of their similarities, less `price` for
    each metre by which the distance between two in a row differs from the camera's `step`. First
    comes the match on the best drive, then the others by the best drive through each; of equals,
    what came first. Over frames that found nothing (-1), the mean step counts. Time: Q * k^2.

    Args:
        retrieval: of Q frames in driving order; similarities stay with their images.
        drives: (Q,) what drive each frame belongs to.
        step: from a frame to the next, in the unit of the test set's positions.
        price: of the values tried, the best for two models on a drive through the toy study's
            validation city.

    Raises:
        ValueError: no positions, drives that do not fit or are in pieces, a negative number.
    """
    test, ranked = retrieval.test, retrieval.ranked
    if not test.labelled or test.unit == "places":
        raise ValueError(f"{test.name}: no drive can be followed where distances are unknown")
    step, price, drives = real("step", step), real("price", price), _in_order(drives, len(ranked))
    found = ranked >= 0  # (Q, k)
    worth = np.where(found, retrieval.similarities, -np.inf).astype(np.float64)
    places = test.database_utm[ranked]  # (Q, k, 2); anywhere, where nothing is found
    best = worth.copy()
    for drive in dict.fromkeys(drives.tolist()):
        frames = np.flatnonzero((drives == drive) & found.any(axis=1))
        for way in (frames, frames[::-1]):  # what leads to each match, and what follows it
            reached = np.zeros(ranked.shape[1])
            for last, frame in pairwise(way):
                moved = np.linalg.norm(places[frame, :, None] - places[last], axis=2)  # (k, k)
                off = np.abs(moved / abs(frame - last) - step)
                reached = (reached + worth[last] - price * off).max(axis=1)  # (k,)
                best[frame] += reached
    order = np.argsort(-best, axis=1, kind="stable")
    ranked, similarities = (
        np.take_along_axis(each, order, axis=1) for each in (ranked, retrieval.similarities)
    )
    return replace(retrieval, ranked=ranked, similarities=similarities)


def recall_by_window(
    similarities: np.ndarray,
    drives: np.ndarray,
    positives_of: Sequence[np.ndarray],
    windows: Sequence[int] = (1, 3, 5, 9),
    ks: Sequence[int] = (1, 5, 10),
) -> dict[int, dict[int, float]]:
    """Recall of single frames and of sequences: {window: {k: percent}}; 1 is the single frame.

    Of similarities and drives as in `smooth`, and Q arrays of `evaluation.positives`. Of equally
    similar images the first is found first, and what is NaN never.
    """
    found = {}
    for window in windows:
        votes = smooth(similarities, drives, window)  # (Q, N)
        ranked = np.argsort(-votes, axis=1, kind="stable")[:, : max(ks)]
        ranked[np.isnan(np.take_along_axis(votes, ranked, axis=1))] = -1
        found[window] = recall_at_k(ranked, positives_of, ks)
    return found


def _in_order(drives: np.ndarray, frames: int) -> np.ndarray:
    """The drive of each frame, (Q,); ValueError if they do not fit, or one is in several pieces."""
    drives = np.asarray(drives)
    if drives.shape != (frames,):
        raise ValueError(f"drives {drives.shape} do not fit {frames} frames: give each its own")
    starts = np.concatenate([[True], drives[1:] != drives[:-1]])[: len(drives)]
    runs, counts = np.unique(drives[starts], return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"drive {runs[counts > 1][0]} is in several pieces: put the frames in driving order, "
            "and number the drives of different conditions differently"
        )
    return drives
