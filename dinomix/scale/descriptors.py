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
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from dinomix.images import UnreadableImageError
from dinomix.model import load_model, save_model
from dinomix.plumbing.files import atomic_path, config_hash, new_array, telling_shortage
from dinomix.retrieval import check_on_error, describe_batches, described

if TYPE_CHECKING:
    from dask.distributed import Client


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


# Descriptors on disk: written in chunks that survive a kill, read as a memory map.
CHUNK = 2048  # images: what a kill may cost
DTYPES = ("float32", "float16")
MODEL = "model.safetensors"  # for the workers of a cluster


def describe_to(
    file: str | Path,
    model: nn.Module,
    paths: Sequence[str | Path],
    *,
    dtype: str = "float32",
    shard: tuple[int, int] | str = (0, 1),
    client: "Client | None" = None,
    on_error: str = "raise",
    progress: bool = True,
    **options: Any,
) -> np.memmap | None:
    """Descriptors of image files in a file on disk, in their order; memory stays flat.

    Asked again for the same descriptors it opens the file. Killed, it goes on after the chunks
    that are done. A file of another model, of other images or of another dtype is written anew.

    Args:
        file: ends in .npy.
        dtype: float32, or float16, which halves the file and changes a similarity by about 1e-4.
        shard: (i, n) for process i of n that work on one file, each on every n-th chunk. "auto"
            is this process among those that `accelerate launch` or `torchrun` started, by the
            variables RANK and WORLD_SIZE. Whoever finds all chunks done finishes the file; for
            the others it returns None. A process that dies costs its chunk alone: whoever is
            given its shard again goes on.
        client: of a Dask cluster whose workers see the same disk: every chunk is a job, and a
            worker that dies costs its chunk alone.
        on_error: "raise", or "skip" for a row of NaN where an image cannot be decoded, see
            `describe_batches`; `open_skipped` lists them.
        options: of `describe`: batch_size, workers, device.

    Returns:
        (N, D), read-only; None where other shards are still at work.

    Raises:
        ValueError: the name does not end in .npy, there is no such dtype, shard or `on_error`, or
            no image.
        UnreadableImageError, OSError: an image cannot be read (`images.read_image`), or was
            skipped before, and `on_error` is "raise"; the file is named.
        FloatingPointError: a descriptor is not finite; the image is named.
        OSError: the disk has no room for all of them, which is found out before the first one is
            computed, or the folder cannot be written to. What was there before is kept.
    """
    file = Path(file)
    if shard == "auto":
        shard = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    _check(file, dtype, shard, paths)
    check_on_error(on_error)
    options = {**options, "on_error": on_error}
    identity = {
        "model": model_hash(model),
        "images": images_hash(paths),
        "dtype": dtype,
        "shape": [len(paths), model.dim],
        "chunk": CHUNK,
    }
    array = ChunkedArray(file, identity)
    if not array.is_finished():
        part = array.begin(lambda folder: save_model(model, folder / MODEL))
        number, count = shard
        mine = {
            chunk: paths[CHUNK * chunk : CHUNK * (chunk + 1)]
            for chunk in array.missing()
            if chunk % count == number
        }
        if mine and client is None:
            _describe_chunks(part, model, mine, progress=progress, **options)
        elif mine:
            _describe_on(client, part, mine, options)
        if not array.missing():
            array.finish()
        elif not array.is_finished():  # another shard may have done it meanwhile
            return None
    array.clear()
    skipped = open_skipped(file)
    if skipped and on_error == "raise":
        raise UnreadableImageError(
            f"{file} lacks {len(skipped)} images, which were skipped since they cannot be decoded; "
            f'the first is {skipped[0]}. Replace them or take them out, or say on_error="skip".'
        )
    return open_descriptors(file)


