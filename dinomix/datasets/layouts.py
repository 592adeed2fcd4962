"""Test sets of your own data that is in no UTM layout: CSV files, frames, unlabelled folders."""

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from dinomix.data import TestSet
from dinomix.plumbing.configs import real, whole
from dinomix.plumbing.csvtables import ImageTable, require_files
from dinomix.plumbing.imagenames import list_images
from dinomix.plumbing.positions import (
    LATLON_LIMITS,
    MAP_LIMITS,
    degrees_of,
    in_one_plane,
    plane_of_degrees,
)

DEGREES = dict(zip(("latitude", "longitude"), LATLON_LIMITS, strict=True))
METRES = dict(zip(("utm_east", "utm_north"), MAP_LIMITS, strict=True))
LAST_FRAME = 2**53  # beyond it, float64 does not tell neighbours apart


def read_csv(
    database: str | Path, queries: str | Path, name: str | None = None, threshold: float = 25.0
) -> TestSet:
    """A test set from two CSV files, one row an image, with a header.

    Columns: `image`, a path relative to the CSV's folder; `latitude` and `longitude` in degrees
    (WGS 84) or `utm_east` and `utm_north` in metres; optionally `utm_zone` (such as 31T),
    `condition` and `group` (of queries: those of a group are not independent, see
    `TestSet.groups`) and `place`, any text. Without coordinates, positives are the images of the
    same place. Other columns are left aside.

    Args:
        name: of the data set in results tables; None takes that of the database file's folder.
        threshold: a database image within this many metres of a query is a positive.

    Raises:
        FileNotFoundError: a CSV file or images are missing.
        ValueError: columns do not go together; a value is no number, or no possible one; an image
            lies outside of the CSV's folder or its name is there twice. The row is named.
    """
    listed, asked = tables = [ImageTable.read(Path(path)) for path in (database, queries)]
    conditions, groups = asked.columns.get("condition"), asked.columns.get("group")
    if groups is not None:
        asked.require("group", [bool(name) for name in groups], "the name of a group")
    listed.require_distinct()
    asked.require_distinct(conditions)
    require_files(tables)

    unit, degrees = "m", None
    if all(table.has(*METRES) for table in tables):
        metres, zones, rows = read_points(tables, METRES)
        positions = np.split(in_one_plane(metres, zones, rows), [len(listed.images)])
        degrees = degrees_of(metres, zones)
    elif all(table.has(*DEGREES) for table in tables):
        degrees, _, rows = read_points(tables, DEGREES)
        positions = np.split(plane_of_degrees(degrees, rows), [len(listed.images)])
    elif all(table.has("place") for table in tables):
        positions, unit, threshold = _number_places(tables), "places", 0.0
    else:
        raise ValueError(
            f"{database} has the columns {list(listed.columns)} and {queries} "
            f"{list(asked.columns)}: both need latitude and longitude, or both utm_east and "
            "utm_north, or both place. Without them, read_folders takes folders of images."
        )
    test = TestSet.from_lists(
        name or _folder_name(database),
        *(listed.images, asked.images),
        *positions,
        threshold,
        conditions=conditions,
        groups=groups,
        unit=unit,
        positions_in_names=False,
    )
    if degrees is not None:
        test.degrees = degrees
    return test


def read_frames(
    database: str | Path,
    queries: str | Path,
    tolerance: float,
    name: str | None = None,
    query_stride: int = 1,
) -> TestSet:
    """A test set from two folders of frames along one route, numbered alike.

    A frame's number is the last run of digits in its file's name, before the suffix.

    Args:
        tolerance: in frames; a database frame at most this far from a query is a positive.
        name: of the data set in results tables; None takes that of the folder above `database`.
        query_stride: the query numbered i stands at frame query_stride * i, for queries that are a
            selection of frames, numbered anew.

    Raises:
        FileNotFoundError: a folder is missing or holds no images.
        ValueError: a name has no number or a far too large one, or two have the same.
    """
    tolerance = real("tolerance", tolerance)
    query_stride = whole("query_stride", query_stride, least=1)
    images, frames = _number_frames(Path(database), 1)
    asked, asked_frames = _number_frames(Path(queries), query_stride)
    return TestSet.from_lists(
        name or _folder_name(database),
        *(images, asked),
        *(frames, asked_frames),
        tolerance,
        unit="frames",
        positions_in_names=False,
    )


def read_folders(database: str | Path, queries: str | Path, name: str | None = None) -> TestSet:
    """Two folders of images without labels: for retrieval and looking, not for recall."""
    images, asked = (list_images(Path(folder)) for folder in (database, queries))
    return TestSet.from_lists(name or _folder_name(database), images, asked, None, None)


def read_points(
    tables: Sequence[ImageTable], columns: dict[str, tuple[float, float]]
) -> tuple[np.ndarray, list[str], list[str]]:
    """Two columns with their limits, float64 (N, 2); `utm_zone`, or empty texts; and the rows, as
    errors name them.
    """
    points = [[t.values(name, *limits) for name, limits in columns.items()] for t in tables]
    zones = (table.columns.get("utm_zone", [""] * len(table.images)) for table in tables)
    rows = [f"{table.path}, row {number}" for table in tables for number in table.numbers]
    return np.concatenate(points, axis=1).T, list(chain(*zones)), rows


def _number_places(tables: Sequence[ImageTable]) -> list[np.ndarray]:
    """Places as points on a line: the images of one place coincide, all others are apart."""
    numbers: dict[str, int] = {}
    positions = []
    for table in tables:
        names = table.columns["place"]
        table.require("place", [bool(name) for name in names], "the name of a place")
        found = [(numbers.setdefault(name, len(numbers)), 0) for name in names]
        positions.append(np.array(found, dtype=np.float64))  # (N, 2)
    return positions


def _number_frames(folder: Path, stride: int) -> tuple[list[Path], np.ndarray]:
    """A folder's frames in order, and their positions (frame, 0): float64 (N, 2)."""
    frames: dict[int, Path] = {}
    for path in list_images(folder):
        digits = re.findall(r"[0-9]+", path.stem)
        if not digits:
            raise ValueError(f"{path} has no frame number: expected digits in its name")
        number = int(digits[-1])
        if stride * number > LAST_FRAME:
            raise ValueError(f"{path}: {number} is too large for a frame number; count from 0")
        if number in frames:
            raise ValueError(
                f"{frames[number].name} and {path.name} in {folder} have the same frame number "
                f"{number}, the last digits of their names"
            )
        frames[number] = path
    ordered = sorted(frames)
    positions = np.array([(stride * number, 0) for number in ordered], dtype=np.float64)  # (N, 2)
    return [frames[number] for number in ordered], positions


def _folder_name(path: str | Path) -> str:
    return Path(path).absolute().parent.name
