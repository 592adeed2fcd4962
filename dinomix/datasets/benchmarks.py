"""The field's test sets by name, opened only if they hold what they should.

What each should hold, how it is judged and where it comes from stands in benchmarks.toml.
"""

import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dinomix.data import TestSet, convention
from dinomix.datasets.layouts import read_folders
from dinomix.datasets.prepare.nordland import SPACING
from dinomix.evaluation import Retrieval
from dinomix.plumbing.configs import with_family
from dinomix.plumbing.errors import named
from dinomix.plumbing.files import atomic_path
from dinomix.plumbing.workspace import data_root


@dataclass(frozen=True)
class Benchmark:
    """A published test set, as `open_benchmark` opens it by its name."""

    name: str
    folder: str  # under the data folder, in the UTM layout
    split: str  # "val" or "test"
    database: int  # how many images it has
    queries: int
    challenge: str  # what makes it hard
    licence: str  # as the source page states it
    source: str  # page of the data set's own project
    citation: str
    threshold: float = 25.0  # a database image at most this far from a query is a positive
    unit: str = "m"  # of the threshold, as in `TestSet`
    swapped: bool = False  # the folder's database images are asked, and its queries searched
    stride: int = 1  # of frames, only those whose number it divides are asked
    slack: int = 0  # by how much `database` may differ, where only a rounded number is published
    known: Mapping[int, str] = field(default_factory=dict, hash=False)  # what other counts mean
    counts: str = ""  # where the numbers of images stand
    condition: str | None = None  # of the folder's queries: "night" for queries_night; None: all
    labelled: bool = True  # else the truth is not public: see `write_submission`

    @property
    def convention(self) -> str:
        """How a positive is decided, as it stands in results tables."""
        return convention(self.threshold, self.unit) if self.labelled else "no positions"


FACTS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def _benchmark(name: str, own: Mapping[str, Any]) -> Benchmark:
    fields = with_family(own, FACTS["families"])
    known = {int(count): meaning for count, meaning in fields.pop("known", {}).items()}
    return Benchmark(name, **fields, known=known)


BENCHMARKS = {name: _benchmark(name, own) for name, own in FACTS["benchmarks"].items()}
GSV_CITIES: list[str] = FACTS["gsv_cities"]  # of the published training set
SUBMITTED = 20  # images a query, as many as the evaluation of the MSLS challenge looks at
ROUNDING = 0.11  # metres: some formatters cut the names' numbers off after one digit


class CountError(ValueError):
    """A folder holds other numbers of images than the benchmark that it should be."""


def open_benchmark(name: str, root: str | Path | None = None, strict: bool = True) -> TestSet:
    """A published test set, judged by its own convention, once its counts are right.

    Args:
        root: holds the benchmark's folder; None means `workspace.data_root()`.
        strict: whether other counts are an error. Else they are a warning, and the test set gets
            a name that says so, such as "tokyo247 (6,332 database images)".

    Raises:
        ValueError: there is no such benchmark, or names in its folder give no frames.
        FileNotFoundError: it is not there; says where to get it.
        CountError: it has other counts; says what they mean where that is known.
    """
    benchmark = named(BENCHMARKS, name, "benchmark")
    folder = (data_root() if root is None else Path(root)) / benchmark.folder
    try:
        if benchmark.labelled:
            test = TestSet(folder, benchmark.split, name, condition=benchmark.condition)
        else:
            root = folder / "images" / benchmark.split
            test = read_folders(root / "database", root / "queries", name)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{name} is not there: {error} Get it from {benchmark.source} ({benchmark.licence}), "
            f"then run `dinomix prepare {benchmark.folder} <the download>`."
        ) from error
    test.threshold, test.unit = benchmark.threshold, benchmark.unit
    if benchmark.unit == "frames":
        test = _by_frames(test, benchmark)

    wrong = {}
    if abs(len(test.database) - benchmark.database) > benchmark.slack:
        wrong["database images"] = len(test.database)
    if len(test.queries) != benchmark.queries:
        wrong["queries"] = len(test.queries)
    if wrong:
        complaint = (
            f"{name} has {'about ' if benchmark.slack else ''}{benchmark.database:,} database "
            f"images and {benchmark.queries:,} queries, but {folder} gives "
            f"{len(test.database):,} and {len(test.queries):,}. {_meaning(test, benchmark, wrong)}"
        )
        if strict:
            raise CountError(
                f"{complaint} strict=False (--other-counts) opens it, under another name."
            )
        warnings.warn(complaint, stacklevel=2)
        test.name = f"{name} ({', '.join(f'{count:,} {what}' for what, count in wrong.items())})"
    return test


