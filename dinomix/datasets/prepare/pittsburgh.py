"""Pittsburgh (Torii et al., TPAMI 2015) in NetVLAD's splits, 30k and 250k.

The download: `datasets/pitts30k_{train,val,test}.mat` (or pitts250k), database images in the
folders 000 to 010 and queries in `queries_real`, or both as `images` and `queries`, the other
names in use.
"""

import re
from pathlib import Path, PurePosixPath

import numpy as np
import utm

from dinomix.datasets.prepare.dbstruct import SPECIFICATIONS, read_dbstruct
from dinomix.datasets.prepare.planning import LAYOUTS, Plan, find_file, find_folder, utm_image

ZONE, LETTER = 17, "T"
LAYOUT = LAYOUTS["pittsburgh"]


def plan(name: str, raw: Path) -> Plan:
    """Database and queries of each split of "pitts30k" or "pitts250k"; train may be absent."""
    planned = Plan([])
    for split in ("train", "val", "test"):
        candidates = [
            str(Path(folder, f"{name}_{split}.mat")) for folder in LAYOUT["specifications"]
        ]
        if split == "train" and not any((raw / candidate).is_file() for candidate in candidates):
            planned.notes.append(f"there is no {name}_train.mat, so no train split was prepared")
            continue
        sides = read_dbstruct(find_file(raw, candidates, SPECIFICATIONS))
        for side, (names, positions) in sides.items():
            folder = find_folder(raw, LAYOUT[side], names, LAYOUT["hint"])
            _add_images(planned, f"{split}/{side}", folder, names, positions)
    return planned


def _add_images(
    planned: Plan, side: str, folder: Path, names: list[str], positions: np.ndarray
) -> None:
    latlon = np.stack(utm.to_latlon(*positions.T, ZONE, LETTER), axis=1)  # (N, 2)
    for i, name in enumerate(names):
        path = PurePosixPath(name)
        match = re.fullmatch(r"(.+?)_(pitch(\d+)_yaw(\d+))", path.stem)
        if match is None:
            raise ValueError(f"{name!r} is no Pittsburgh name; expected 000/000000_pitch1_yaw1.jpg")
        image = utm_image(
            side,
            folder / path,
            *positions[i],
            zone=ZONE,
            letter=LETTER,
            latlon=latlon[i],
            pano_id=match[1],
            tile=24 * (int(match[3]) - 1) + int(match[4]) - 1,
            note=match[2],
        )
        planned.images.append(image)
