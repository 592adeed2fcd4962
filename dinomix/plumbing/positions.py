"""Where images were taken: what names and tables say of it is judged here, and put in one plane."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePath

import numpy as np
import utm
from numpy.typing import ArrayLike

from dinomix.plumbing.csvtables import as_number
from dinomix.plumbing.errors import first_of

Limits = tuple[tuple[float, float], tuple[float, float]]
LATLON_LIMITS: Limits = ((-80, 84), (-180, 180))  # where UTM is defined, in degrees
UTM_LIMITS: Limits = ((100_000, 1_000_000), (0, 10_000_000))  # easting and northing in metres
ZONE_LIMITS: Limits = ((1_000, 3_000_000), (0, 10_000_000))  # made-up sets go on beyond a zone's
MAP_LIMITS: Limits = ((-1e7, 1e7), (-1e7, 1e7))  # on a map of one's own, or in an unknown zone
ZONE = re.compile(r"0?([1-9]|[1-5]\d|60) ?([C-HJ-NP-X])", re.ASCII)  # as "31T"
LIKE_A_ZONE = re.compile(r"0?\d{1,2}( ?[A-Za-z])?", re.ASCII)  # "31", which lacks its letter
WIDEST = 9.0  # degrees of longitude that a plane holds: distances are at most 2.2 % too long
GAP = 1.0  # degrees of longitude, over 10 km, that divide what one plane cannot hold
APART = 1e7  # metres between the parts


def read_names(paths: Sequence[PurePath]) -> tuple[np.ndarray, list[str]]:
    """What names like `@0400000.00@5000000.00@31@T@....jpg` say: easting and northing, float64
    (N, 2), NaN where there are no two finite numbers; and zones such as "31 T", else "".
    """
    fields = [[*path.name.split("@"), "", "", "", ""][1:5] for path in paths]
    metres = np.array([as_number(text) for each in fields for text in each[:2]]).reshape(-1, 2)
    metres[~np.isfinite(metres).all(axis=1)] = np.nan
    zones = [f"{number} {letter}".strip() for _, _, number, letter in fields]
    return metres, [text if LIKE_A_ZONE.fullmatch(text) else "" for text in zones]


def read_utm(paths: Sequence[Path]) -> np.ndarray:
    """Positions from names, as `in_one_plane` gives them; ValueError names one that has none."""
    metres, zones = read_names(paths)
    lacking = np.flatnonzero(np.isnan(metres[:, 0]))
    if len(lacking):
        raise ValueError(
            f"no coordinates in the name of {paths[lacking[0]]}: expected @UTM_east@UTM_north@..., "
            "both in metres, for example @0400000.00@5000000.00@31@T@.jpg"
        )
    return in_one_plane(metres, zones, paths)


def read_zones(zones: Sequence[str], northings: np.ndarray) -> np.ndarray:
    """Numbers of zones such as "31T", below 0 in the south, 0 for none: int64 (N,). Letters are
    bands of latitude, N and later ones northern; S is "south" where that band has no such northing.
    """
    in_band_s = (abs(northings - 4e6) < 5e5).tolist()
    return np.array([*map(_read_zone, zones, in_band_s)], dtype=np.int64)


@cache  # millions of names share a few
def _read_zone(text: str, in_band_s: bool) -> int:
    match = ZONE.fullmatch(text.upper())
    if match is None:
        return 0
    northern = match[2] >= "N" and (match[2] != "S" or in_band_s)
    return int(match[1]) if northern else -int(match[1])


def refuse_positions(names: Sequence, points: np.ndarray, limits: Limits, source: object) -> None:
    """Raise ValueError unless positions, float (N, 2), are numbers within the limits."""
    low, high = np.array(limits, dtype=float).T
    wrong = np.flatnonzero(~((points >= low) & (points <= high)).all(axis=1))  # nan is
    if len(wrong):
        kind = "latitude and longitude" if limits == LATLON_LIMITS else "easting and northing"
        ranges = ", ".join(f"{low:,.0f} to {high:,.0f}" for low, high in limits)
        named = [f"{names[i]} at ({points[i][0]:g}, {points[i][1]:g})" for i in wrong]
        raise ValueError(
            f"{source}: {kind} of {len(named):,} images are out of range ({ranges}): "
            f"{first_of(named)}"
        )


def check_metres(metres: np.ndarray, zones: Sequence[str], sources: Sequence) -> np.ndarray:
    """The zones as `read_zones` reads them.

    ValueError names the source of easting and northing (N, 2) that cannot be, of degrees, and of an
    image that lacks its zone where there are several.
    """
    signed = read_zones(zones, metres[:, 1])
    zoned = signed != 0
    for rows, limits in ((zoned, ZONE_LIMITS), (~zoned, MAP_LIMITS)):
        labels = [sources[i] for i in np.flatnonzero(rows)]
        refuse_positions(labels, metres[rows], limits, "metres")
    size, largest = np.abs(metres[~zoned]), np.abs(metres).max(initial=0)
    like = ((size > 0) & (size <= 180)).all(axis=1)  # of Nordland's line, one coordinate is 0
    if like.any() and (largest > 1e5 or (largest <= 180 and like.mean() > 0.5)):
        raise ValueError(
            f"{labels[like.argmax()]}: easting and northing look like degrees, neither is beyond "
            "180. CSV files have the columns latitude and longitude for them; or, if these are "
            "metres on a map of your own, add 1000 to all of them."
        )
    found = {zone or text for zone, text in zip(signed.tolist(), zones, strict=True)} - {""}
    if len(found) > 1 and not signed.all():
        first = int((signed == 0).argmax())
        raise ValueError(
            f"{sources[first]} has {zones[first]!r} for a UTM zone, while there are several: "
            f"{first_of(sorted({*zones}))}. Expected are number and letter, such as 31T"
        )
    return signed


def in_one_plane(metres: np.ndarray, zones: Sequence[str], sources: Sequence) -> np.ndarray:
    """UTM metres (N, 2) of any zones as metres of one plane: float64 (N, 2).

    Of one zone ("31T"), or of a map of one's own (""), they stay what they are; images without a
    zone are in that of the others. Of several zones: see `plane_of_degrees`. Raises as that and
    `check_metres` do.
    """
    signed = check_metres(metres, zones, sources)
    if len({*signed.tolist()} - {0}) <= 1:
        return metres
    refuse_positions(sources, metres, UTM_LIMITS, "metres in several zones")
    return plane_of_degrees(degrees_of(metres, zones), sources, metres, signed)


def degrees_of(metres: np.ndarray, zones: Sequence[str]) -> np.ndarray:
    """Latitudes and longitudes (WGS 84) of UTM metres that `check_metres` let pass: float64 (N, 2).

    Images without a zone are in that of the others; NaN where nobody has one.
    """
    signed, latlon = read_zones(zones, metres[:, 1]), np.full(metres.shape, np.nan)
    for zone in {*signed.tolist()} - {0}:
        rows = (signed == zone) | (signed == 0)  # where there are several zones, none is 0
        east, north = metres[rows].T
        degrees = utm.to_latlon(east, north, abs(zone), northern=zone > 0, strict=False)
        latlon[rows] = np.stack(degrees, axis=1)
    return latlon


def plane_of_degrees(
    latlon: np.ndarray, sources: Sequence, metres: np.ndarray | None = None, signed: ArrayLike = 0
) -> np.ndarray:
    """Latitudes and longitudes (N, 2) as metres of one plane: float64 (N, 2).

    It is UTM, in the zone of the first position. What is too far away for that, with nothing
    between, has a plane of its own, 10,000 km away; ValueError where there is something between.
    Where `metres` are given, in zones that are `signed` (below 0 in the south), they stay in it.
    """
    plane = np.array(latlon if metres is None else metres)
    signed = np.broadcast_to(signed, len(plane))
    for number, rows in enumerate(_parts(latlon[:, 1])):
        first, own = rows[0], int(signed[rows[0]])
        away = np.abs((latlon[rows, 1] - latlon[first, 1] + 180) % 360 - 180)
        if away.max() > WIDEST:
            raise ValueError(
                f"{sources[rows[away.argmax()]]} is {away.max():.1f} degrees of longitude from "
                f"{sources[first]}, too far for one plane: make a set of each region"
            )
        zone = (abs(own), "NM"[own < 0]) if own else utm.from_latlon(*latlon[first])[2:]
        foreign = rows[(signed[rows] != own) | (own == 0)]
        if len(foreign):
            plane[foreign] = np.stack(utm.from_latlon(*latlon[foreign].T, *zone)[:2], axis=1)
        plane[rows, 0] += number * APART
    return plane


def _parts(longitudes: np.ndarray) -> list[np.ndarray]:
    """Rows that share a plane: all, else what no gap divides; by the first of each."""
    order = np.argsort(longitudes)
    gaps = np.diff(longitudes[order], append=longitudes[order[0]] + 360)
    if 360 - gaps.max() <= WIDEST:
        return [np.arange(len(longitudes))]
    start = gaps.argmax() + 1  # not at the date line, where there may be a part
    order, gaps = np.roll(order, -start), np.roll(gaps, -start)
    parts = np.split(order, np.flatnonzero(gaps[:-1] > GAP) + 1)
    return sorted(map(np.sort, parts), key=min)
