"""San Francisco eXtra Large (Berton et al., CVPR 2022): its images carry UTM names already.

The download: `processed` or `small`, each with `val/database`, `val/queries`, `test/database`
and `test/queries_v1`. Folders may have subfolders; where `<folder>_images_paths.txt` lists a
folder's images, as for the 2.8 million of the database, the list is read instead of the folder.
"""

import os
from pathlib import Path, PurePosixPath

from dinomix.datasets.prepare.planning import (
    Image,
    Plan,
    read_lines,
    refuse_outside_paths,
)
from dinomix.plumbing.imagenames import is_visible_image
from dinomix.plumbing.positions import UTM_LIMITS, read_names, refuse_positions

SIDES = {
    "val": {"database": "database", "queries": "queries"},
    "test": {"database": "database", "queries": "queries_v1"},
}
HINT = "Access is given by the authors of the data set: https://github.com/gmberton/CosPlace"


def plan(version: str, raw: Path) -> Plan:
    """The splits val and test, of which one may be absent; the queries of test are test v1.

    `version` is the folder in `raw`, or `raw` itself: "processed" (2.8 million images in test) or
    "small" (27,191).
    """
    root = raw / version if (raw / version).is_dir() else raw
    planned = Plan([])
    for split, sides in SIDES.items():
        if not (root / split).is_dir():
            planned.notes.append(f"there is no folder {split}, so that split was not prepared")
            continue
        for side, folder in sides.items():
            planned.images += _images(f"{split}/{side}", root / split / folder)
    if len(planned.notes) == len(SIDES):
        raise FileNotFoundError(f"{raw} holds no {version}/val or {version}/test. {HINT}")
    return planned


def _images(side: str, folder: Path) -> list[Image]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}. {HINT}")
    listing = folder.with_name(f"{folder.name}_images_paths.txt")
    if listing.is_file():
        paths = read_lines(listing)
        refuse_outside_paths(paths, listing)
    else:
        paths = sorted(
            os.path.relpath(os.path.join(parent, name), folder)
            for parent, _, names in os.walk(folder)
            for name in names
            if is_visible_image(name)
        )
    positions, _ = read_names(list(map(PurePosixPath, paths)))
    names = [PurePosixPath(path).name for path in paths]
    refuse_positions(names, positions, UTM_LIMITS, folder)
    return [
        Image(side, name, os.path.join(folder, path))
        for name, path in zip(names, paths, strict=True)
    ]
