"""CSV files from elsewhere, read strictly: whole and in UTF-8, or refused with the wrong row.

Spaces, capitals in the header, and spreadsheets' empty rows, columns and semicolons do not matter.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from math import nan
from pathlib import Path, PureWindowsPath
from typing import Self

import numpy as np

from dinomix.plumbing.errors import first_of
from dinomix.plumbing.imagenames import stays_inside

DECIMAL_COMMA = re.compile(r"^([+-]?\d+),(\d+)$", re.ASCII)
SHORT = {"lat": "latitude", "lon": "longitude", "lng": "longitude", "long": "longitude"}
LONGEST = 100  # characters of a value that a message shows


@dataclass(frozen=True)
class Table:
    """A CSV file with a header; all values are text, without spaces around it."""

    path: Path
    columns: dict[str, list[str]]
    numbers: list[int]  # the line in the file of each row; the header is line 1

    @classmethod
    def read(cls, path: Path, required: Sequence[str]) -> Self:
        """Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no CSV file in UTF-8, lacks a column of `required`, has one twice or no
            rows, or a row has more or fewer fields than the header.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no CSV file {path}")
        wrong = f"{path} is not a CSV file in UTF-8: line"
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise ValueError(f"{wrong} {line} is in another encoding; save it anew") from error
        header = next(StringIO(text[:10_000].lstrip(), newline=None), "")
        form = {"delimiter": max(",;", key=header.count), "skipinitialspace": True, "strict": True}
        reader = csv.reader(StringIO(text, newline=""), **form)
        lines = filter(any, ([cell.strip() for cell in line] for line in reader))  # no blank ones
        if form["delimiter"] == ";":
            lines = ([DECIMAL_COMMA.sub(r"\1.\2", cell) for cell in line] for line in lines)
        cells, numbers = [], []  # flat: a list for each row would keep the collector busy
        try:
            names = [name.lower() for name in next(lines, [])]
            while names and not names[-1]:
                names.pop()
            if lacking := [name for name in required if name not in names]:
                raise ValueError(
                    f"{path} lacks the columns {lacking}; separated by commas, its header has "
                    f"{shown(', '.join(names))}"
                )
            if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
                raise ValueError(f"{path} has the columns {twice} twice; take one of each out")
            for line in lines:
                if len(line) < len(names) or any(line[len(names) :]):
                    raise ValueError(
                        f"{path}, row {reader.line_num}: expected {len(names)} fields, as in the "
                        f"header, but it has {len(line)}"
                    )
                cells += line[: len(names)]
                numbers.append(reader.line_num)
        except csv.Error as error:
            raise ValueError(f"{wrong} {reader.line_num}: {error}") from error
        if not cells:
            raise ValueError(f"{path} has no rows below its header")
        return cls(path, {name: cells[i :: len(names)] for i, name in enumerate(names)}, numbers)

    def has(self, *columns: str) -> bool:
        """Whether all of these columns are there."""
        return set(columns) <= set(self.columns)

    def values(self, column: str, low: float, high: float, whole: bool = False) -> np.ndarray:
        """A column of (whole) numbers from `low` to `high`: float64 (N,); raises as `require`."""
        values = np.array([as_number(text) for text in self.columns[column]], dtype=float)
        good = (low <= values) & (values <= high)  # NaN never is
        if whole:
            good &= values == np.floor(values)
        kind = "whole number" if whole else "number"
        self.require(column, good, f"a {kind} from {low:,.0f} to {high:,.0f}")
        return values

    def require(self, column: str, good: Sequence[bool] | np.ndarray, expected: str) -> None:
        """ValueError names the first row whose value of a column is not `good`, a flag each."""
        wrong = np.flatnonzero(np.logical_not(good))
        if len(wrong):
            more = f" (and so in {len(wrong) - 1} more rows)" if len(wrong) > 1 else ""
            raise ValueError(
                f"{self.path}, row {self.numbers[wrong[0]]}: {column} is "
                f"{shown(self.columns[column][wrong[0]])}, expected {expected}{more}"
            )


@dataclass(frozen=True)
class ImageTable(Table):
    """A CSV file of images, one a row: the column `image` is a path relative to its folder."""

    images: list[Path]

    @classmethod
    def read(cls, path: Path) -> Self:
        """As `Table.read`; ValueError, too, for an image outside of the folder."""
        table = Table.read(path, ["image"])
        names = table.columns["image"]
        expected = f"a path within {path.parent}, neither absolute nor with `..`"
        table.require("image", [stays_inside(name) for name in names], expected)
        images = [path.parent.joinpath(*PureWindowsPath(name).parts) for name in names]
        long = {SHORT.get(name, name): cells for name, cells in table.columns.items()}
        return cls(**vars(table) | {"columns": long | table.columns}, images=images)

    def take(self, rows: Sequence[int]) -> Self:
        """The table of these rows only."""
        columns = {name: [cells[i] for i in rows] for name, cells in self.columns.items()}
        numbers, images = ([of[i] for i in rows] for of in (self.numbers, self.images))
        return type(self)(self.path, columns, numbers, images)

    def require_distinct(self, groups: Sequence[str] | None = None) -> None:
        """Raise ValueError if two images of a group (one of `groups` a row) have one name."""
        first: dict[tuple[str, str], int] = {}
        for i, image in enumerate(self.images):
            other = first.setdefault((groups[i] if groups else "", image.name), i)
            if other != i:
                raise ValueError(
                    f"{self.path}, rows {self.numbers[other]} and {self.numbers[i]}: "
                    f"{self.images[other]} and {image} have the same name, which is what images "
                    "are known by; take one out or rename it"
                )


def require_files(tables: Sequence[ImageTable]) -> None:
    """Raise FileNotFoundError, with the first missing ones, unless all images are there."""
    images = [image for table in tables for image in table.images]
    if missing := [str(image) for image in images if not image.is_file()]:
        names = " and ".join(str(table.path) for table in tables)
        raise FileNotFoundError(
            f"{len(missing)} of the {len(images)} images that {names} name are missing: "
            f"{first_of(missing)}. Put them there, or take their rows out."
        )


def as_number(text: str) -> float:
    """The number that text in ASCII stands for; NaN for none, and for Python's `4_0`."""
    try:
        return float(text) if text.isascii() and "_" not in text else nan
    except ValueError:
        return nan


def shown(text: str) -> str:
    """A value as messages show it: a stranger's may have any length."""
    return repr(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")
