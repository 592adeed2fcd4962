"""SF-XL (Berton et al., CVPR 2022) and SVOX (Berton et al., WACV 2021), in UTM names already.

Folders may have subfolders; where `<folder>_images_paths.txt` lists a folder's images, as for the
2.8 million of SF-XL's database, the list is read instead of the folder.
"""

import os
from pathlib import Path, PurePosixPath

from dinomix.datasets.prepare.planning import LAYOUTS, Image, Plan, read_lines, refuse_outside_paths
from dinomix.plumbing.imagenames import list_images
from dinomix.plumbing.positions import UTM_LIMITS, read_names, refuse_positions


def plan(name: str, raw: Path) -> Plan:
    """The folders in layouts.toml; those that are not there are told, and may be added later."""
    layout = dict(LAYOUTS["named"][name])
    inner, hint, planned = layout.pop("inner"), layout.pop("hint"), Plan([])
    root = raw / inner if (raw / inner).is_dir() else raw
    for target, folder in layout.items():
        if (root / folder).is_dir():
            planned.images += _images(target, root / folder)
        else:
            planned.notes.append(f"there is no folder {folder}, so {target} was not prepared")
    if not planned.images:
        raise FileNotFoundError(f"{raw} holds no {inner} with {', '.join(layout.values())}. {hint}")
    return planned


def _images(side: str, folder: Path) -> list[Image]:
    listing = folder.with_name(f"{folder.name}_images_paths.txt")
    if listing.is_file():
        paths = read_lines(listing)
        refuse_outside_paths(paths, listing)
    else:
        paths = [os.path.relpath(path, folder) for path in list_images(folder, nested=True)]
    positions, _ = read_names(list(map(PurePosixPath, paths)))
    names = [PurePosixPath(path).name for path in paths]
    refuse_positions(names, positions, UTM_LIMITS, folder)
    return [
        Image(side, name, os.path.join(folder, path))
        for name, path in zip(names, paths, strict=True)
    ]
