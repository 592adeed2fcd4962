"""The field's test sets by name, opened only if they hold what they should.

`dinomix prepare` makes their folders from the original downloads.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from dinomix.benchmark_facts import BENCHMARKS, Benchmark
from dinomix.testsets import TestSet
from dinomix.workspace import data_root

__all__ = ["BENCHMARKS", "Benchmark", "CountError", "open_benchmark", "table"]

FRAME_METRES = 25 / 10.5  # Nordland's names put frames this far apart, so that 10 are within 25 m
ROUNDING = 0.11  # metres: some formatters cut the names' numbers off after one digit


class CountError(ValueError):
    """A folder holds other numbers of images than the benchmark that it should be."""


def open_benchmark(name: str, root: str | Path | None = None, strict: bool = True) -> TestSet:
    """A published test set, judged by its own convention, once its counts are right.

    Args:
        name: one of `BENCHMARKS`.
        root: the data folder, which holds the benchmark's folder; None means
            `workspace.data_root()`.
        strict: whether other counts are an error. Else they are a warning, and the test set gets
            a name that says so, such as "tokyo247 (6,332 database images)".

    Raises:
        ValueError: there is no such benchmark, or names in its folder tell no frames.
        FileNotFoundError: it is not there; says where to get it.
        CountError: it has other counts; says which, and what they mean where that is known.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    folder = (data_root() if root is None else Path(root)) / benchmark.folder
    try:
        test = TestSet(folder, benchmark.split, name=name)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{name} is not there: {error} Get it from {benchmark.source} ({benchmark.licence}), "
            f"then run `dinomix prepare {benchmark.folder} <the download>`."
        ) from error
    test.threshold = benchmark.threshold
    if benchmark.unit == "frames":
        test = _by_frames(test, benchmark)
    wrong = _wrong_counts(test, benchmark)
    if wrong:
        complaint = _complain(test, benchmark, wrong, folder)
        if strict:
            raise CountError(f"{complaint} To use it under another name, pass strict=False.")
        warnings.warn(complaint, stacklevel=2)
        counts = ", ".join(f"{count:,} {what}" for what, count in wrong.items())
        test.name = f"{name} ({counts})"
    return test


def table() -> pd.DataFrame:
    """The benchmarks, a row each, under their names."""
    columns = ["database", "queries", "convention", "challenge", "licence", "source", "citation"]
    rows = [[getattr(b, column) for column in columns] for b in BENCHMARKS.values()]
    return pd.DataFrame(rows, index=list(BENCHMARKS), columns=columns)


def _wrong_counts(test: TestSet, benchmark: Benchmark) -> dict[str, int]:
    """What there is too much or too little of -> how many there are."""
    wrong = {}
    if abs(len(test.database) - benchmark.database) > benchmark.slack:
        wrong["database images"] = len(test.database)
    if len(test.queries) != benchmark.queries:
        wrong["queries"] = len(test.queries)
    return wrong


def _complain(test: TestSet, benchmark: Benchmark, wrong: Mapping[str, int], folder: Path) -> str:
    found = len(test.database), len(test.queries)
    meanings = [
        f"{count:,} {what}: {benchmark.known[count]}."
        for what, count in wrong.items()
        if count in benchmark.known
    ] or [
        f"These are the counts of {other.name}."
        for other in BENCHMARKS.values()
        if found == (other.database, other.queries)
    ]
    reason = " ".join(meanings) or "Images are missing, or there are some that do not belong to it."
    return (
        f"{benchmark.name} has {'about ' if benchmark.slack else ''}{benchmark.database:,} "
        f"database images and {benchmark.queries:,} queries, but {folder} gives {found[0]:,} and "
        f"{found[1]:,}. {reason}"
    )


def _by_frames(test: TestSet, benchmark: Benchmark) -> TestSet:
    """The same images by frame number, on the sides and with the queries that the benchmark has."""
    sides = [
        (test.database, _frames(test.database, test.database_utm)),
        (test.queries, _frames(test.queries, test.query_utm)),
    ]
    (database, frames), (queries, query_frames) = reversed(sides) if benchmark.swapped else sides
    asked = np.flatnonzero(query_frames[:, 0] % benchmark.stride == 0)
    return TestSet.from_lists(
        benchmark.name,
        database,
        [queries[i] for i in asked],
        frames,
        query_frames[asked],
        benchmark.threshold,
        unit="frames",
    )


def _frames(paths: list[Path], metres: np.ndarray) -> np.ndarray:
    """Positions (frame, 0) from metres (N, 2) along one axis, east (ours) or north (others')."""
    along = metres.sum(axis=1)
    frames = np.rint(along / FRAME_METRES)
    wrong = np.abs(frames * FRAME_METRES - along) > ROUNDING
    wrong |= (metres != 0).all(axis=1)
    _, first_seen = np.unique(frames, return_index=True)
    wrong[np.delete(np.arange(len(frames)), first_seen)] = True
    if wrong.any():
        first = paths[int(wrong.argmax())]
        raise ValueError(
            f"the name of {first} tells no frame of its own: expected names of frames that lie "
            "25/10.5 m apart on a line, as `dinomix prepare nordland` writes them"
        )
    return np.stack([frames, np.zeros_like(frames)], axis=1)
