"""CSV files that list images, one a row: read whole, and refused with the row that is wrong."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Self

import numpy as np

SHOWN = 5  # how many missing images a message names
LONGEST = 100  # characters of a value that a message shows


@dataclass(frozen=True)
class ImageTable:
    """A CSV file with a header and a column `image`: paths relative to the file's folder.

    Attributes:
        columns: as in the header.
        numbers: of each row in the file; the header is row 1.
        rows: column -> text.
        images: path of each row's image.
    """

    path: Path
    columns: Sequence[str]
    numbers: list[int]
    rows: list[dict[str, str]]
    images: list[Path]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no CSV file in UTF-8, has no column `image` or no rows, a row has more
            or fewer fields than the header, or an image lies outside of the file's folder.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no CSV file {path}")
        numbers, rows = [], []
        reader = None
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file, strict=True)
                reader.fieldnames = [column.strip() for column in reader.fieldnames or []]
                for row in reader:
                    numbers.append(reader.line_num)
                    rows.append(row)
        except csv.Error as error:
            raise ValueError(
                f"{path} is not a CSV file in UTF-8: line {reader.line_num}: {error}"
            ) from error
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is not a CSV file in UTF-8: line {undecodable_line(path)} is in another "
                "encoding; save it anew as UTF-8"
            ) from error
        columns = reader.fieldnames
        if "image" not in columns or len(set(columns)) < len(columns) or not rows:
            raise ValueError(
                f"{path} has the columns {columns} and {len(rows)} rows: expected a header with "
                "the column image, no column twice, and a row for each image, commas in between"
            )
        for number, row in zip(numbers, rows, strict=True):
            if None in row or None in row.values():
                raise ValueError(
                    f"{path}, row {number}: expected {len(columns)} fields, as in the header"
                )
        images = [_inside(path, n, row["image"]) for n, row in zip(numbers, rows, strict=True)]
        return cls(path, columns, numbers, rows, images)

    def has(self, *columns: str) -> bool:
        """Whether all of these columns are there."""
        return set(columns) <= set(self.columns)

    def texts(self, column: str) -> list[str]:
        """A column, without spaces around its values."""
        return [row[column].strip() for row in self.rows]

    def values(self, column: str, low: float, high: float) -> np.ndarray:
        """A column of numbers from `low` to `high`: float64 (N,).

        Raises:
            ValueError: names the first row whose value is no number or not in this range.
        """
        found = np.empty(len(self.rows))
        for i, text in enumerate(self.texts(column)):
            where = f"{self.path}, row {self.numbers[i]}: {column} is {shown(text)}"
            try:
                found[i] = as_number(text)
            except ValueError as error:
                raise ValueError(f"{where}, which is not a number") from error
            if not low <= found[i] <= high:  # NaN never is
                raise ValueError(f"{where}, expected {low:,.0f} to {high:,.0f}")
        return found

    def require_distinct(self, groups: Sequence[str] | None = None) -> None:
        """Within each group no two images may have one name, which is what they are known by.

        Args:
            groups: what group each row belongs to; None: all to one.

        Raises:
            ValueError: names the first pair.
        """
        first: dict[tuple[str, str], int] = {}
        for i, image in enumerate(self.images):
            other = first.setdefault((groups[i] if groups else "", image.name), i)
            if other != i:
                raise ValueError(
                    f"{self.path}, rows {self.numbers[other]} and {self.numbers[i]}: "
                    f"{self.images[other]} and {image} have the same name, which is what images "
                    "are known by; take one out or rename it"
                )


def as_number(text: str) -> float:
    """The number that text stands for, as tables and file names have it: in ASCII digits.

    Raises:
        ValueError: for anything else, such as `4_0`, which Python takes for 40.
    """
    if not text.isascii() or "_" in text:
        raise ValueError(f"{text!r} is no number")
    return float(text)


def undecodable_line(path: Path) -> int:
    """The number of the first line of a text file that is not in UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    raise ValueError(f"{path} is in UTF-8")


def shown(text: str) -> str:
    """A value as messages show it: a stranger's may have any length."""
    return repr(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")


def require_files(tables: Sequence[ImageTable]) -> None:
    """All images must be there.

    Raises:
        FileNotFoundError: says how many are missing, and names the first ones.
    """
    images = [image for table in tables for image in table.images]
    missing = [str(image) for image in images if not image.is_file()]
    if missing:
        names = " and ".join(str(table.path) for table in tables)
        raise FileNotFoundError(
            f"{len(missing)} of the {len(images)} images that {names} name are missing, the first "
            f"ones: {', '.join(missing[:SHOWN])}. Put them there, or take their rows out."
        )


def _inside(table: Path, number: int, image: str) -> Path:
    relative = PureWindowsPath(image)  # knows drives, and / as well as \
    if not relative.parts or relative.anchor or ".." in relative.parts:
        raise ValueError(
            f"{table}, row {number}: the image {shown(image)} should be a path within "
            f"{table.parent}, neither absolute nor with `..`"
        )
    return table.parent.joinpath(*relative.parts)
