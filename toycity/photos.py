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
    """Render files of a toy city again: the very photos, one a path, that they were saved from.

    Args:
        root: what `write_toycity` or `write_crossview` returned.
        paths: images in `root`, also those that `write_limits` and `write_drive` added.

    Raises:
        FileNotFoundError: `root` holds no finished set; or a path is no image of it, and is named.
        ValueError: another version of this package rendered it, which drew other images.
    """
    root = Path(os.path.abspath(root))
    targets = [_target(root, path) for path in paths]
    size, shots = _shots(root)
    behind = {shot.target: shot for shot in shots}
    for target, path in zip(targets, paths, strict=True):
        if target not in behind:
            raise FileNotFoundError(f"{path} is no image of the finished sets in {root}")
    wanted = sorted((behind[target] for target in set(targets)), key=lambda shot: shot.scene)
    photos = {shot.target: take(shot, size) for shot in wanted}
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
