"""Descriptors of photos, kept in one file, so that only new photos are described."""

import hashlib
import os
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import nn

from dinomix.localization.photos import Photos
from dinomix.plumbing.workspace import data_root
from dinomix.retrieval import SkippedImageWarning, describe_batches, described
from dinomix.scale.descriptors import model_hash

NAME = ".dinomix.sqlite"
OURS = (0x64696E6F, 1)  # SQLite's application_id ("dino") and user_version: of this layout
TABLE = """
CREATE TABLE photos (
    model TEXT,       -- `descriptors.model_hash`
    photo BLOB,       -- path relative to the index's folder
    size INTEGER,     -- bytes
    changed INTEGER,  -- time of the last change, in nanoseconds
    descriptor BLOB,  -- float32 (D,); NULL: the file is damaged
    PRIMARY KEY (model, photo)
)
"""

State = tuple[int, int]  # of a file: size, time of the last change


@dataclass(frozen=True)
class Described:
    """Descriptors of all photos that can be read.

    Attributes:
        descriptors: float32 (N, D), rows of unit length.
        paths: the N photos.
        skipped: photos that cannot be read.
        fresh: how many photos had to be described now, damaged ones included.
    """

    descriptors: np.ndarray
    paths: list[Path]
    skipped: list[Path]
    fresh: int


class PhotoIndex:
    """Descriptors of photos in an SQLite file; a context manager, which closes it.

    Photos are known by path, size and time of the last change, models by the content of their
    weights. So what is new, changed or asked for with another model is described, and all else is
    read; photos that are gone are forgotten. (A change that keeps both size and time is not seen.)
    Each batch is on the disk before the next one is described: a kill costs one batch. Several
    processes may use one file. Paths are relative to the file's folder, so that both can move
    together. The file holds nothing that cannot be made again, and may be deleted at any time.

    Args:
        file: made if it is not there; None keeps nothing.

    Raises:
        ValueError: the file is there, but is damaged or something else.
        OSError: the file cannot be read or written.
    """

    def __init__(self, file: str | Path | None) -> None:
        self.file = None if file is None else Path(file)
        self._folder = os.path.abspath(os.curdir if file is None else self.file.parent)
        with self._explained():
            if file is not None:
                self.file.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(":memory:" if file is None else file, timeout=60)
        try:
            with self._explained(), self._connection:
                self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; the index cannot be used any more."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def describe(self, model: nn.Module, photos: Photos, **options: Any) -> Described:
        """Descriptors of photos, in their order; those that are not known yet are added.

        All of them are in memory at once: 1.6 GB for 100,000 photos of 4096 entries.

        Args:
            options: of `describe_batches`: batch_size, workers, device, progress.

        Raises:
            FileNotFoundError: a photo vanished meanwhile.
            FloatingPointError: a descriptor is not finite.
            OSError: the index cannot be written.
        """
        name = model_hash(model)
        keys = {path: self._key(path) for path in photos.paths}
        states = {path: _state(path) for path in photos.paths}
        readable = [path for path, state in states.items() if state is not None]
        with self._explained():
            self._forget_gone(photos.root, set(keys.values()))
            known = self._known(name, model.dim)
            new = [path for path in readable if known.get(keys[path]) != states[path]]
            self._add(model, name, {path: (keys[path], states[path]) for path in new}, **options)
            return self._read(name, model.dim, keys, readable, len(new))

    def _open(self) -> None:
        sql = self._connection.execute
        sql("PRAGMA trusted_schema = OFF")
        ((tables,),) = sql("SELECT count(*) FROM sqlite_schema")
        if not tables:
            sql("BEGIN IMMEDIATE")  # of two processes that make it, one waits here
            if not sql("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                sql(TABLE)
                sql(f"PRAGMA application_id = {OURS[0]}")
                sql(f"PRAGMA user_version = {OURS[1]}")
        found = tuple(
            sql(f"PRAGMA {key}").fetchone()[0] for key in ("application_id", "user_version")
        )
        if found != OURS:
            raise ValueError(
                f"{self.file} is a database of another program, or of another version of this "
                "one: give the index another name, or delete the file if it is an old index"
            )

    def _known(self, name: str, dim: int) -> dict[bytes, State]:
        rows = self._connection.execute(
            "SELECT photo, size, changed FROM photos WHERE model = ?"
            " AND (descriptor IS NULL OR length(descriptor) = ?)",
            (name, 4 * dim),
        )
        return {photo: (size, changed) for photo, size, changed in rows}

    def _forget_gone(self, root: Path, wanted: set[bytes]) -> None:
        """Only of this folder: the others of a shared index may be on a disk that is away."""
        root = Path(os.path.abspath(root))
        listed = {key for (key,) in self._connection.execute("SELECT DISTINCT photo FROM photos")}
        gone = []
        for key in listed - wanted:
            path = Path(os.path.normpath(os.path.join(self._folder, os.fsdecode(key))))
            if path.is_relative_to(root) and not os.path.lexists(path):
                gone.append((key,))
        if gone:
            with self._connection:
                self._connection.executemany("DELETE FROM photos WHERE photo = ?", gone)

    def _add(
        self, model: nn.Module, name: str, new: dict[Path, tuple[bytes, State]], **options: Any
    ) -> None:
        if not new:
            return
        entries = iter(new.values())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SkippedImageWarning)  # the caller tells of all at once
            for batch in describe_batches(model, list(new), on_error="skip", **options):
                rows = []
                for descriptor, whole in zip(batch, described(batch), strict=True):
                    key, state = next(entries)
                    blob = descriptor.tobytes() if whole else None
                    rows.append((name, key, *state, blob))
                with self._connection:
                    self._connection.executemany(
                        "INSERT OR REPLACE INTO photos VALUES (?, ?, ?, ?, ?)", rows
                    )

    def _read(
        self, name: str, dim: int, keys: dict[Path, bytes], readable: Sequence[Path], fresh: int
    ) -> Described:
        row_of = {keys[path]: row for row, path in enumerate(readable)}
        descriptors = np.full((len(readable), dim), np.nan, np.float32)
        stored = self._connection.execute(
            "SELECT photo, descriptor FROM photos WHERE model = ? AND length(descriptor) = ?",
            (name, 4 * dim),
        )
        for key, blob in stored:
            if key in row_of:
                descriptors[row_of[key]] = np.frombuffer(blob, np.float32)
        whole = described(descriptors)
        paths = [path for path, is_whole in zip(readable, whole, strict=True) if is_whole]
        found = set(paths)
        skipped = [path for path in keys if path not in found]
        return Described(descriptors[whole], paths, skipped, fresh)

    def _key(self, path: Path) -> bytes:
        """A photo's path as bytes, since names need not be text."""
        return os.fsencode(Path(os.path.relpath(path, self._folder)).as_posix())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's errors as ours: a file that is none, or one that cannot be used."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OSError(
                f"the index {self.file} cannot be read or written: {error}. Make room there, or "
                "choose another file"
            ) from error
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{self.file} is no index of photos, or a damaged one ({error}): give the index "
                "another name, or delete the file if it is one, and it is made again"
            ) from error


def default_file(root: Path) -> Path:
    """Where the index of a folder is kept: in it, or in the data folder if it is read-only."""
    beside = root / NAME
    if os.access(root, os.W_OK) and (not beside.exists() or os.access(beside, os.W_OK)):
        return beside
    name = hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:12]
    return data_root() / "localize" / f"{name}.sqlite"


def _state(path: Path) -> State | None:
    """None of a file that is not there, such as a link that leads nowhere."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns
