"""The photos behind image files: the classes and the depth of every pixel, which JPEGs lack."""

import json
import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from toycity import crossview, drive, limits
from toycity.crossview import CrossviewConfig, crossview_shots
from toycity.drive import drive_shots
from toycity.limits import limits_shots
from toycity.scene import Photo
from toycity.work import Shot, take
from toycity.writer import read_config, toycity_shots


def rerender(root: str | Path, paths: Sequence[str | Path]) -> list[Photo]:
    """Render files of a toy city again: the very photos that they were saved from.

    Args:
        root: what `write_toycity` returned, or `write_crossview`.
        paths: images in `root`, also those that `write_limits` and `write_drive` added.

    Returns:
        one Photo a path, in their order, with `.rgb`, `.classes` and `.depth`. Scenes are built
        once each, about a second; a photo takes some milliseconds.

    Raises:
        FileNotFoundError: `root` holds no finished set; or a path is no image of it, and is named.
        ValueError: another version of this package rendered it, which drew other images.
    """
    root = Path(os.path.abspath(root))
    keys = [_key(root, path) for path in paths]
    wanted = set(keys)
    size, shots = _shots(root)
    found: dict[str, Shot] = {}
    for shot in shots:
        if shot.target in wanted:
            found[shot.target] = shot
            if len(found) == len(wanted):
                break
    for key, path in zip(keys, paths, strict=True):
        if key not in found:
            raise FileNotFoundError(f"{path} is no image of the finished sets in {root}")
    photos: dict[str, Photo] = {}
    for shot in sorted(found.values(), key=lambda shot: shot.scene):
        photos[shot.target] = take(shot, size)
    return [photos[key] for key in keys]


def _key(root: Path, path: str | Path) -> str:
    """The target of the shot behind a file. Links are not followed: the root may be one."""
    path = Path(os.path.abspath(path))
    if path.parent == root / "images" / limits.SPLIT / "database":  # that of the test split
        return str(root / "images" / "test" / "database" / path.name)
    return str(path)


def _shots(root: Path) -> tuple[tuple[int, int], Iterator[Shot]]:
    """Size of the images, and the shots of all finished sets in `root`."""
    if (root / crossview.MANIFEST).exists():
        config = read_config(root, crossview.MANIFEST, CrossviewConfig)
        return config.size, crossview_shots(root, config)
    config = read_config(root)
    shots = [toycity_shots(root, config)]
    for manifest, more in ((limits.MANIFEST, limits_shots), (drive.MANIFEST, drive_shots)):
        if (root / manifest).exists():
            arguments = json.loads((root / manifest).read_text())["arguments"]
            shots.append(more(root, **arguments))
    return config.size, chain(*shots)
