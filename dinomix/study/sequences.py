"""Recognition from sequences: neighbouring frames of a drive see one place, so let them vote."""

from collections.abc import Sequence

import numpy as np

from dinomix.evaluation import recall_at_k


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
    drives = np.asarray(drives)
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window is {window}: take an odd number of frames, 1 or more")
    if similarities.ndim != 2 or drives.shape != similarities.shape[:1]:
        given = f"similarities {similarities.shape} and drives {drives.shape}"
        raise ValueError(f"{given} do not fit: expected (Q, N) and (Q,)")
    starts = np.concatenate([[True], drives[1:] != drives[:-1]])[: len(drives)]
    runs, counts = np.unique(drives[starts], return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"drive {runs[counts > 1][0]} is in several pieces: put the frames in driving order, "
            "and number the drives of different conditions differently"
        )
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
