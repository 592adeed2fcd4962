"""What a data set's module makes of a download (`Plan`), and how it finds its way in one."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from dinomix.plumbing.imagenames import IMAGE_SUFFIXES as IMAGE_SUFFIXES  # also found here


@dataclass(frozen=True, slots=True)
class Image:
    """One image to be: `images/<folder>/<name>`, from the file `source` (absolute).

    `folder` is split and side, such as "val/database".
    """

    folder: str
    name: str
    source: str


@dataclass
class Plan:
    """What a download becomes; `notes` are sentences for the summary."""

    images: list[Image]
    notes: list[str] = field(default_factory=list)


def find_file(raw: Path, candidates: Sequence[str], hint: str) -> Path:
    """The first of `candidates`, paths relative to `raw`, that is a file.

    Raises:
        FileNotFoundError: says where it was looked for; `hint` says where to get it.
    """
    for candidate in candidates:
        if (raw / candidate).is_file():
            return raw / candidate
    raise FileNotFoundError(f"{raw} holds no file {' or '.join(candidates)}. {hint}")


def find_folder(raw: Path, candidates: Sequence[str], names: Iterable[str], hint: str) -> Path:
    """The first of `candidates`, paths relative to `raw`, where images called `names` can lie.

    That is a folder that holds the first part of any of the names, be it a folder or a file.

    Raises:
        FileNotFoundError: says where it was looked for; `hint` says where to get the images.
    """
    heads = sorted({PurePosixPath(name).parts[0] for name in names})
    for candidate in candidates:
        if any((raw / candidate / head).exists() for head in heads):
            return raw / candidate
    shown = ", ".join(heads[:3]) + (", ..." if len(heads) > 3 else "")
    places = " or ".join(str(Path(candidate)) for candidate in candidates)
    raise FileNotFoundError(f"{raw} holds no folder {places} with {shown} in it. {hint}")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped.

    Raises:
        ValueError: it is no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_table(path: Path, columns: Sequence[str], key: str = "key") -> dict[str, dict[str, str]]:
    """The rows of a CSV file by their `key`, in the file's order; `columns` must be there.

    Raises:
        ValueError: a column or a value is missing, a key is there twice, or it is no text.
    """
    rows: dict[str, dict[str, str]] = {}
    reader = csv.DictReader(read_lines(path))
    lacking = [name for name in (key, *columns) if name not in (reader.fieldnames or [])]
    if lacking:
        raise ValueError(
            f"{path} has no column {', '.join(lacking)}; it has {reader.fieldnames or 'none'}"
        )
    for row in reader:
        if row[key] in rows:
            raise ValueError(f"{path} has two rows of {key} {row[key]!r}")
        if any(row[name] is None for name in columns):
            raise ValueError(f"{path} ends within the row of {key} {row[key]!r}")
        rows[row[key]] = row
    return rows
