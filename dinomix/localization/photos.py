"""Photos, and where they were taken: from a CSV file, their names or the GPS tags of their EXIF."""

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import utm
from PIL import Image
from PIL.ExifTags import GPS, IFD

from dinomix.data import read_utm
from dinomix.datasets.layouts import DEGREES, METRES
from dinomix.images import FORMATS
from dinomix.plumbing.csvtables import ImageTable, require_files
from dinomix.plumbing.imagenames import IMAGE_SUFFIXES, is_visible_image

EQUATOR = 6_378_137.0  # metres: the radius of the WGS 84 ellipsoid
E2 = 1 - (1 - 1 / 298.257223563) ** 2  # and its eccentricity, squared


@dataclass(frozen=True)
class Position:
    """A place on the Earth, or on a map of one's own.

    Attributes:
        latitude, longitude: degrees (WGS 84); NaN where only metres of an unknown zone are known.
        utm_east, utm_north: metres; NaN near the poles, where there is no UTM.
        utm_zone: such as "31T"; "" where it is unknown or there is none.
    """

    latitude: float
    longitude: float
    utm_east: float
    utm_north: float
    utm_zone: str

    @classmethod
    def from_degrees(cls, latitude: float, longitude: float) -> Self:
        try:
            east, north, zone, letter = utm.from_latlon(latitude, longitude)
        except utm.OutOfRangeError:  # beyond 80 degrees south or 84 north
            east, north, zone, letter = math.nan, math.nan, "", ""
        return cls(float(latitude), float(longitude), float(east), float(north), f"{zone}{letter}")

    @classmethod
    def from_utm(cls, east: float, north: float, zone: str = "", letter: str = "") -> Self:
        """Where zone and letter make no UTM zone, or not with these metres, they are left aside."""
        try:
            latitude, longitude = map(float, utm.to_latlon(east, north, int(zone), letter))
            name = f"{int(zone)}{letter.upper()}"
        except ValueError:
            latitude, longitude, name = math.nan, math.nan, ""
        return cls(latitude, longitude, float(east), float(north), name)

    @classmethod
    def from_point(cls, point: np.ndarray, geographic: bool) -> Self:
        """The way back from `point`; of a point that lies on the ellipsoid, or just below it."""
        x, y, z = point
        if not geographic:
            return cls.from_utm(x, y)
        latitude = math.atan2(z, (1 - E2) * math.hypot(x, y))
        return cls.from_degrees(math.degrees(latitude), math.degrees(math.atan2(y, x)))

    @property
    def geographic(self) -> bool:
        """Whether it is known where on the Earth this is."""
        return not math.isnan(self.latitude)

    @property
    def point(self) -> np.ndarray:
        """Metres in space, float64 (3,), so that any two places have a distance.

        On the Earth from its centre (no UTM zone ends there, no date line, no pole), else on the
        map's plane.
        """
        if not self.geographic:
            return np.array([self.utm_east, self.utm_north, 0.0])
        phi, lam = math.radians(self.latitude), math.radians(self.longitude)
        radius = EQUATOR / math.sqrt(1 - E2 * math.sin(phi) ** 2)
        x, y = math.cos(phi) * math.cos(lam), math.cos(phi) * math.sin(lam)
        return radius * np.array([x, y, (1 - E2) * math.sin(phi)])

    def metres_to(self, other: "Position | None") -> float:
        """Along a straight line; NaN where the other is unknown, or on another map."""
        if other is None or self.geographic != other.geographic:
            return math.nan
        return float(np.linalg.norm(self.point - other.point))


def read_position(path: Path) -> Position | None:
    """Where a photo was taken, from its name (the UTM layout of `TestSet`), else its EXIF tags.

    A name's zone, the next two fields, may be empty; then there are metres alone.

    Returns:
        None where neither says so.
    """
    if path.name.startswith("@"):
        try:
            ((east, north),) = read_utm([path])
        except ValueError:
            pass
        else:
            zone, letter, *_ = [*path.name.split("@")[3:], "", ""]
            return Position.from_utm(east, north, zone, letter)
    degrees = read_gps(path)
    return None if degrees is None else Position.from_degrees(*degrees)


