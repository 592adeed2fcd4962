"""Which files are images: what Pillow decodes, asked of Pillow; nothing here loads torch."""

import mimetypes
import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path, PureWindowsPath

from PIL import Image

from dinomix.plumbing.errors import first_of

# The telephones' format counts without its decoder, too: such a photo is then an error that says
# what to install.
HEIC = {".heic", ".heif", ".hif"}


class LeftOutWarning(UserWarning):
    """Files of a folder that may be photos are left out; the message counts and names them."""


@cache
def image_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are opened, with HEIF where pillow-heif is installed.

    Their MIME type is an image's, and their first bytes tell them: no document or video, no EPS
    (it would be handed to Ghostscript), no TGA (any damaged file may look like one).
    """
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    known = (name for name in Image.ID if Image.MIME.get(name, "").startswith("image/"))
    return tuple(name for name in known if Image.OPEN[name][1] is not None)


@cache
def _suffixes() -> frozenset[str]:
    opened = {*image_formats(), "MPO"}  # which Pillow opens as JPEG
    named = Image.registered_extensions().items()
    return frozenset(HEIC | {suffix for suffix, name in named if name in opened})


def is_visible_image(name: str) -> bool:
    """Whether a file of this name should be an image; hidden ones, half-written maybe, are none."""
    return os.path.splitext(name)[1].lower() in _suffixes() and not name.startswith(".")


def stays_inside(name: str) -> bool:
    """Whether a relative path, written on any system, leads to a file below its folder."""
    path = PureWindowsPath(name)  # knows drives, and / as well as \
    return bool(path.parts) and not path.anchor and ".." not in path.parts and "\0" not in name


def names_under(root: str | Path | None, paths: Sequence[str | Path]) -> list[str]:
    """Paths as hloc and COLMAP name images: relative to a folder, with /. None: to the deepest
    folder that holds them all. ValueError: one lies outside of it.
    """
    files = [os.path.abspath(path) for path in paths]
    root = os.path.abspath(root or os.path.commonpath([*map(os.path.dirname, files)]))
    if outside := [file for file in files if not file.startswith(os.path.join(root, ""))]:
        raise ValueError(f"outside of the image root {root} lie {first_of(outside)}: name another")
    return [Path(file).relative_to(root).as_posix() for file in files]


def list_images(folder: Path, nested: bool = False) -> list[Path]:
    """The images of a folder, and with `nested` of all folders in it, by path.

    Hidden files and folders are left aside, and links to folders are not followed (links to files
    are). Other files that may be photos, such as raw ones, folders that cannot be opened, and
    without `nested` images in folders below are left out with a `LeftOutWarning`, or where no image
    is left, a FileNotFoundError.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    found, below, other = [], {}, []

    def is_closed(error: OSError) -> None:
        other.append(f"{error.filename}: {error.strerror}")

    for here, folders, files in os.walk(folder, onerror=is_closed):
        folders[:] = [name for name in folders if not name.startswith(".")]
        # Sorted as strings: paths would take twice as long in a folder of a hundred thousand.
        images, home = sorted(filter(is_visible_image, files)), Path(here)
        if nested or home == folder:
            found += [home / name for name in images]
        elif images:
            below[os.path.relpath(here, folder)] = len(images)
        other += filter(_may_be_photo, set(files).difference(images))
    left = []
    if below:
        count = f"{sum(below.values()):,}"
        left.append(f"images in folders below: {count} ({first_of(sorted(below))})")
    if other:
        names = first_of(sorted(other))
        left.append(f"files that Pillow does not decode: {len(other):,} ({names})")
    complaint = f". Left out are {', and '.join(left)}" if left else ""
    if not found:
        raise FileNotFoundError(f"{folder} holds no images{complaint}")
    if complaint:
        warnings.warn(f"{folder}{complaint}", LeftOutWarning, stacklevel=3)
    return sorted(found) if nested else found


def _may_be_photo(name: str) -> bool:
    """All but hidden files, texts, documents and videos, as far as their suffix is a known one."""
    kind = mimetypes.guess_type(name)[0]
    return not name.startswith(".") and (kind is None or kind.startswith("image/"))
