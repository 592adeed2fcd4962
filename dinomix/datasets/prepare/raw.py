"""What a data set's module makes of a download (`Plan`), and how it finds its way in one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from dinomix.plumbing.csvtables import Table


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
        ValueError: as `Table.read`; or a key is there twice.
    """
    rows: dict[str, dict[str, str]] = {}
    table = Table.read(path, [key, *columns])
    for name, *values in zip(*(table.columns[column] for column in (key, *columns)), strict=True):
        if name in rows:
            raise ValueError(f"{path} has two rows of {key} {name!r}")
        rows[name] = dict(zip(columns, values, strict=True))
    return rows
