"""Puts images in their places: symbolic links, or copies, made once and never overwritten.

A symbolic link says where an image comes from, crosses file systems, and costs no disk; a hard
link does neither of the first two, and whoever edits one edits the original.
"""

import filecmp
import os
import shutil
from collections import defaultdict
from pathlib import Path

from tqdm.auto import tqdm

from dinomix.datasets.prepare.raw import Image
from dinomix.plumbing.errors import first_of
from dinomix.plumbing.files import atomic_path
from dinomix.plumbing.imagenames import is_visible_image


def not_in_place(root: Path, images: list[Image], copy: bool) -> list[Image]:
    """Those of `images` that are not under `root` yet; looks and changes nothing.

    An image is in place if its link leads to its source, or if it is a file of the source's size
    and time, or else of the source's bytes.

    Raises:
        FileExistsError: something else has the place of an image, or other images lie beside; a
            test set reads whole folders, so a stranger would silently become a part of it.
    """
    todo, wrong = [], []
    for folder, by_name in _by_folder(images).items():
        there = set(os.listdir(root / folder)) if (root / folder).is_dir() else set()
        wrong += [
            f"{folder}/{name} is none of its images"
            for name in sorted(there - by_name.keys())
            if is_visible_image(name)
        ]
        for name, image in by_name.items():
            if name not in there:
                todo.append(image)
            elif difference := _difference(root / folder / name, image.source, copy):
                wrong.append(f"{folder}/{name} {difference}")
    if wrong:
        raise FileExistsError(
            f"{root} holds {len(wrong):,} entries that this preparation would not make, and it "
            f"replaces nothing: {first_of(wrong)}. Remove them, or prepare into another folder."
        )
    return todo


def place(root: Path, images: list[Image], copy: bool, progress: bool) -> bool:
    """Link or copy `images`, none of which is in place, to `root`/<folder>/<name>.

    Returns:
        whether links were wanted but not possible there, so that images were copied.
    """
    for folder in _by_folder(images):
        (root / folder).mkdir(parents=True, exist_ok=True)
    fell_back = False
    for image in tqdm(images, desc="preparing", unit="img", disable=not (progress and images)):
        target = root / image.folder / image.name
        if not copy and not fell_back:
            try:
                os.symlink(image.source, target)
                continue
            except FileExistsError:
                raise
            except (OSError, NotImplementedError):  # FAT, or Windows without the privilege
                fell_back = True
        _copy(image.source, target)
    return fell_back


def _copy(source: str, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
        times = os.stat(source)
        os.utime(temporary, ns=(times.st_atime_ns, times.st_mtime_ns))  # by which it is known again


def _difference(target: Path, source: str, copy: bool) -> str:
    """What is wrong with the entry `target`, as a predicate; empty if it is the image."""
    if target.is_symlink():
        link = os.readlink(target)
        if copy:
            return f"is a link to {link}, where a copy was asked for"
        if link == source or (target.exists() and os.path.samefile(target, source)):
            return ""
        return f"is a link to {link}, not to {source}"
    if not target.is_file():
        return "is no file"
    return "" if filecmp.cmp(target, source, shallow=True) else f"differs from {source}"


def _by_folder(images: list[Image]) -> dict[str, dict[str, Image]]:
    folders: dict[str, dict[str, Image]] = defaultdict(dict)
    for image in images:
        folders[image.folder][image.name] = image
    return folders
