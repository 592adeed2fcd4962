"""Photos, and where they were taken: from a CSV file, their names or the GPS tags of their EXIF."""

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

import numpy as np
import utm
from PIL import Image
from PIL.ExifTags import GPS, IFD

from dinomix.datasets.layouts import DEGREES, METRES, read_points
from dinomix.plumbing.csvtables import ImageTable, require_files
from dinomix.plumbing.imagenames import image_formats, list_images
from dinomix.plumbing.positions import MAP_LIMITS, check_metres, read_names, read_zones

Metres = tuple[float, float, str]  # easting, northing, and zone
EQUATOR = 6_378_137.0  # metres: the radius of the WGS 84 ellipsoid
E2 = 1 - (1 - 1 / 298.257223563) ** 2  # and its eccentricity, squared


@dataclass(frozen=True)
class Position:
    """A place on the Earth, or on a map of one's own."""

    latitude: float  # degrees (WGS 84); NaN where only metres of an unknown zone are known
    longitude: float
    utm_east: float  # metres; NaN near the poles, where there is no UTM
    utm_north: float
    utm_zone: str  # such as "31T"; "" where it is unknown or there is none

    @classmethod
    def from_degrees(cls, latitude: float, longitude: float) -> Self:
        """Of a place on the Earth, anywhere."""
        try:
            east, north, zone, letter = utm.from_latlon(latitude, longitude)
        except utm.OutOfRangeError:  # beyond 80 degrees south or 84 north
            east, north, zone, letter = math.nan, math.nan, "", ""
        return cls(float(latitude), float(longitude), float(east), float(north), f"{zone}{letter}")

    @classmethod
    def from_utm(cls, east: float, north: float, zone: str = "") -> Self:
        """Where `zone` is no UTM zone such as "31T", or has no such metres, it is left aside."""
        (signed,) = read_zones([zone], np.array([north])).tolist()
        try:
            latitude, longitude = utm.to_latlon(east, north, abs(signed), northern=signed > 0)
            name = f"{abs(signed)}{zone[-1].upper()}"
        except utm.OutOfRangeError:
            latitude, longitude, name = math.nan, math.nan, ""
        return cls(float(latitude), float(longitude), float(east), float(north), name)

    @classmethod
    def from_point(cls, point: np.ndarray, geographic: bool) -> Self:
        """The way back from `point`, which lies on the ellipsoid or just below it."""
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
        """Metres in space, float64 (3,): from the Earth's centre (no UTM zone ends there, no date
        line, no pole), else on the map's plane.
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
    """Where a photo was taken, from its name (the UTM layout of `TestSet`, whose zone may be
    empty), else its EXIF tags; None where neither says so.
    """
    ((east, north),), (zone,) = read_names([path])
    if path.name.startswith("@") and max(abs(east), abs(north)) <= MAP_LIMITS[0][1]:  # NaN is not
        return Position.from_utm(east, north, zone)
    degrees = read_gps(path)
    return None if degrees is None else Position.from_degrees(*degrees)


def read_gps(path: str | Path) -> tuple[float, float] | None:
    """Latitude and longitude in degrees from a photo's EXIF tags (CIPA DC-008, GPS IFD).

    None where there is no readable file, or its tags are missing, broken, out of range, or 0
    degrees in both, which cameras write that have no fix.
    """
    try:
        # Pillow warns of damaged tags, which are no tags to us.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(path, formats=image_formats()) as image,
        ):
            tags = dict(image.getexif().get_ifd(IFD.GPSInfo))
        latitude = _degrees(tags, GPS.GPSLatitudeRef, GPS.GPSLatitude, {"N": 1, "S": -1}, 90)
        longitude = _degrees(tags, GPS.GPSLongitudeRef, GPS.GPSLongitude, {"E": 1, "W": -1}, 180)
    except Exception:  # a damaged file can raise almost anything
        return None
    return None if latitude == longitude == 0 else (latitude, longitude)


def _degrees(
    tags: Mapping[int, Any], reference: int, value: int, signs: Mapping[str, int], most: float
) -> float:
    """Degrees, minutes and seconds of one tag, signed by the other; raises if they are none.

    Unknown seconds (written as 0/0) count as 0, and so do minutes where the degrees have decimals.
    """
    letter, given = tags[reference], tags[value]
    if isinstance(letter, bytes):
        letter = letter.decode("ascii", "replace")
    sign = signs[letter.strip(" \0").upper()]
    given = given if isinstance(given, tuple) else (given,)
    parts = [float(part) if getattr(part, "denominator", 1) else math.nan for part in given]
    known = list(takewhile(lambda part: part >= 0, parts))  # NaN is not
    degrees = sum(part / 60**i for i, part in enumerate(known))
    vague = len(known) < min(len(parts), 2) and degrees % 1 == 0
    if not known or vague or len(parts) > 3 or degrees > most:
        raise ValueError(f"{given} is no angle up to {most} degrees")
    return sign * degrees


@dataclass(frozen=True)
class Photos:
    """Photos of one folder or CSV file."""

    root: Path  # the folder that they lie in
    paths: list[Path]  # in order
    listed: dict[Path, Position] = field(default_factory=dict)  # where a CSV file has degrees
    metres: dict[Path, Metres] = field(default_factory=dict)  # where it, or a name, has metres

    def position(self, path: Path) -> Position | None:
        """Where a photo was taken: as listed, else by `read_position`; None: unknown."""
        if path in self.listed or path not in self.metres:
            return self.listed.get(path) or read_position(path)
        return Position.from_utm(*self.metres[path])


def settle_zones(sources: Iterable[Photos]) -> list[Photos]:
    """The photos with the metres in their names; those without a zone are in that of the others.

    ValueError, as of `TestSet`: metres or zones cannot be, or do not go together.
    """
    sources, every = list(sources), []
    for photos in sources:
        named = [path for path in photos.paths if path.name[0] == "@"]
        metres, zones = read_names(named)
        found = dict(zip(named, zip(*metres.T.tolist(), zones, strict=True), strict=True))
        found = {path: each for path, each in found.items() if not math.isnan(each[0])}
        every.append({p: m for p, m in (found | photos.metres).items() if p not in photos.listed})
    given = [(path, *metres) for each in every for path, metres in each.items()]
    if not given:
        return sources
    paths, east, north, zones = zip(*given, strict=True)
    check_metres(np.array([east, north]).T, zones, paths)
    only = next(filter(None, zones), "")  # where there are several, none is empty
    every = [{p: (e, n, zone or only) for p, (e, n, zone) in each.items()} for each in every]
    return [replace(photos, metres=each) for photos, each in zip(sources, every, strict=True)]


def find_photos(source: str | Path) -> Photos:
    """The photos of a folder and of all folders in it, of a CSV file, or the one photo.

    What is left aside in a folder: see `list_images`. A CSV file has a header, a row a photo and
    the column `image`, a path relative to its own folder; the columns `latitude` and `longitude`
    in degrees or `utm_east` and `utm_north` in metres, with `utm_zone`, are optional, and so is
    what stands in them.

    Raises:
        FileNotFoundError: no such file or folder, no image in it, or one of the CSV file's missing.
        ValueError: a CSV file cannot be read; the row is named.
    """
    source = Path(source)
    if source.is_dir():
        return Photos(source, list_images(source, nested=True))
    if not source.is_file():
        raise FileNotFoundError(f"there is no photo, folder or CSV file {source}")
    if source.suffix.lower() == ".csv":
        return _read_table(source)
    return Photos(source.parent, [source])


def _read_table(path: Path) -> Photos:
    table = ImageTable.read(path)
    require_files([table])
    photos = Photos(path.parent, list(dict.fromkeys(table.images)), {}, {})
    for columns in (METRES, DEGREES):
        if table.has(*columns):
            cells = zip(*(table.columns[column] for column in columns), strict=True)
            filled = table.take([i for i, row in enumerate(cells) if any(row)])
            points, zones, rows = read_points([filled], columns)
            if columns is DEGREES:
                found = map(Position.from_degrees, *points.T)
                photos.listed.update(zip(filled.images, found, strict=True))
            else:
                check_metres(points, zones, rows)
                found = zip(*points.T.tolist(), zones, strict=True)
                photos.metres.update(zip(filled.images, found, strict=True))
    return photos
