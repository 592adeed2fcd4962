"""Mapillary Street-Level Sequences (Warburg et al., CVPR 2020): validation and challenge cities.

The download: `train_val/{cph,sf}/{database,query}`, each with `images/<key>.jpg`, `raw.csv`
(key, lon, lat, ca, captured_at, pano) and `postprocessed.csv` (key, easting, northing,
unique_cluster, control_panel, night, view_direction), from images_vol_*.zip and metadata.zip; and
`test/<city>` of the challenge, with `images` and `subtask_index.csv` alone.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import utm

from dinomix.datasets.prepare import planning
from dinomix.datasets.prepare.planning import Image, Plan
from dinomix.plumbing.csvtables import as_number
from dinomix.plumbing.errors import first_of
from dinomix.plumbing.positions import LATLON_LIMITS, UTM_LIMITS, refuse_positions

CITIES = ("cph", "sf")
CHALLENGE = ("miami", "athens", "buenosaires", "stockholm", "bengaluru", "kampala")
SIDES = {"database": "database", "query": "queries"}
HINT = "It is given at https://www.mapillary.com/dataset/places"
APART = 1_000.0  # metres
OFFICIAL = 740  # queries of the official evaluation
THRESHOLD = 25.0  # metres
LIST, INDEX = "val_queries.txt", "subtask_index.csv"


class Side(NamedTuple):
    """Database or queries of a validation city: N photos, no panoramas."""

    folder: Path
    images: dict[str, Image]  # by key
    utm: np.ndarray  # float64 (N, 2), metres


def plan(raw: Path) -> Plan:
    """Both cities as one split, val, positions as in postprocessed.csv, panoramas left out."""
    root = raw / "train_val" if (raw / "train_val").is_dir() else raw
    databases, queries = ([_read_side(root, city, side) for city in CITIES] for side in SIDES)
    chosen, which = _choose_queries(raw, databases, queries)
    note = f"queries: {which}"
    if len(chosen) != OFFICIAL:
        note += f"; results do not compare with those on the official {OFFICIAL}"
    images = [image for side in databases for image in side.images.values()]
    asked = [side.images[key] for side in queries for key in side.images if key in chosen]
    return Plan(images + asked, [note])


def plan_challenge(raw: Path) -> Plan:
    """The test cities as one split, test, without positions: those images that are marked `all`."""
    planned = Plan([])
    for city in CHALLENGE:
        for side, folder in SIDES.items():
            inner = f"{city}/{side}/{INDEX}"
            path = planning.find_file(raw, [f"test/{inner}", inner], HINT)
            marks = planning.read_table(path, ("all",))
            planning.refuse_outside_paths(list(marks), path)
            planned.images += [
                Image(f"test/{folder}", f"{key}.jpg", str(path.parent / "images" / f"{key}.jpg"))
                for key, mark in marks.items()
                if mark["all"] == "True"
            ]
    return planned


def _read_side(root: Path, city: str, side: str) -> Side:
    folder = root / city / side
    path = planning.find_file(root, [f"{city}/{side}/raw.csv"], HINT)
    rows = planning.read_table(path, ("lon", "lat", "captured_at", "pano"))
    derived_path = planning.find_file(root, [f"{city}/{side}/postprocessed.csv"], HINT)
    derived = planning.read_table(derived_path, ("easting", "northing", "night", "view_direction"))
    if rows.keys() != derived.keys():
        odd = sorted(rows.keys() ^ derived.keys())
        raise ValueError(f"{path} and {derived_path.name} have other keys: {first_of(odd)}")
    keys = [key for key, row in rows.items() if row["pano"] != "True"]
    if not keys:
        raise ValueError(f"{path} lists no photo that is no panorama")
    planning.refuse_outside_paths(keys, path)
    latlon = np.array([[as_number(rows[key][c]) for c in ("lat", "lon")] for key in keys])
    refuse_positions(keys, latlon, LATLON_LIMITS, path)
    metres = ("easting", "northing")
    positions = np.array([[as_number(derived[key][c]) for c in metres] for key in keys])
    refuse_positions(keys, positions, UTM_LIMITS, derived_path)
    zone, letter = _zone(derived_path, latlon, positions)
    images = {}
    for key, position, degrees in zip(keys, positions, latlon, strict=True):
        light = "night" if derived[key]["night"] == "True" else "day"
        images[key] = planning.utm_image(
            f"val/{SIDES[side]}",
            folder / "images" / f"{key}.jpg",
            *position,
            zone=zone,
            letter=letter,
            latlon=degrees,
            pano_id=key,
            timestamp=rows[key]["captured_at"].replace("-", ""),
            note=f"{light}_{derived[key]['view_direction'].lower()}_{city}",
        )
    return Side(folder, images, positions)


def _zone(path: Path, latlon: np.ndarray, positions: np.ndarray) -> tuple[int, str]:
    """The zone in which `positions` are meant: Copenhagen's are in 32, its neighbour's zone."""
    usual = utm.latlon_to_zone_number(*np.median(latlon, axis=0))
    distances = {}
    for zone in (usual - 1, usual, usual + 1):
        east, north, _, letter = utm.from_latlon(*latlon.T, force_zone_number=zone)
        off = np.hypot(east - positions[:, 0], north - positions[:, 1])
        distances[float(np.median(off)), zone] = letter
    distance, zone = min(distances)
    if distance > APART:
        raise ValueError(
            f"{path}: easting and northing are {distance:,.0f} m off lon and lat in raw.csv, in "
            "every UTM zone near; one of the files is not the published one"
        )
    return zone, distances[distance, zone]


def _choose_queries(raw: Path, databases: list[Side], queries: list[Side]) -> tuple[set[str], str]:
    """Keys of the queries to use, and which they are: those in the list, in the indices, or all."""
    known = {key for side in queries for key in side.images}
    if (raw / LIST).is_file():
        # a key or the path of its image, as the lists in use have it
        chosen = {Path(line).name.removesuffix(".jpg") for line in planning.read_lines(raw / LIST)}
        if unknown := sorted(chosen - known):
            raise ValueError(
                f"{raw / LIST} names {len(unknown):,} keys that are no queries of "
                f"{' and '.join(CITIES)}, or are panoramas: {first_of(unknown)}"
            )
        return chosen, f"the {len(chosen):,} in {LIST}"
    if all((side.folder / INDEX).is_file() for side in queries):
        chosen = set().union(*map(_official, databases, queries))
        return chosen, f"the {len(chosen):,} that the official toolkit takes by {INDEX}"
    return known, f"all {len(known):,}, for there is no {LIST} and no {INDEX}"


def _official(database: Side, queries: Side) -> set[str]:
    """Queries that the index marks, and that have a database photo near."""
    from scipy.spatial import KDTree  # here, for it takes long to import

    path = queries.folder / INDEX
    marks = planning.read_table(path, ("all",))
    keys = list(queries.images)
    if unmarked := [key for key in keys if key not in marks]:
        raise ValueError(f"{path} lacks {len(unmarked):,} keys of raw.csv: {first_of(unmarked)}")
    nearest, _ = KDTree(database.utm).query(queries.utm)
    near = zip(keys, nearest <= THRESHOLD, strict=True)
    return {key for key, is_near in near if is_near and marks[key]["all"] == "True"}
