"""Atomic writes: a kill leaves the old file or the new one. And names for runs."""

import dataclasses
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` if the block ends well.

    The temporary name keeps the suffix of `path`, since many writers choose their format by it.
    The parent folder is made. If the block raises, the temporary file is removed and `path` is
    what it was before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some writers make files that only their owner can read
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # the content must reach the disk before the name does
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def to_json(value: Any) -> str:
    """Canonical JSON of nested dicts, lists, literals, paths and dataclasses.

    Equal values give equal text.

    Raises:
        TypeError: for anything else, since its text could differ between two equal values.
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
