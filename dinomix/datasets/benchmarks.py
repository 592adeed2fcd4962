"""The field's test sets: what each should hold, how it is judged, and where it comes from.

The counts are those in the logs of DINO-Mix's authors, and for sets that they did not use those
of the publications cited and of the data sets' own issue pages.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dinomix.data import TestSet, convention
from dinomix.plumbing.workspace import data_root


@dataclass(frozen=True)
class Benchmark:
    """A published test set.

    Attributes:
        name: what `open_benchmark` opens it by, and what stands in results tables.
        folder: under the data folder, in the UTM layout.
        split: "val" or "test".
        database, queries: how many images it has.
        challenge: what makes it hard.
        licence: as the source page states it.
        source: page of the data set's own project.
        citation: what to cite.
        threshold, unit: a database image at most this far from a query is a positive (`TestSet`).
        swapped: the folder's database images are asked, and its queries searched.
        stride: of frames, only those whose number it divides are asked.
        slack: by how much `database` may differ, where only a rounded number is published.
        known: other counts that one meets, and what they mean.
    """

    name: str
    folder: str
    split: str
    database: int
    queries: int
    challenge: str
    licence: str
    source: str
    citation: str
    threshold: float = 25.0
    unit: str = "m"
    swapped: bool = False
    stride: int = 1
    slack: int = 0
    known: Mapping[int, str] = field(default_factory=dict, hash=False)

    @property
    def convention(self) -> str:
        """How a positive is decided, as it stands in results tables."""
        return convention(self.threshold, self.unit)


_PITTSBURGH = {
    "licence": "images on request",
    "source": "https://www.di.ens.fr/willow/research/netvlad/",
    "citation": "Torii, Sivic, Okutomi, Pajdla: Visual Place Recognition with Repetitive "
    "Structures, TPAMI 2015; splits: Arandjelović, Gronat, Torii, Pajdla, Sivic: NetVLAD, CVPR "
    "2016",
}
_NORDLAND = {
    "folder": "nordland",
    "split": "test",
    "challenge": "season",
    "licence": "Creative Commons, see the source page",
    "source": "https://nrkbeta.no/2013/01/15/nordlandsbanen-minute-by-minute-season-by-season/",
    "unit": "frames",
}
_NORDLAND_COUNTS = {
    28_865: "this is the edition of Olid et al. (2018), with another list of frames",
    3_450: "this is the test part of the edition of Olid et al. (2018), asked with +-2 frames",
}
_SFXL = {
    "licence": "on request",
    "source": "https://github.com/gmberton/CosPlace",
    "citation": "Berton, Masone, Caputo: Rethinking Visual Geo-localization for Large-Scale "
    "Applications, CVPR 2022",
}
_ALL_MSLS = "these are all the queries of its two cities, not the official list of 740"

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("pitts30k-val", "pitts30k", "val", 10_000, 7_608, "viewpoint", **_PITTSBURGH),
        Benchmark("pitts30k-test", "pitts30k", "test", 10_000, 6_816, "viewpoint", **_PITTSBURGH),
        *(
            Benchmark(
                f"pitts250k-{split}",
                "pitts250k",
                split,
                *counts,
                "viewpoint, many look-alikes",
                **_PITTSBURGH,
            )
            for split, counts in {"val": (78_648, 7_608), "test": (83_952, 8_280)}.items()
        ),
        Benchmark(
            "tokyo247",
            "tokyo247",
            "test",
            75_984,
            315,
            "night, viewpoint",
            licence="images on request",
            source="http://www.ok.ctrl.titech.ac.jp/~torii/project/247/",
            citation="Torii, Arandjelović, Sivic, Okutomi, Pajdla: 24/7 Place Recognition by View "
            "Synthesis, TPAMI 2018",
            known={
                6_332: "this is one cut-out of each panorama instead of 12",
                1_125: "these are all the photos taken, of which the benchmark asks 315",
            },
        ),
        Benchmark(
            "nordland",
            database=27_592,
            queries=27_592,
            threshold=10,
            citation="Sünderhauf, Neubert, Protzel: Are We There Yet? Challenging SeqSLAM on a "
            "3000 km Journey Across All Four Seasons, ICRA workshop 2013; frames: Hausler et al.: "
            "Patch-NetVLAD, CVPR 2021",
            known=_NORDLAND_COUNTS
            | {2_760: "this is every tenth frame, which other papers ask: nordland-1"},
            **_NORDLAND,
        ),
        Benchmark(
            "nordland-1",
            database=27_592,
            queries=2_760,
            threshold=1,
            swapped=True,
            stride=10,
            citation="as nordland; queries: Zaffar et al.: VPR-Bench, IJCV 2021",
            known=_NORDLAND_COUNTS,
            **_NORDLAND,
        ),
        Benchmark(
            "sfxl-val",
            "sfxl",
            "val",
            8_015,
            7_993,
            "a whole city",
            known={7_983: "some logs in EigenPlaces' issues have these ten queries fewer"},
            **_SFXL,
        ),
        Benchmark(
            "sfxl-testv1",
            "sfxl",
            "test",
            2_800_000,
            1_000,
            "other cameras, years",
            slack=50_000,
            known={
                27_191: "this is SF-XL small, made to try code on; results are not comparable",
                598: "these are the queries of test v2",
            },
            **_SFXL,
        ),
        Benchmark(
            "sfxl-testv1-small",
            "sfxl-small",
            "test",
            27_191,
            1_000,
            "other cameras, years",
            **_SFXL,
        ),
        Benchmark(
            "msls-val",
            "msls",
            "val",
            18_871,
            740,
            "season, night, other cameras",
            licence="see the source page",
            source="https://www.mapillary.com/dataset/places",
            citation="Warburg, Hauberg, López-Antequera, Gargallo, Kuang, Civera: Mapillary "
            "Street-Level Sequences, CVPR 2020",
            known={
                11_084: _ALL_MSLS + ", without panoramas",
                11_120: _ALL_MSLS,
                750: "these are the official queries with those that have no positive",
                747: "these are the official queries with those that have no positive, without "
                "panoramas",
            },
        ),
    )
}


# The field's test sets by name, opened only if they hold what they should.
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
