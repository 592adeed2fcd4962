"""Eynsham (Cummins and Newman, RSS 2009) and St Lucia (Milford and Wyeth, T-RO 2008).

Eynsham's download: `Images/*.ppm`, five tiles a panorama, and `Route_map/Eynsham.kml`. St Lucia's:
a folder a drive with `webcam_video.avi`, to be extracted into `frames`, and `fGPS.txt`, a line a
frame. Which images are used is as in the field's standard formatter, VPR-datasets-downloader.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import utm

from dinomix.datasets.prepare import planning
from dinomix.datasets.prepare.planning import Image, Plan, find_images, read_lines
from dinomix.plumbing.csvtables import as_number
from dinomix.plumbing.positions import LATLON_LIMITS, refuse_positions

LAYOUT = planning.LAYOUTS["drives"]
TILES = 5  # of a panorama
STEP = 5.0  # metres from a frame to the next one that is used


def plan_eynsham(raw: Path) -> Plan:
    """The first loop is the database, the second one asks; the first panorama has no position."""
    root, hint = next(filter(Path.is_dir, [raw / "Eynsham"]), raw), LAYOUT["eynsham"]
    path = planning.find_file(root, ["Route_map/Eynsham.kml"], hint)
    lines = re.findall("<coordinates>(.*?)</coordinates>", " ".join(read_lines(path)))
    latlon = _latlon(path, (p.split(",")[1::-1] for p in max(lines, key=len, default="").split()))
    folder, names = find_images(root, ["Images"], hint)
    tiles = list(names.values())[TILES:]
    panoramas, rest = divmod(len(tiles), TILES)
    if rest or len(latlon) - panoramas not in (0, 1):
        raise ValueError(
            f"{folder} holds {len(names):,} images and {path} {len(latlon):,} positions; expected "
            f"{TILES} images for each. Unpack the whole download. {hint}"
        )
    planned = Plan([], [LAYOUT["note"]])
    for i, name in enumerate(tiles):
        pano, tile = divmod(i, TILES)
        side = "database" if pano < panoramas // 2 else "queries"
        more = {"pano_id": f"{pano:04d}", "tile": tile}
        planned.images.append(_image(side, folder / name, latlon[pano], **more))
    return planned


def plan_st_lucia(raw: Path) -> Plan:
    """The first drive is the database, the last one asks."""
    drives = sorted(path.parent for path in raw.glob("*/fGPS.txt"))
    if len(drives) < 2:
        raise FileNotFoundError(f"{raw} holds no two folders with fGPS.txt. {LAYOUT['st_lucia']}")
    planned = Plan([], [LAYOUT["note"]])
    for side, drive in (("database", drives[0]), ("queries", drives[-1])):
        folder, names = find_images(drive, ["frames"], LAYOUT["frames"])
        lines = read_lines(drive / "fGPS.txt")[: len(names)]  # latitudes without the south's sign
        latlon = _latlon(drive / "fGPS.txt", (f"-{line}".split(",") for line in lines))
        last = np.inf
        for i, point in enumerate(latlon):
            metres = np.floor(100 * np.array(utm.from_latlon(*point)[:2])) / 100  # as in its names
            if np.hypot(*(metres - last)) >= STEP:
                last, source = metres, folder / names.get(f"{i:05d}", f"{i:05d}.png")
                planned.images.append(_image(side, source, point, pano_id=f"{drive.name}_{i:05d}"))
    return planned


def _latlon(path: Path, points: Iterable[list[str]]) -> np.ndarray:
    """Latitudes and longitudes, float64 (N, 2)."""
    values = [[as_number(text) for text in (*point, "", "")[:2]] for point in points]
    latlon = np.array(values).reshape(-1, 2)
    refuse_positions(range(len(latlon)), latlon, LATLON_LIMITS, path)
    return latlon


def _image(side: str, source: Path, latlon: np.ndarray, **more: Any) -> Image:
    *metres, zone, letter = utm.from_latlon(*latlon)
    where = {"zone": zone, "letter": letter, "latlon": latlon}
    return planning.utm_image(f"test/{side}", source, *metres, **where, **more)