def open_descriptors(file: str | Path) -> np.memmap:
    """The descriptors that `describe_to` wrote, (N, D), as a read-only memory map.

    Raises:
        FileNotFoundError: there is no such file, or it is not finished.
        ValueError: it is damaged, or holds something else.
    """
    read_record(Path(file))
    try:
        descriptors = np.lib.format.open_memmap(file, mode="r")  # never unpickles
        if descriptors.ndim != 2 or descriptors.dtype not in DTYPES:
            raise ValueError(f"it holds {descriptors.dtype} {descriptors.shape}")
    except (EOFError, ValueError) as error:
        raise ValueError(f"{file} is damaged, or holds no descriptors: {error}") from error
    return descriptors


def open_skipped(file: str | Path) -> list[str]:
    """The images that `describe_to` skipped when it wrote `file`; their rows are NaN.

    Raises:
        FileNotFoundError: there is no such file, or it is not finished.
    """
    return read_record(Path(file))["skipped"]


def model_hash(model: nn.Module) -> str:
    """Names what a model computes: its config, and the content of its weights."""
    digest = hashlib.sha256(config_hash(model.config.to_dict()).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def images_hash(paths: Sequence[str | Path]) -> str:
    """Names image files as they are now: path, size and time of the last change.

    Raises:
        OSError: one is not there, or is a link that leads in a circle; it is named.
    """
    digest = hashlib.sha256()
    for path in paths:
        state = os.stat(path)
        line = f"{path}\n{state.st_size} {state.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))  # a name need not be text
    return digest.hexdigest()[:16]


def _check(file: Path, dtype: str, shard: tuple[int, int] | str, paths: Sequence) -> None:
    if file.suffix != ".npy":
        raise ValueError(f"descriptors are kept as .npy, not as {file.name}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    if isinstance(shard, str) or not 0 <= shard[0] < shard[1]:
        raise ValueError(f'shard is {shard!r}; it should be (i, n) with 0 <= i < n, or "auto"')
    if not len(paths):
        raise ValueError("there are no images to describe")


def _describe_chunks(
    part: Path, model: nn.Module, chunks: Mapping[int, Sequence[str | Path]], **options: Any
) -> None:
    """Describe chunks, number -> paths, in one stream; each is marked when it is on the disk."""
    descriptors, size = open_part(part)  # (N, D)
    rows = [size * chunk + i for chunk, paths in chunks.items() for i in range(len(paths))]
    last_row = {size * chunk + len(paths) - 1: chunk for chunk, paths in chunks.items()}
    every = [path for paths in chunks.values() for path in paths]
    skipped: dict[int, list[str]] = {chunk: [] for chunk in chunks}
    done = 0
    for batch in describe_batches(model, every, **options):
        here = rows[done : done + len(batch)]
        descriptors[here] = batch
        now = every[done : done + len(batch)]
        for row, whole, path in zip(here, described(batch), now, strict=True):
            if not whole:
                skipped[row // size].append(str(path))
        done += len(batch)
        ended = [last_row[row] for row in here if row in last_row]
        if ended:
            descriptors.flush()
        for chunk in ended:
            mark_done(part, chunk, skipped[chunk])


def _describe_on(
    client: "Client",
    part: Path,
    chunks: Mapping[int, Sequence[str | Path]],
    options: Mapping[str, Any],
) -> None:
    """Describe chunks as jobs of a cluster; raise what the first failed one raised at the end."""
    from dinomix.runs.cluster import compute

    jobs = {chunk: (part.absolute(), chunk, paths, options) for chunk, paths in chunks.items()}
    failed = [result for _, result in compute(client, _job, jobs) if result is not None]
    if failed:
        raise failed[0]


def _job(job: tuple[Path, int, Sequence[str | Path], Mapping[str, Any]]) -> None:
    part, chunk, paths, options = job
    model = _model(part / MODEL)
    _describe_chunks(part, model, {chunk: paths}, progress=False, **options)


@lru_cache(maxsize=1)
def _model(path: Path) -> nn.Module:
    return load_model(path)
