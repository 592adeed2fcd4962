"""What a data set's module makes of a download (`Plan`), and what it is made with.

A prepared image's name is fourteen fields between `@`, in the order that the field's standard
formatter, VPR-datasets-downloader, gives them:
`@UTM_east@UTM_north@zone@letter@lat@lon@pano_id@tile@heading@pitch@roll@height@timestamp@note@.jpg`
"""

import os
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import utm

from dinomix.plumbing.csvtables import Table
from dinomix.plumbing.errors import first_of
from dinomix.plumbing.imagenames import is_visible_image, stays_inside

LAYOUTS = tomllib.loads(Path(__file__).with_name("layouts.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class Image:
    """One image to be: `images/<folder>/<name>`, such as folder "val/database", from a file."""

    folder: str
    name: str
    source: str  # absolute


@dataclass
class Plan:
    """What a download becomes; `notes` are sentences for the summary."""

    images: list[Image]
    notes: list[str] = field(default_factory=list)


def find_file(raw: Path, candidates: Sequence[str], hint: str) -> Path:
    """The first of `candidates`, paths relative to `raw`, that is a file; else the error hints."""
    for candidate in candidates:
        if (raw / candidate).is_file():
            return raw / candidate
    raise FileNotFoundError(f"{raw} holds no file {' or '.join(candidates)}. {hint}")


def find_folder(raw: Path, candidates: Sequence[str], names: Iterable[str], hint: str) -> Path:
    """The first of `candidates`, paths relative to `raw`, that holds the head of any of `names`."""
    heads = sorted({PurePosixPath(name).parts[0] for name in names})
    for candidate in candidates:
        if any((raw / candidate / head).exists() for head in heads):
            return raw / candidate
    places = " or ".join(str(Path(candidate)) for candidate in candidates)
    raise FileNotFoundError(
        f"{raw} holds no folder {places} with {first_of(heads, 3)} in it. {hint}"
    )


def find_images(raw: Path, candidates: Sequence[str], hint: str) -> tuple[Path, dict[str, str]]:
    """The first of `candidates` with images in it, and their names by stem, in order."""
    for folder in (raw / candidate for candidate in candidates):
        if folder.is_dir() and (names := sorted(filter(is_visible_image, os.listdir(folder)))):
            return folder, {Path(name).stem: name for name in names}
    raise FileNotFoundError(f"{raw} holds no folder {' or '.join(candidates)} of images. {hint}")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_table(path: Path, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """The rows of a CSV file by their `key`, in the file's order; `columns` must be there."""
    table = Table.read(path, ["key", *columns])
    rows: dict[str, dict[str, str]] = {}
    for key, *values in zip(*(table.columns[name] for name in ("key", *columns)), strict=True):
        if key in rows:
            raise ValueError(f"{path} has two rows of key {key!r}")
        rows[key] = dict(zip(columns, values, strict=True))
    return rows


def utm_image(
    folder: str,
    source: Path,
    east: float,
    north: float,
    *,
    zone: int | None = None,
    letter: str = "",
    latlon: Sequence[float] | None = None,
    pano_id: str = "",
    tile: int | None = None,
    timestamp: str = "",
    note: str = "",
) -> Image:
    """An image and its name; what is not given stays empty, as heading to height do.

    Args:
        east, north: UTM in metres, written to the centimetre.
        latlon: degrees, written to 1e-5; None: those of east and north, if `zone` is given.
        tile: which cut-out of its panorama it is.
        timestamp: YYYYMMDD, or a part of it.
    """
    if latlon is None and zone is not None:
        latlon = utm.to_latlon(east, north, zone, letter)
    fields = [
        f"{east:010.2f}",
        f"{north:010.2f}",
        "" if zone is None else f"{zone:02d}",
        letter,
        *(("", "") if latlon is None else (f"{latlon[0]:09.5f}", f"{latlon[1]:010.5f}")),
        pano_id,
        "" if tile is None else f"{tile:02d}",
        *["", "", "", ""],  # heading, pitch, roll, height
        timestamp,
        note,
        source.suffix,
    ]
    for part in fields:
        if any(character in part for character in "@/\\\0"):
            raise ValueError(f"{part!r} cannot be a field of a file name: it holds @, / or \\")
    return Image(folder, "@" + "@".join(fields), str(source))


def refuse_outside_paths(names: Sequence[str], source: Path) -> None:
    """Names of images that `source` lists must stay within the download's folder."""
    if outside := [repr(name) for name in names if not stays_inside(name)]:
        raise ValueError(
            f"{source} names {len(outside):,} images that lead out of their folder: "
            f"{first_of(outside)}. The file is not the published one."
        )
