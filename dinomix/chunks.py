"""An array on disk that processes fill chunk by chunk, and that no kill leaves half filled.

```
<name>.npy           the array, once all of it is there
<name>.json          what it was made from, and what was skipped; the last thing that is written
<name>.<hash>.part/  while it is being made: the array, what it is made from, what its maker needs,
                     and a file for each chunk that is done: what was skipped in it
```
Chunks do not depend on each other, so any number of processes, on any number of machines that
share the disk, can work on one array. The hash is of what it is made from: processes that start
together find each other, and none steps on what another one makes from something else.
"""

import glob
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dinomix.storage import atomic_path, config_hash, new_array, telling_shortage

ARRAY, IDENTITY = "array.npy", "identity.json"


class ChunkedArray:
    """The array in `file`, which ends in .npy.

    Args:
        identity: what decides its content, as JSON has it; with `dtype`, `shape`, and `chunk`,
            the rows of a chunk.
    """

    def __init__(self, file: Path, identity: Mapping[str, Any]) -> None:
        self.file, self.identity = file, dict(identity)
        self.part = file.with_name(f"{file.stem}.{config_hash(self.identity)}.part")
        self.chunks = range(-(-identity["shape"][0] // identity["chunk"]))

    def is_finished(self) -> bool:
        """Whether the file is there, with all that was asked for."""
        record = read_json(self.file.with_suffix(".json")) or {}
        same = all(record.get(key) == value for key, value in self.identity.items())
        return same and self.file.is_file()

    def begin(self, write_needed: Callable[[Path], Any]) -> Path:
        """The folder of unfinished work, new or as a killed process left it.

        Args:
            write_needed: puts into a new folder what those who fill chunks need.
        """
        if self.part.is_dir():
            return self.part
        fresh = self.part.with_name(f".{self.part.name}-{uuid.uuid4().hex[:8]}")
        try:
            with telling_shortage(self.file):
                fresh.mkdir(parents=True)
            new_array(fresh / ARRAY, self.identity["dtype"], tuple(self.identity["shape"]))
            write_needed(fresh)
            with atomic_path(fresh / IDENTITY) as path:
                path.write_text(json.dumps(self.identity))
            try:
                fresh.rename(self.part)
            except OSError:
                if not self.part.is_dir():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return self.part

    def missing(self) -> list[int]:
        """Numbers of the chunks that are not done."""
        return [chunk for chunk in self.chunks if not (self.part / str(chunk)).exists()]

    def finish(self) -> None:
        """Put the filled array in its place; can be killed, and repeated, at any point."""
        try:
            marks = [(self.part / str(chunk)).read_text() for chunk in self.chunks]
        except FileNotFoundError:  # another process has finished, and removed them
            return
        skipped = [name for mark in marks for name in json.loads(mark)]
        record = self.file.with_suffix(".json")
        if not self.is_finished():
            record.unlink(missing_ok=True)  # it is of the array that was here before
        parts = f"{glob.escape(self.file.stem)}.{'[0-9a-f]' * 12}.part"
        for pattern in (parts, f".{parts}-*"):  # made from something else, or killed early
            for leftover in set(self.file.parent.glob(pattern)) - {self.part}:
                shutil.rmtree(leftover, ignore_errors=True)
        with suppress(FileNotFoundError):  # another process, or a killed one, has done it
            os.replace(self.part / ARRAY, self.file)
        with atomic_path(record) as path:  # last: whoever finds it looks no further
            path.write_text(json.dumps({**self.identity, "skipped": skipped}))

    def clear(self) -> None:
        """Remove the folder of work that is finished, or what a kill left of it."""
        shutil.rmtree(self.part, ignore_errors=True)


def open_part(part: Path) -> tuple[np.memmap, int]:
    """The array in a folder of unfinished work, to write to, and the rows of a chunk."""
    return np.load(part / ARRAY, mmap_mode="r+"), read_json(part / IDENTITY)["chunk"]


def mark_done(part: Path, chunk: int, skipped: Sequence[str]) -> None:
    """Say that a chunk is on the disk, and what was skipped in it."""
    with atomic_path(part / str(chunk)) as path:
        path.write_text(json.dumps(list(skipped)))


def read_record(file: Path) -> dict[str, Any]:
    """What a finished array was made from, and what was skipped.

    Raises:
        FileNotFoundError: there is no such file, or it is not finished.
    """
    record = read_json(file.with_suffix(".json"))
    if record is None or not file.is_file():
        raise FileNotFoundError(f"{file} holds no finished descriptors; describe_to writes them")
    return {"skipped": [], **record}  # the first files did not say; they skipped nothing


def read_json(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds, or None where there is none."""
    return json.loads(path.read_text()) if path.is_file() else None
