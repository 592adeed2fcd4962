"""What a prepared image is called, and which names and positions of a download are refused.

A name is fourteen fields between `@`, in the order that the field's standard formatter,
VPR-datasets-downloader, gives them:
`@UTM_east@UTM_north@zone@letter@lat@lon@pano_id@tile@heading@pitch@roll@height@timestamp@note@.jpg`
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dinomix.plumbing.errors import first_of
from dinomix.plumbing.imagenames import stays_inside

Limits = tuple[tuple[float, float], tuple[float, float]]
UTM_LIMITS: Limits = ((100_000, 1_000_000), (0, 10_000_000))  # easting and northing in metres
LATLON_LIMITS: Limits = ((-80, 84), (-180, 180))  # where UTM is defined, in degrees


def utm_name(
    east: float,
    north: float,
    *,
    zone: int | None = None,
    letter: str = "",
    latitude: float | None = None,
    longitude: float | None = None,
    pano_id: str = "",
    tile: int | None = None,
    heading: float | None = None,
    timestamp: str = "",
    note: str = "",
    suffix: str = ".jpg",
) -> str:
    """The file name of an image; what is not given stays empty, as pitch, roll and height do.

    Args:
        east, north: UTM in metres, written to the centimetre.
        latitude, longitude: degrees, written to 1e-5.
        tile: which cut-out of its panorama it is.
        heading: compass direction in whole degrees.
        timestamp: YYYYMMDD, or a part of it.

    Raises:
        ValueError: a field holds `@` or a path separator, which would shift the others.
    """
    fields = [
        f"{east:010.2f}",
        f"{north:010.2f}",
        "" if zone is None else f"{zone:02d}",
        letter,
        "" if latitude is None else f"{latitude:09.5f}",
        "" if longitude is None else f"{longitude:010.5f}",
        pano_id,
        "" if tile is None else f"{tile:02d}",
        "" if heading is None else f"{int(heading):03d}",
        *["", "", ""],  # pitch, roll, height
        timestamp,
        note,
        suffix,
    ]
    for field in fields:
        if any(character in field for character in "@/\\\0"):
            raise ValueError(f"{field!r} cannot be a field of a file name: it holds @, / or \\")
    return "@" + "@".join(fields)


def refuse_outside_paths(names: Sequence[str], source: Path) -> None:
    """Names of images must be paths that stay within the download's folder.

    Raises:
        ValueError: for empty names, absolute ones, and those with `..`; the first are named.
    """
    if outside := [repr(name) for name in names if not stays_inside(name)]:
        raise ValueError(
            f"{source} names {len(outside):,} images that lead out of their folder: "
            f"{first_of(outside)}. The file is not the published one."
        )


def refuse_positions(
    labels: Sequence[str], positions: np.ndarray, limits: Limits, source: Path
) -> None:
    """Positions must be finite and on the map.

    Args:
        labels: N names of images.
        positions: float (N, 2).
        limits: `UTM_LIMITS` or `LATLON_LIMITS`.

    Raises:
        ValueError: names the first images whose position is not, and gives it.
    """
    low, high = np.array(limits, dtype=float).T
    inside = ((positions >= low) & (positions < high)).all(axis=1)  # false for nan
    wrong = [
        f"{labels[i]} at ({positions[i, 0]:g}, {positions[i, 1]:g})"
        for i in np.flatnonzero(~inside)
    ]
    if wrong:
        kind = "easting and northing" if limits == UTM_LIMITS else "latitude and longitude"
        raise ValueError(
            f"{source}: {kind} of {len(wrong):,} images are out of range "
            f"({limits[0][0]:,} to {limits[0][1]:,}, {limits[1][0]:,} to {limits[1][1]:,}): "
            f"{first_of(wrong)}"
        )
