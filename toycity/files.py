"""Rendered sets on disk: a file is complete or absent, and the manifest is written last."""

import csv
import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    VERSION = version("dinomix")  # which the city is installed with
except PackageNotFoundError:
    VERSION = "unknown"


@contextmanager
def atomic_path(path: str | Path, sync: bool = True) -> Iterator[Path]:
    """Yield a path to write to, and rename it onto `path` if the block ends well.

    `sync` brings the content to the disk before the name. An OSError for want of room names the
    file and the free space.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".part")  # no loader takes it for an image
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        if sync:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        free = f"{shutil.disk_usage(path.parent).free / 1e9:.2f} GB are free"
        what = f"{os.strerror(error.errno)} ({free}): make room there, and run this again"
        raise OSError(error.errno, what, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file without translating its line ends."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def write_table(path: Path, rows: Sequence[dict]) -> None:
    """Write a CSV file whose columns are the keys of the rows."""
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def started(manifest: Path) -> Path:
    """Where is noted what is being written, until the manifest is there."""
    return manifest.with_suffix(".started.json")


def is_written(manifest: Path, asked: dict, owned: Iterable[Path]) -> bool:
    """Whether the set of `manifest`, which `asked` defines, is finished; changes nothing.

    Raises:
        FileExistsError: another set is there, finished or not; or only `owned`, its folders.
    """
    folders = {folder.relative_to(manifest.parent).as_posix(): folder for folder in owned}
    for note in (manifest, started(manifest)):
        if note.exists():
            content = json.loads(note.read_text())
            there, wanted = _flat({key: content.get(key) for key in asked}), _flat(asked)
            other = [key for key in there | wanted if there.get(key) != wanted.get(key)]
            if other:
                differ = ", ".join(f"{k} {there.get(k)} instead of {wanted.get(k)}" for k in other)
                raise FileExistsError(
                    f"{note} is another set's, with {differ}: choose another folder, or remove "
                    f"{' and '.join(['that file', *folders])} yourself."
                )
            return note == manifest
    if foreign := [name for name, folder in folders.items() if folder.exists()]:
        raise FileExistsError(
            f"{manifest.parent} holds {' and '.join(foreign)} but no {manifest.name}: these are "
            "not a toy city's, and are left alone. Choose another folder, or move them away."
        )
    return False


def _flat(content: dict) -> dict:
    """What defines a set, without the names of its parts."""
    parts = [v if isinstance(v, dict) else {k: v} for k, v in content.items()]
    return {key: value for part in parts for key, value in part.items()}


@contextmanager
def being_written(manifest: Path, asked: dict, images: int) -> Iterator[None]:
    """Note what is being written; if the block ends well, write the manifest in its place."""
    write_text(started(manifest), json.dumps(asked, indent=1) + "\n")
    yield
    content = asked | {"version": VERSION, "images": images}
    write_text(manifest, json.dumps(content, indent=1) + "\n")
    started(manifest).unlink(missing_ok=True)


def link_database(images: Path, split: str) -> None:
    """Give `split` the very database of "test": a link where the system has them, else a copy."""
    database = images / split / "database"
    if os.path.lexists(database):
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    try:
        database.symlink_to(Path("..", "test", "database"), target_is_directory=True)
    except (OSError, NotImplementedError):
        partial = database.with_suffix(".part")
        shutil.rmtree(partial, ignore_errors=True)  # of an interrupted call
        shutil.copytree(images / "test" / "database", partial)
        partial.rename(database)
