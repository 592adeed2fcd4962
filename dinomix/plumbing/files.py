"""Atomic writes: a kill, an error or a full disk leaves the old file or the new one; run names."""

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

try:
    import fcntl
except ImportError:  # Windows: nobody can tell there whether the writer of a file still lives
    fcntl = None

HALF_WRITTEN = re.compile(r"\..+-dinomix[0-9a-f]{8}(\.[^.]*)?")  # a name of `atomic_path`
# No room: on the disk, in a user's share of it, under `ulimit -f`.
FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}
_swept: set[str] = set()  # folders where this process has removed what killed ones left


def require_suffix(path: str | Path, what: str, *suffixes: str) -> Path:
    """The path; a ValueError unless it ends in one of the suffixes, which say the format."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{what} is written as {' or '.join(suffixes)}, not as {path.name}")
    return path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` if the block ends well.

    The temporary name keeps the suffix, by which many writers choose their format. The parent
    folder is made. What a killed process left in it goes with the next process' first write there.
    A full disk raises as `telling_shortage` does.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}-dinomix{uuid.uuid4().hex[:8]}{path.suffix}")
    with telling_shortage(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path.parent)
            temporary.touch()
            mode = temporary.stat().st_mode
            with _claimed(temporary):
                yield temporary
                with _claimed(temporary):  # the writer may have put another file in its place
                    temporary.chmod(mode)  # some make files that only their owner can read
                    with temporary.open("rb") as file:
                        os.fsync(file.fileno())  # the content must be on the disk before its name
                    os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def telling_shortage(path: str | Path) -> Iterator[None]:
    """For want of room raise OSError, whatever the library did: with file, free space and fix."""
    path = Path(path)
    try:
        yield
    except Exception as error:
        if (number := _shortage(error, path)) is None:
            raise
        there = next(folder for folder in path.absolute().parents if folder.exists())
        free = shutil.disk_usage(there).free / 1e9
        raise OSError(
            number,
            f"{os.strerror(number)} ({free:.2f} GB are free): make room there or choose another "
            "folder, and run this again. What was there before is kept",
            str(path),
        ) from error


def _shortage(error: BaseException | None, path: Path) -> int | None:
    """The system's number for want of room, if that is behind an error about `path`.

    torch raises another error while it handles the system's; safetensors only quotes its words.
    """
    while error is not None:
        named = getattr(error, "filename2", None) or getattr(error, "filename", None)
        if named is None or path.is_relative_to(Path(named).parent):
            for number in FULL:
                if os.strerror(number) in str(error):
                    return number
        error = error.__cause__ or error.__context__
    return None


def new_array(path: str | Path, dtype: str | type, shape: tuple[int, ...]) -> np.memmap:
    """A new .npy file of zeros as a memory map, its room on the disk taken at once.

    A file with holes fits on a full disk, too, and then a write into the map is a bus error. Here
    a full disk raises as `telling_shortage` does.
    """
    with telling_shortage(path):
        array = np.lib.format.open_memmap(path, "w+", dtype, shape)
        if hasattr(os, "posix_fallocate"):
            with open(path, "rb+") as file:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
    return array


@contextmanager
def _claimed(file: Path) -> Iterator[None]:
    """Hold a lock that ends with this process, by which others see that the file's writer lives."""
    if fcntl is None:
        yield
        return
    with file.open("rb") as held:
        with suppress(OSError):  # where files cannot be locked, nobody can sweep either
            fcntl.flock(held, fcntl.LOCK_SH)
        yield


def _sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder; once a process, for a listing may be long."""
    here = os.path.abspath(folder)
    if fcntl is None or here in _swept:
        return
    for name in filter(HALF_WRITTEN.fullmatch, os.listdir(here)):
        with suppress(OSError), open(os.path.join(here, name), "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
            os.unlink(file.name)
    _swept.add(here)


def to_json(value: Any) -> str:
    """Nested dicts, lists, literals, paths and dataclasses as JSON, equal values as equal text.

    TypeError for anything else, since its text could differ between two equal values.
    """
    return json.dumps(value, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"cannot write {value!r} of type {type(value).__name__} as JSON")


def config_hash(*parts: Any) -> str:
    """Twelve hexadecimal digits that name `parts`: the name of a run's folder."""
    return hashlib.sha256(to_json(parts).encode()).hexdigest()[:12]
