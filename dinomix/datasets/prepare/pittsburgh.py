"""Pittsburgh (Torii et al., TPAMI 2015) in NetVLAD's splits, 30k and 250k.

The download: `datasets/pitts30k_{train,val,test}.mat` (or pitts250k), database images in the
folders 000 to 010 and queries in `queries_real`, or both as `images` and `queries`, the other
names in use.
"""

import re
from pathlib import Path, PurePosixPath

import numpy as np

from dinomix.datasets.prepare import planning
from dinomix.datasets.prepare.dbstruct import SPECIFICATIONS, read_dbstruct
from dinomix.datasets.prepare.planning import LAYOUTS, Image, Plan

ZONE = {"zone": 17, "letter": "T"}
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
        sides = read_dbstruct(planning.find_file(raw, candidates, SPECIFICATIONS))
        for side, (names, positions) in sides.items():
            folder = planning.find_folder(raw, LAYOUT[side], names, LAYOUT["hint"])
            places = zip(names, positions, strict=True)
            planned.images += [_image(f"{split}/{side}", folder, *place) for place in places]
    return planned


def _image(side: str, folder: Path, name: str, position: np.ndarray) -> Image:
    path = PurePosixPath(name)
    match = re.fullmatch(r"(.+?)_(pitch(\d+)_yaw(\d+))", path.stem)
    if match is None:
        raise ValueError(f"{name!r} is no Pittsburgh name; expected 000/000000_pitch1_yaw1.jpg")
    cut = {"tile": 24 * (int(match[3]) - 1) + int(match[4]) - 1, "note": match[2]}
    return planning.utm_image(side, folder / path, *position, **ZONE, pano_id=match[1], **cut)
