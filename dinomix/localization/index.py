"""Descriptors of photos, kept in one file, so that only new photos are described."""

import hashlib
import os
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import nn

from dinomix.localization.photos import Photos
from dinomix.plumbing.workspace import data_root
from dinomix.retrieval import SkippedImageWarning, describe_batches, described, skipped_images
from dinomix.scale.descriptors import model_hash

NAME = ".dinomix.sqlite"
OURS = (0x64696E6F, 1)  # SQLite's application_id ("dino") and user_version: of this layout
KNOWN = (
    "SELECT photo, size, changed, descriptor FROM photos WHERE model = ?"
    " AND (descriptor IS NULL OR length(descriptor) = ?)"
)
INSERT = "INSERT OR REPLACE INTO photos VALUES (?, ?, ?, ?, ?)"
TABLE = """
CREATE TABLE IF NOT EXISTS photos (
    model TEXT,       -- `descriptors.model_hash`
    photo BLOB,       -- path relative to the index's folder
    size INTEGER,     -- bytes
    changed INTEGER,  -- time of the last change, in nanoseconds
    descriptor BLOB,  -- float32 (D,); NULL: the file is damaged
    PRIMARY KEY (model, photo)
)
"""


@dataclass(frozen=True)
class Described:
    """Photos and their descriptors."""

    descriptors: np.ndarray  # float32 (N, D), rows of unit length
    paths: list[Path]  # the N photos that can be read
    skipped: list[Path]  # those that cannot
    fresh: int  # how many of the N were not known before


class PhotoIndex:
    """Descriptors of photos in an SQLite file; a context manager, which closes it.

    Photos are known by path, size and time of the last change, models by the content of their
    weights; photos that are gone are forgotten. Each batch is on the disk before the next one is
    described: a kill costs one batch. Several processes may use one file. Paths are relative to
    the file's folder, so that both can move together. The file may be deleted at any time.

    Args:
        file: made if it is not there; None keeps nothing.

    Raises:
        ValueError: the file is damaged or something else.
        OSError: the file cannot be read or written.
    """

    def __init__(self, file: str | Path | None) -> None:
        self.file = file
        self._folder = os.path.abspath(os.path.dirname(file or ""))
        with self._explained():
            os.makedirs(self._folder, exist_ok=True)
            self._connection = sqlite3.connect(file or ":memory:", timeout=60)
            try:
                self._open()
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def describe(self, model: nn.Module, photos: Photos, **options: Any) -> Described:
        """Descriptors of photos, in their order; those that are not known yet are added.

        All of them are in memory at once: 1.6 GB for 100,000 photos of 4096 entries. Options are
        those of `describe_batches`.

        Raises:
            FileNotFoundError: a photo vanished meanwhile.
            FloatingPointError: a descriptor is not finite.
            OSError: the index cannot be written.
        """
        name, paths = model_hash(model, options.get("image_size")), photos.paths
        keys, states = [self._key(path) for path in paths], [_state(path) for path in paths]
        row_of = {key: row for row, key in enumerate(keys)}
        new = {row for row, state in enumerate(states) if state is not None}
        descriptors = np.full((len(paths), model.dim), np.nan, np.float32)  # (N, D)
        with self._explained(), warnings.catch_warnings():
            warnings.simplefilter("ignore", SkippedImageWarning)  # the caller tells of all at once
            self._forget_gone(photos.root, set(keys))
            known = self._connection.execute(KNOWN, (name, 4 * model.dim))
            for key, *state, blob in known:
                if key in row_of and states[row := row_of[key]] == tuple(state):
                    new.discard(row)
                    if blob is not None:
                        descriptors[row] = np.frombuffer(blob, np.float32)
            images, left = [paths[row] for row in sorted(new)], iter(sorted(new))
            batches = describe_batches(model, images, on_error="skip", **options) if new else ()
            for batch in batches:
                chosen = list(islice(left, len(batch)))
                descriptors[chosen] = batch
                entries = [
                    (name, keys[row], *states[row], descriptor.tobytes() if whole else None)
                    for row, descriptor, whole in zip(chosen, batch, described(batch), strict=True)
                ]
                with self._connection:
                    self._connection.executemany(INSERT, entries)
        whole = described(descriptors)  # (N,)
        readable = [path for path, has in zip(paths, whole, strict=True) if has]
        fresh = int(whole[sorted(new)].sum())
        return Described(descriptors[whole], readable, skipped_images(paths, descriptors), fresh)

    def _open(self) -> None:
        execute = self._connection.execute
        execute("PRAGMA trusted_schema = OFF")
        if not execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            with self._connection:
                execute("BEGIN IMMEDIATE")  # of two processes that make it, one waits here
                execute(TABLE)
                execute(f"PRAGMA application_id = {OURS[0]}")
                execute(f"PRAGMA user_version = {OURS[1]}")
        keys = ("application_id", "user_version")
        if tuple(execute(f"PRAGMA {key}").fetchone()[0] for key in keys) != OURS:
            raise ValueError(
                f"{self.file} is a database of another program, or of another version of this "
                "one: give the index another name, or delete the file if it is an old index"
            )

    def _forget_gone(self, root: Path, wanted: set[bytes]) -> None:
        """Only of this folder: the others of a shared index may be on a disk that is away."""
        listed = {key for (key,) in self._connection.execute("SELECT DISTINCT photo FROM photos")}
        with self._connection:
            for key in listed - wanted:
                path = Path(os.path.abspath(os.path.join(self._folder, os.fsdecode(key))))
                if path.is_relative_to(os.path.abspath(root)) and not os.path.lexists(path):
                    self._connection.execute("DELETE FROM photos WHERE photo = ?", (key,))

    def _key(self, path: Path) -> bytes:
        """A photo's path as bytes, since names need not be text."""
        return os.fsencode(Path(os.path.relpath(path, self._folder)).as_posix())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's errors as ours: a file that is none, or one that cannot be used."""
        try:
            yield
        except sqlite3.OperationalError as error:
            complaint = f"the index {self.file} cannot be read or written: {error}"
            raise OSError(f"{complaint}. Make room there, or choose another file") from error
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


def _state(path: Path) -> tuple[int, int] | None:
    """Size and time of the last change; None where nothing is, as behind a link to nowhere."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns
