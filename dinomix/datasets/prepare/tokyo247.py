"""Tokyo 24/7 (Torii et al., CVPR 2015): a street-view database, and phone photos by day and night.

The download: `tokyo247.mat` (NetVLAD's specification), the database in folders 03814 to 03829,
12 cut-outs a panorama, listed as .jpg and published as .png, and the queries in
`247query_subset_v2` (315 photos) or `247query_v3` (1,125, of which the .mat lists 315), each
photo with a .csv whose first line begins `00001.jpg,<latitude>,<longitude>`.
"""

import re
from pathlib import Path, PurePosixPath

import numpy as np
import utm

from dinomix.datasets.prepare import planning
from dinomix.datasets.prepare.dbstruct import SPECIFICATIONS, read_dbstruct
from dinomix.datasets.prepare.planning import LAYOUTS, Plan
from dinomix.plumbing.positions import LATLON_LIMITS, refuse_positions

ZONE = {"zone": 54, "letter": "S"}
LAYOUT = LAYOUTS["tokyo247"]


def plan(raw: Path) -> Plan:
    """All 12 cut-outs of every panorama, and the 315 queries that the .mat lists."""
    sides = read_dbstruct(planning.find_file(raw, LAYOUT["specifications"], SPECIFICATIONS))
    planned = Plan([], [LAYOUT["note"]])
    for side, add in (("database", _add_database), ("queries", _add_queries)):
        names, positions = sides[side]
        folder = planning.find_folder(raw, LAYOUT[side], names, LAYOUT["hint"])
        add(planned, folder, names, positions)
    return planned


def _add_database(planned: Plan, folder: Path, names: list[str], positions: np.ndarray) -> None:
    for name, position in zip(names, positions, strict=True):
        listed = folder / PurePosixPath(name)
        match = re.fullmatch(r"(.+)_012_(\d+)", listed.stem)
        if match is None:
            raise ValueError(f"{name!r} is no Tokyo 24/7 name; expected 03814/.../<id>_012_030.jpg")
        png = listed.with_suffix(".png")
        source = listed if listed.is_file() and not png.is_file() else png
        cut = {"pano_id": match[1], "tile": int(match[2]) // 30}  # in steps of 30 degrees
        planned.images.append(planning.utm_image("test/database", source, *position, **ZONE, **cut))


def _add_queries(planned: Plan, folder: Path, names: list[str], positions: np.ndarray) -> None:
    without, apart = 0, 0.0
    for name, position in zip(names, positions, strict=True):
        source = folder / PurePosixPath(name)
        table = source.with_suffix(".csv")
        if table.is_file():
            latlon = _read_latlon(table)
            east, north, zone, letter = utm.from_latlon(*latlon)
            apart = max(apart, float(np.hypot(east - position[0], north - position[1])))
            position, where = (east, north), {"zone": zone, "letter": letter, "latlon": latlon}
        else:
            without += 1
            where = ZONE
        image = planning.utm_image("test/queries", source, *position, **where, pano_id=source.stem)
        planned.images.append(image)
    if without:
        planned.notes.append(f"{without} queries have no .csv; tokyo247.mat gives their positions")
    if apart > 1:
        planned.notes.append(
            f"positions in the queries' .csv files, which are used, are up to {apart:.0f} m away "
            "from those in tokyo247.mat"
        )


def _read_latlon(path: Path) -> tuple[float, float]:
    line = next(iter(planning.read_lines(path)), "")
    try:
        latitude, longitude = map(float, line.split(",")[1:3])
    except ValueError as error:
        raise ValueError(
            f"{path} begins with {line!r}, expected 00001.jpg,<latitude>,<longitude>"
        ) from error
    refuse_positions([path.stem], np.array([[latitude, longitude]]), LATLON_LIMITS, path)
    return latitude, longitude