def read_gps(path: str | Path) -> tuple[float, float] | None:
    """Latitude and longitude in degrees from a photo's EXIF tags (CIPA DC-008, GPS IFD).

    Returns:
        south and west negative; None where there is no readable file, or its tags are missing,
        broken, out of range, or 0 degrees in both, which cameras write that have no fix.
    """
    try:
        # Pillow warns of damaged tags, which are no tags to us.
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            tags = dict(image.getexif().get_ifd(IFD.GPSInfo))
        latitude = _degrees(tags, GPS.GPSLatitudeRef, GPS.GPSLatitude, {"N": 1, "S": -1}, 90)
        longitude = _degrees(tags, GPS.GPSLongitudeRef, GPS.GPSLongitude, {"E": 1, "W": -1}, 180)
    except Exception:  # a damaged file can raise almost anything
        return None
    return None if latitude == longitude == 0 else (latitude, longitude)


def _degrees(
    tags: Mapping[int, Any], reference: int, value: int, signs: Mapping[str, int], most: float
) -> float:
    """Degrees, minutes and seconds of one tag, signed by the other; raises if they are none."""
    letter, given = tags[reference], tags[value]
    if isinstance(letter, bytes):
        letter = letter.decode("ascii", "replace")
    sign = signs[letter.strip(" \0").upper()]
    parts = [float(part) for part in (given if isinstance(given, tuple) else (given,))]
    degrees = sum(part / 60**i for i, part in enumerate(parts))
    # a rational with denominator 0 is NaN, which is not >= 0
    if not 1 <= len(parts) <= 3 or not all(part >= 0 for part in parts) or degrees > most:
        raise ValueError(f"{given} is no angle up to {most} degrees")
    return sign * degrees


@dataclass(frozen=True)
class Photos:
    root: Path  # the folder that they lie in
    paths: list[Path]  # in order
    listed: Mapping[Path, Position] = field(default_factory=dict)  # where a CSV file says

    def position(self, path: Path) -> Position | None:
        """Where a photo was taken: as listed, else by `read_position`; None: unknown."""
        return self.listed.get(path) or read_position(path)


def find_photos(source: str | Path) -> Photos:
    """The photos of a folder and of all folders in it, of a CSV file, or the one photo.

    In folders, hidden files and folders are left aside, and links to folders are not followed
    (links to files are). A CSV file has a header, a row a photo and the column `image`, a path
    relative to its own folder; the columns `latitude` and `longitude` in degrees or `utm_east` and
    `utm_north` in metres of one zone are optional, and so is what stands in them.

    Raises:
        FileNotFoundError: there is no such file or folder, or no image in the folder; or images of
            the CSV file are missing.
        ValueError: a CSV file cannot be read; the row is named.
    """
    source = Path(source)
    if source.is_dir():
        return Photos(source, _walk(source))
    if not source.is_file():
        raise FileNotFoundError(f"there is no photo, folder or CSV file {source}")
    if source.suffix.lower() == ".csv":
        return _read_table(source)
    return Photos(source.parent, [source])


def _walk(folder: Path) -> list[Path]:
    found = []
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(here, name) for name in files if is_visible_image(name)]
    if not found:
        raise FileNotFoundError(
            f"{folder} and the folders in it hold no images ({', '.join(IMAGE_SUFFIXES)})"
        )
    return sorted(found)


def _read_table(path: Path) -> Photos:
    table = ImageTable.read(path)
    require_files([table])
    listed: dict[Path, Position] = {}
    for columns, make in ((METRES, Position.from_utm), (DEGREES, Position.from_degrees)):
        if table.has(*columns):
            cells = zip(*(table.texts(column) for column in columns), strict=True)
            filled = table.take([i for i, row in enumerate(cells) if any(row)])
            values = [filled.values(column, *limits) for column, limits in columns.items()]
            listed |= dict(zip(filled.images, map(make, *values), strict=True))
    return Photos(path.parent, list(dict.fromkeys(table.images)), listed)
