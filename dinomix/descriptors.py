"""Descriptors on disk: written in chunks that survive a kill, read as a memory map.

```
<name>.npy           the descriptors, once they are all there
<name>.json          what they were computed from; the last thing that is written
<name>.part/         while they are being computed: their file, what they are computed from, and an
                     empty file for each chunk that is done
```
Chunks do not depend on each other, so any number of processes, on any number of machines that
share the disk, can work on one file.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from dinomix.model import load_model, save_model
from dinomix.retrieval import describe_batches
from dinomix.storage import atomic_path, config_hash

if TYPE_CHECKING:
    from dask.distributed import Client

CHUNK = 2048  # images: what a kill may cost
DTYPES = ("float32", "float16")


def describe_to(
    file: str | Path,
    model: nn.Module,
    paths: Sequence[str | Path],
    *,
    dtype: str = "float32",
    shard: tuple[int, int] = (0, 1),
    client: "Client | None" = None,
    progress: bool = True,
    **options: Any,
) -> np.memmap | None:
    """Descriptors of image files in a file on disk, in their order; memory stays flat.

    Asked again for the same descriptors it opens the file. Killed, it goes on after the chunks
    that are done. A file of another model, of other images or of another dtype is written anew.

    Args:
        file: ends in .npy.
        dtype: float32, or float16, which halves the file and changes a similarity by about 1e-4.
        shard: (i, n) for process i of n that work on one file, each on every n-th chunk. Whoever
            finds all chunks done finishes the file; for the others it returns None.
        client: of a Dask cluster whose workers see the same disk: every chunk is a job, and a
            worker that dies costs its chunk alone.
        options: of `describe`: batch_size, workers, device.

    Returns:
        (N, D), read-only; None where other shards are still at work.

    Raises:
        ValueError: the name does not end in .npy, there is no such dtype or shard, or no image.
        UnreadableImageError, FileNotFoundError: an image cannot be read; the file is named.
        FloatingPointError: a descriptor is not finite; the image is named.
    """
    file = Path(file)
    _check(file, dtype, shard, paths)
    identity = {
        "model": model_hash(model),
        "images": images_hash(paths),
        "dtype": dtype,
        "shape": [len(paths), model.dim],
        "chunk": CHUNK,
    }
    if not _is_finished(file, identity):
        part = _begin(file, identity, model)
        number, count = shard
        mine = {
            chunk: paths[CHUNK * chunk : CHUNK * (chunk + 1)]
            for chunk in _missing(part)
            if chunk % count == number
        }
        if mine and client is None:
            _describe_chunks(part, model, mine, progress=progress, **options)
        elif mine:
            _describe_on(client, part, mine, options)
        if _missing(part):
            return None
        _finish(file, part, identity)
    return open_descriptors(file)


def open_descriptors(file: str | Path) -> np.memmap:
    """The descriptors that `describe_to` wrote, (N, D), as a read-only memory map.

    Raises:
        FileNotFoundError: there is no such file, or it is not finished.
    """
    file = Path(file)
    if not file.is_file() or not file.with_suffix(".json").is_file():
        raise FileNotFoundError(f"{file} holds no finished descriptors; describe_to writes them")
    return np.load(file, mmap_mode="r")


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
        FileNotFoundError: one is not there; it is named.
    """
    digest = hashlib.sha256()
    for path in paths:
        state = os.stat(path)
        digest.update(f"{path}\n{state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _check(file: Path, dtype: str, shard: tuple[int, int], paths: Sequence) -> None:
    if file.suffix != ".npy":
        raise ValueError(f"descriptors are kept as .npy, not as {file.name}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard is {shard}; it should be (i, n) with 0 <= i < n")
    if not len(paths):
        raise ValueError("there are no images to describe")


def _is_finished(file: Path, identity: Mapping[str, Any]) -> bool:
    return file.is_file() and _read(file.with_suffix(".json")) == identity


def _begin(file: Path, identity: Mapping[str, Any], model: nn.Module) -> Path:
    """The folder of unfinished work on `file`, new or as a killed process left it."""
    part = file.with_suffix(".part")
    if _read(part / "identity.json") == identity:
        return part
    fresh = part.with_name(f".{part.name}-{uuid.uuid4().hex[:8]}")
    fresh.mkdir(parents=True)
    shape = tuple(identity["shape"])
    np.lib.format.open_memmap(fresh / "descriptors.npy", "w+", identity["dtype"], shape).flush()
    save_model(model, fresh / "model.safetensors")
    (fresh / "identity.json").write_text(json.dumps(identity))
    file.with_suffix(".json").unlink(missing_ok=True)  # what lies there is no longer wanted
    if part.exists():
        old = part.rename(fresh.with_suffix(".old"))
        shutil.rmtree(old)
    try:
        fresh.rename(part)
    except OSError:  # another shard was faster
        shutil.rmtree(fresh)
        if _read(part / "identity.json") != identity:
            raise
    return part


def _missing(part: Path) -> list[int]:
    """Numbers of the chunks that are not done."""
    identity = _read(part / "identity.json")
    count = -(-identity["shape"][0] // identity["chunk"])
    return [chunk for chunk in range(count) if not (part / str(chunk)).exists()]


def _finish(file: Path, part: Path, identity: Mapping[str, Any]) -> None:
    """Put finished descriptors in their place; can be killed, and repeated, at any point."""
    if (part / "descriptors.npy").exists():
        os.replace(part / "descriptors.npy", file)
    with atomic_path(file.with_suffix(".json")) as path:
        path.write_text(json.dumps(dict(identity)))
    shutil.rmtree(part, ignore_errors=True)


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _describe_chunks(
    part: Path, model: nn.Module, chunks: Mapping[int, Sequence[str | Path]], **options: Any
) -> None:
    """Describe chunks, number -> paths, in one stream; each is marked when it is on the disk."""
    descriptors = np.load(part / "descriptors.npy", mmap_mode="r+")  # (N, D)
    size = _read(part / "identity.json")["chunk"]
    rows = [size * chunk + i for chunk, paths in chunks.items() for i in range(len(paths))]
    last_row = {size * chunk + len(paths) - 1: chunk for chunk, paths in chunks.items()}
    every = [path for paths in chunks.values() for path in paths]
    done = 0
    for batch in describe_batches(model, every, **options):
        here = rows[done : done + len(batch)]
        descriptors[here] = batch
        done += len(batch)
        ended = [last_row[row] for row in here if row in last_row]
        if ended:
            descriptors.flush()
        for chunk in ended:
            (part / str(chunk)).touch()


def _describe_on(
    client: "Client",
    part: Path,
    chunks: Mapping[int, Sequence[str | Path]],
    options: Mapping[str, Any],
) -> None:
    """Describe chunks as jobs of a cluster; raise what the first failed one raised at the end."""
    from dinomix.cluster import compute

    jobs = {chunk: (part.absolute(), chunk, paths, options) for chunk, paths in chunks.items()}
    failed = [result for _, result in compute(client, _job, jobs) if result is not None]
    if failed:
        raise failed[0]


def _job(job: tuple[Path, int, Sequence[str | Path], Mapping[str, Any]]) -> None:
    part, chunk, paths, options = job
    model = _model(part / "model.safetensors")
    _describe_chunks(part, model, {chunk: paths}, progress=False, **options)


@lru_cache(maxsize=1)
def _model(path: Path) -> nn.Module:
    return load_model(path)
