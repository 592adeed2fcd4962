"""Where images were taken: what names and tables say of it is judged here, and put in one plane.

Nothing here loads torch.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
import utm

from dinomix.plumbing.csvtables import as_number
from dinomix.plumbing.errors import first_of

Limits = tuple[tuple[float, float], tuple[float, float]]
LATLON_LIMITS: Limits = ((-80, 84), (-180, 180))  # where UTM is defined, in degrees
UTM_LIMITS: Limits = ((100_000, 1_000_000), (0, 10_000_000))  # easting and northing in metres
ZONE_LIMITS: Limits = ((1_000, 3_000_000), (0, 10_000_000))  # made-up sets go on beyond a zone's
MAP_LIMITS: Limits = ((-1e7, 1e7), (-1e7, 1e7))  # on a map of one's own, or in an unknown zone
ZONE = re.compile(r"0?([1-9]|[1-5]\d|60) ?(?:([NP-X])|([C-HJ-M])|[A-Z]?)", re.ASCII)  # as "31T"
BAND_S = (3.5e6, 4.5e6)  # northings of the band S, 32 to 40 degrees north
WIDEST = 9.0  # degrees of longitude that a plane holds: distances are at most 2.2 % too long
GAP = 1.0  # degrees of longitude, over 10 km, that divide what one plane cannot hold
APART = 1e7  # metres between the parts


def read_names(paths: Sequence[PurePath]) -> tuple[np.ndarray, list[str]]:
    """What names like `@0400000.00@5000000.00@31@T@....jpg` say: easting and northing, float64
    (N, 2), NaN where there are no two finite numbers; and what stands for the zone, such as "31 T".
    """
    fields = [[*path.name.split("@"), "", "", "", ""][1:5] for path in paths]
    metres = np.array([as_number(text) for each in fields for text in each[:2]]).reshape(-1, 2)
    metres[~np.isfinite(metres).all(axis=1)] = np.nan
    return metres, [f"{number} {letter}".strip() for _, _, number, letter in fields]


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
    """Of zones such as "31T" the number, and 1 in the north or -1 in the south: int64 (N, 2), 0
    where either is unknown.

    Letters name bands of latitude, from N on in the north. S means the south, as in "56S", where
    the northing lies outside of the band S.
    """
    band_s = (BAND_S[0] < northings) & (northings < BAND_S[1])
    keys = list(zip(zones, band_s.tolist(), strict=True))
    known = {key: _read_zone(*key) for key in set(keys)}  # millions of names share a few
    return np.array([known[key] for key in keys], dtype=np.int64).reshape(-1, 2)


def _read_zone(text: str, band_s: bool) -> tuple[int, int]:
    match = ZONE.fullmatch(text.upper())
    if match is None:
        return 0, 0
    number, north, south = match.groups()
    if north == "S" and not band_s:
        return int(number), -1
    return int(number), bool(north) - bool(south)


def refuse_positions(
    labels: Sequence, positions: np.ndarray, limits: Limits, source: object = "positions"
) -> None:
    """Raise ValueError unless positions, float (N, 2), are numbers within the limits."""
    low, high = np.array(limits, dtype=float).T
    inside = ((positions >= low) & (positions <= high)).all(axis=1)  # false for nan
    wrong = [(labels[i], *positions[i]) for i in np.flatnonzero(~inside)]
    if wrong:
        kind = "latitude and longitude" if limits == LATLON_LIMITS else "easting and northing"
        ranges = ", ".join(f"{low:,.0f} to {high:,.0f}" for low, high in limits)
        named = [f"{label} at ({x:g}, {y:g})" for label, x, y in wrong]
        raise ValueError(
            f"{source}: {kind} of {len(named):,} images are out of range ({ranges}): "
            f"{first_of(named)}"
        )


def refuse_metres(metres: np.ndarray, zones: Sequence[str], sources: Sequence) -> None:
    """Raise ValueError for easting and northing (N, 2) that cannot be, or that are degrees."""
    zoned = read_zones(zones, metres[:, 1])[:, 0] > 0
    for rows, limits in ((zoned, ZONE_LIMITS), (~zoned, MAP_LIMITS)):
        labels = [sources[i] for i in np.flatnonzero(rows)]
        refuse_positions(labels, metres[rows], limits, "metres")
    size = np.abs(metres[~zoned])
    if not len(size) or size.max() > 180 or size.max(axis=0).min() > 90:
        return
    if np.median(size, axis=0).all():  # of frames on a line, as Nordland's, one coordinate is 0
        raise ValueError(
            f"easting and northing look like degrees: none is beyond 180, first {labels[0]}. "
            "Degrees belong into the columns latitude and longitude of a CSV file; or, if these "
            "are metres on a map of your own, add 1000 to all of them."
        )


def in_one_plane(metres: np.ndarray, zones: Sequence[str], sources: Sequence) -> np.ndarray:
    """UTM metres (N, 2) of any zones as metres of one plane: float64 (N, 2).

    Of one zone, or of a map of one's own, they stay what they are; images without a zone are in
    that of the others. Of several zones: see `plane_of_degrees`.

    Args:
        zones: N, such as "31T" or "31 T"; anything else is none.
        sources: N, what errors name: files, or rows of a table.

    Raises:
        ValueError: metres cannot be, or look like degrees; or there are several zones, and an
            image lacks its own, or no plane holds them all.
    """
    refuse_metres(metres, zones, sources)
    numbers, halves = read_zones(zones, metres[:, 1]).T
    if len({*numbers} - {0}) <= 1 and len({*halves} - {0}) <= 1:
        return metres
    signed = numbers * halves  # below 0 in the south
    if not signed.all():
        first = int((signed == 0).argmax())
        raise ValueError(
            f"{sources[first]} has no number and letter of a UTM zone but {zones[first]!r}, while "
            f"there are several: {first_of(sorted({*zones}))}"
        )
    refuse_positions(sources, metres, UTM_LIMITS, "metres in several zones")
    latlon = np.empty_like(metres)
    for zone in set(signed.tolist()):
        east, north = metres[signed == zone].T
        degrees = utm.to_latlon(east, north, abs(zone), northern=zone > 0, strict=False)
        latlon[signed == zone] = np.stack(degrees, axis=1)
    return _gather(latlon, sources, metres, signed)


def plane_of_degrees(latlon: np.ndarray, sources: Sequence) -> np.ndarray:
    """Latitudes and longitudes (N, 2) as metres of one plane: float64 (N, 2).

    It is UTM, in the zone of the first position. What is too far away for that, with nothing
    between, has a plane of its own, 10,000 km away; ValueError where there is something between.
    """
    return _gather(latlon, sources, latlon, np.zeros(len(latlon), dtype=np.int64))


def _gather(
    latlon: np.ndarray, sources: Sequence, metres: np.ndarray, signed: np.ndarray
) -> np.ndarray:
    """Metres in the zone of their part's first position (`signed`; 0 is none) stay as they are."""
    plane = np.array(metres)
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
    if np.ptp(longitudes) <= WIDEST:
        return [np.arange(len(longitudes))]
    order = np.argsort(longitudes)
    gaps = np.diff(longitudes[order], append=longitudes[order[0]] + 360)
    start = gaps.argmax() + 1  # not at the date line, where there may be a part
    order, gaps = np.roll(order, -start), np.roll(gaps, -start)
    parts = np.split(order, np.flatnonzero(gaps[:-1] > GAP) + 1)
    return sorted(map(np.sort, parts), key=lambda rows: rows[0])