def table() -> pd.DataFrame:
    """The benchmarks, a row each, under their names."""
    columns = ["database", "queries", "convention", "challenge"]
    columns += ["licence", "source", "citation", "counts"]
    rows = [[getattr(b, column) for column in columns] for b in BENCHMARKS.values()]
    return pd.DataFrame(rows, index=list(BENCHMARKS), columns=columns)


def write_submission(found: Retrieval, file: str | Path) -> None:
    """What was retrieved, at least `SUBMITTED` images a query, as the MSLS challenge's server reads
    it: a line a query, its key and those of the images, nearest first, divided by spaces.

    Source: evaluate.py and the example files of https://github.com/mapillary/mapillary_sls
    Raises ValueError where a query found nothing.
    """
    lost = np.flatnonzero((found.ranked < 0).any(axis=1))
    if len(lost):
        raise ValueError(f"{found.test.queries[lost[0]]} found nothing, for it is damaged")
    keys = np.array([path.stem for path in found.test.database])
    queries = [path.stem for path in found.test.queries]
    rows = np.column_stack([queries, keys[found.ranked]])  # (Q, 1 + k)
    with atomic_path(Path(file)) as temporary:
        np.savetxt(temporary, rows, "%s")


def _meaning(test: TestSet, benchmark: Benchmark, wrong: Mapping[str, int]) -> str:
    """What it may be that has these counts."""
    known = [
        f"{count:,} {what}: {benchmark.known[count]}."
        for what, count in wrong.items()
        if count in benchmark.known
    ] or [
        f"These are the counts of {other.name}."
        for other in BENCHMARKS.values()
        if (len(test.database), len(test.queries)) == (other.database, other.queries)
    ]
    return " ".join(known) or "Images are missing, or there are some that do not belong to it."


def _by_frames(test: TestSet, benchmark: Benchmark) -> TestSet:
    """The same images by frame number, on the sides and with the queries that the benchmark has."""
    sides = [
        (test.database, _frames(test.database, test.database_utm)),
        (test.queries, _frames(test.queries, test.query_utm)),
    ]
    (database, frames), (queries, query_frames) = reversed(sides) if benchmark.swapped else sides
    asked = np.flatnonzero(query_frames[:, 0] % benchmark.stride == 0)
    queries, positions = [queries[i] for i in asked], (frames, query_frames[asked])
    limits = {"threshold": benchmark.threshold, "unit": "frames"}
    return TestSet.from_lists(benchmark.name, database, queries, *positions, **limits)


def _frames(paths: list[Path], metres: np.ndarray) -> np.ndarray:
    """Positions (frame, 0) from metres (N, 2) along one axis, east (ours) or north (others')."""
    along = metres.sum(axis=1)
    frames = np.rint(along / SPACING)
    wrong = (np.abs(frames * SPACING - along) > ROUNDING) | (metres != 0).all(axis=1)
    wrong |= pd.Series(frames).duplicated().to_numpy()
    if wrong.any():
        first = paths[int(wrong.argmax())]
        raise ValueError(
            f"the name of {first} gives no frame of its own: expected names of frames that lie "
            "25/10.5 m apart on a line, as `dinomix prepare nordland` writes them"
        )
    return np.stack([frames, np.zeros_like(frames)], axis=1)
