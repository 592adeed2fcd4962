"""Which files of a folder are images, by their names; nothing here loads torch."""

import os
from pathlib import Path, PureWindowsPath

# Pillow cannot decode HEIC, the telephones' format, but it is listed, so that such a photo is an
# error that names it and is not silently left out.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".heic", ".heif", ".avif"),
)


def is_visible_image(name: str) -> bool:
    """Whether a file of this name should be an image; hidden ones, half-written maybe, are none."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def stays_inside(name: str) -> bool:
    """Whether a relative path, written on any system, leads to a file below its folder."""
    path = PureWindowsPath(name)  # knows drives, and / as well as \
    return bool(path.parts) and not path.anchor and ".." not in path.parts and "\0" not in name


def list_images(folder: Path) -> list[Path]:
    """The images of a folder by name; FileNotFoundError where there is no folder or no image."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    # Of strings: paths would take twice as long in a folder of a hundred thousand.
    images = sorted(filter(is_visible_image, os.listdir(folder)))
    if not images:
        raise FileNotFoundError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
    return [folder / name for name in images]
