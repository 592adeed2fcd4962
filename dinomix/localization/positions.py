"""Where a photo was taken: in degrees, in metres, or both."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import utm

from dinomix.localization.exif import read_gps
from dinomix.testsets import read_utm

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
        """From WGS 84 degrees; metres are NaN near the poles, where UTM ends."""
        try:
            east, north, zone, letter = utm.from_latlon(latitude, longitude)
        except utm.OutOfRangeError:  # beyond 80 degrees south or 84 north
            east, north, zone, letter = math.nan, math.nan, "", ""
        return cls(float(latitude), float(longitude), float(east), float(north), f"{zone}{letter}")

    @classmethod
    def from_utm(cls, east: float, north: float, zone: str = "", letter: str = "") -> Self:
        """Where zone and letter make no UTM zone, or not with these metres, they are left aside."""
        latitude = longitude = math.nan
        name = ""
        try:
            latitude, longitude = map(float, utm.to_latlon(east, north, int(zone), letter))
            name = f"{int(zone)}{letter.upper()}"
        except ValueError:
            pass
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
        return radius * np.array(
            [
                math.cos(phi) * math.cos(lam),
                math.cos(phi) * math.sin(lam),
                (1 - E2) * math.sin(phi),
            ]
        )

    def metres_to(self, other: "Position | None") -> float:
        """Along a straight line; NaN where one of both is unknown, or on another map."""
        if other is None or self.geographic != other.geographic:
            return math.nan
        return float(np.linalg.norm(self.point - other.point))


def read_position(path: Path) -> Position | None:
    """Where a photo was taken, from its name (the UTM layout of `TestSet`) or its EXIF tags.

    A name was written on purpose, so it comes first. Its zone, the next two fields, may be empty;
    then there are metres alone.

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
