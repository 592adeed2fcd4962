"""The photos behind image files: the classes and the depth of every pixel, which JPEGs lack."""

import json
import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from toycity import crossview
from toycity.scene import Photo
from toycity.splits import SPLITS
from toycity.work import Shot, take
from toycity.writer import read_config, toycity_shots


def rerender(root: str | Path, paths: Sequence[str | Path]) -> list[Photo]:
    """Render files of a toy city again: the very photos that they were saved from.

    Scenes are built once each, about a second; a photo takes some milliseconds.

    Args:
        root: what `write_toycity` returned, or `write_crossview`.
        paths: images in `root`, also those that `write_limits` and `write_drive` added.

    Returns:
        one Photo a path, in their order, with `.rgb`, `.classes` and `.depth`.

    Raises:
        FileNotFoundError: `root` holds no finished set; or a path is no image of it, and is named.
        ValueError: another version of this package rendered it, which drew other images.
    """
    root = Path(os.path.abspath(root))
    targets = [_target(root, path) for path in paths]
    size, shots = _shots(root)
    missing = set(targets)
    found: list[Shot] = []
    while missing and (shot := next(shots, None)):
        if shot.target in missing:
            found.append(shot)
            missing.remove(shot.target)
    for target, path in zip(targets, paths, strict=True):
        if target in missing:
            raise FileNotFoundError(f"{path} is no image of the finished sets in {root}")
    found.sort(key=lambda shot: shot.scene)
    photos = {shot.target: take(shot, size) for shot in found}
    return [photos[target] for target in targets]


def _target(root: Path, path: str | Path) -> str:
    """The target of the shot behind a file. Links are not followed: the root may be one."""
    path = Path(os.path.abspath(path))
    if path.parent == root / "images" / "limits" / "database":  # that of the test split
        return str(root / "images" / "test" / "database" / path.name)
    return str(path)


def _shots(root: Path) -> tuple[tuple[int, int], Iterator[Shot]]:
    """Size of the images, and the shots of all finished sets in `root`."""
    if (root / crossview.MANIFEST).exists():
        config = read_config(root, crossview.MANIFEST, crossview.CrossviewConfig)
        return config.size, crossview.crossview_shots(root, config)
    config = read_config(root)
    shots = [toycity_shots(root, config)]
    for split, more in SPLITS.items():
        if (manifest := root / f"{split}.json").exists():
            shots.append(more(root, **json.loads(manifest.read_text())["arguments"]))
    return config.size, chain(*shots)
