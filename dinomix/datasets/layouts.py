"""Test sets of your own data that is in no UTM layout: CSV files, frames, unlabelled folders."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import utm

from dinomix.data import FARTHEST, TestSet
from dinomix.plumbing.csvtables import ImageTable, require_files
from dinomix.plumbing.imagenames import list_images

DEGREES = {"latitude": (-80, 84), "longitude": (-180, 180)}  # where UTM is defined
METRES = {"utm_east": (-FARTHEST, FARTHEST), "utm_north": (-FARTHEST, FARTHEST)}
ZONE_WIDTH = 6.0  # degrees of longitude that a UTM zone covers
LAST_FRAME = 2**53  # beyond it, float64 does not tell neighbours apart


def read_csv(
    database: str | Path, queries: str | Path, name: str | None = None, threshold: float = 25.0
) -> TestSet:
    """A test set from two CSV files, one row an image, with a header.

    Columns: `image`, a path relative to the CSV's folder; `latitude` and `longitude` in degrees
    (WGS 84) or `utm_east` and `utm_north` in metres of one zone; optionally `condition` (of
    queries) and `place`, any text. Without coordinates, positives are the images of the same
    place. Other columns are left aside.

    Args:
        name: of the data set in results tables; None takes that of the database file's folder.
        threshold: a database image within this many metres of a query is a positive.

    Raises:
        FileNotFoundError: a CSV file or images are missing.
        ValueError: columns do not go together; a value is no number, or no possible one; an image
            lies outside of the CSV's folder or its name is there twice. The row is named.
    """
    listed, asked = tables = [ImageTable.read(Path(path)) for path in (database, queries)]
    conditions = asked.texts("condition") if asked.has("condition") else None
    listed.require_distinct()
    asked.require_distinct(conditions)
    require_files(tables)

    unit = "m"
    if all(table.has(*METRES) for table in tables):
        positions = [_pairs(table, METRES) for table in tables]
        _refuse_degrees(tables, positions)
    elif all(table.has(*DEGREES) for table in tables):
        positions = _project(tables, [_pairs(table, DEGREES) for table in tables])
    elif all(table.has("place") for table in tables):
        positions, unit, threshold = _number_places(tables), "places", 0.0
    else:
        raise ValueError(
            f"{database} has the columns {list(listed.columns)} and {queries} "
            f"{list(asked.columns)}: both need latitude and longitude, or both utm_east and "
            "utm_north, or both place. Without them, read_folders takes folders of images."
        )
    return TestSet.from_lists(
        name or _folder_name(database),
        *(listed.images, asked.images),
        *positions,
        threshold,
        conditions=conditions,
        unit=unit,
        positions_in_names=False,
    )


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
    if not tolerance >= 0 or query_stride < 1:
        raise ValueError(
            f"tolerance is {tolerance} and query_stride {query_stride}: "
            "expected 0 or more, and 1 or more"
        )
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


def _pairs(table: ImageTable, columns: dict[str, tuple[float, float]]) -> np.ndarray:
    """Two columns with their limits as float64 (N, 2)."""
    return np.stack([table.values(column, *limits) for column, limits in columns.items()], axis=1)


def _refuse_degrees(tables: Sequence[ImageTable], positions: Sequence[np.ndarray]) -> None:
    """Nothing lies so near to the origin of its UTM zone, but all latitudes and longitudes do."""
    if all((np.abs(metres) <= 180).all() for metres in positions):
        raise ValueError(
            f"utm_east and utm_north in {tables[0].path} and {tables[1].path} look like degrees: "
            "none is beyond 180. Call the columns latitude and longitude; or, if these are metres "
            "on a map of your own, add 1000 to all of them."
        )


def _project(tables: Sequence[ImageTable], latlon: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Latitudes and longitudes as metres, all in the UTM zone of the first database image."""
    latitude, longitude = latlon[0][0]
    zone = utm.from_latlon(latitude, longitude)[2:]
    projected = []
    for table, degrees in zip(tables, latlon, strict=True):
        away = np.abs((degrees[:, 1] - longitude + 180) % 360 - 180)
        table.require(
            "longitude",
            away <= ZONE_WIDTH,
            f"at most {ZONE_WIDTH:g} degrees from {longitude:g} in the first row of "
            f"{tables[0].path}, for no UTM zone holds both: make a test set of each region",
        )
        east, north, *_ = utm.from_latlon(*degrees.T, *zone)
        projected.append(np.stack([east, north], axis=1))  # (N, 2)
    return projected


def _number_places(tables: Sequence[ImageTable]) -> list[np.ndarray]:
    """Places as points on a line: the images of one place coincide, all others are apart."""
    numbers: dict[str, int] = {}
    positions = []
    for table in tables:
        names = table.texts("place")
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
