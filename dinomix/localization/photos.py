"""The photos that somebody means by a path: one file, a folder, or a CSV file that lists them."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dinomix.imagenames import IMAGE_SUFFIXES, is_visible_image
from dinomix.imagetables import ImageTable, require_files
from dinomix.layouts import DEGREES, METRES
from dinomix.localization.positions import Position, read_position


@dataclass(frozen=True)
class Photos:
    """Photos, and where they were taken if a table says so.

    Attributes:
        root: the folder that they lie in.
        paths: files in order.
        listed: positions that a CSV file gives; of other photos, `position` looks into the name
            and the EXIF tags.
    """

    root: Path
    paths: list[Path]
    listed: Mapping[Path, Position] = field(default_factory=dict)

    def position(self, path: Path) -> Position | None:
        """Where a photo was taken: as listed, else as the photo itself tells; None: unknown."""
        return self.listed.get(path) or read_position(path)


def find_photos(source: str | Path) -> Photos:
    """The photos of a folder and of all folders in it, of a CSV file, or the one photo.

    In folders, hidden files and folders are left aside, and links to folders are not followed
    (links to files are). A CSV file has a header, a row a photo and the column `image`, a path
    relative to its own folder; the columns `latitude` and `longitude` in degrees or `utm_east` and
    `utm_north` in metres of one zone are optional, and so is what stands in them.

    Raises:
        FileNotFoundError: there is no such file or folder, or no image in the folder; or images of
            the CSV file are missing.
        ValueError: a CSV file cannot be read; the row is named.
    """
    source = Path(source)
    if source.is_dir():
        return Photos(source, _walk(source))
    if not source.is_file():
        raise FileNotFoundError(f"there is no photo, folder or CSV file {source}")
    if source.suffix.lower() == ".csv":
        return _read_table(source)
    return Photos(source.parent, [source])


def _walk(folder: Path) -> list[Path]:
    found = []
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(here, name) for name in files if is_visible_image(name)]
    if not found:
        raise FileNotFoundError(
            f"{folder} and the folders in it hold no images ({', '.join(IMAGE_SUFFIXES)})"
        )
    return sorted(found)


def _read_table(path: Path) -> Photos:
    table = ImageTable.read(path)
    require_files([table])
    listed: dict[Path, Position] = {}
    for columns, make in ((METRES, Position.from_utm), (DEGREES, Position.from_degrees)):
        if table.has(*columns):
            filled = _rows_with(table, columns)
            values = [filled.values(column, *limits) for column, limits in columns.items()]
            listed |= dict(zip(filled.images, map(make, *values), strict=True))
    return Photos(path.parent, list(dict.fromkeys(table.images)), listed)


def _rows_with(table: ImageTable, columns: Sequence[str]) -> ImageTable:
    """The table without the rows in which all of these columns are empty."""
    kept = [i for i, row in enumerate(table.rows) if any(row[c].strip() for c in columns)]
    return dataclasses.replace(
        table,
        numbers=[table.numbers[i] for i in kept],
        rows=[table.rows[i] for i in kept],
        images=[table.images[i] for i in kept],
    )
