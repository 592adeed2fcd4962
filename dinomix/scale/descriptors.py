"""Descriptors in a file: written in chunks that survive a kill, read as a memory map.

```
<name>.npy           the descriptors, once all of them are there
<name>.json          what they were made from, and what was skipped; written last
<name>.<hash>.part/  meanwhile: the array, the model, and a file for each chunk that is done, which
                     lists what was skipped in it
```
Chunks do not depend on each other, so any number of processes, on machines that share the disk,
can work on one file. The hash, of what it is made from, lets those find each other that make the
same, and keeps others apart.
"""

import glob
import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from dinomix.images import UnreadableImageError
from dinomix.model import PlaceModel, load_model, save_model
from dinomix.plumbing.errors import extra, first_of
from dinomix.plumbing.files import atomic_path, config_hash, new_array, require_suffix
from dinomix.plumbing.imagenames import names_under
from dinomix.retrieval import SkippedImageWarning, check_on_error, describe_batches, skipped_images

if TYPE_CHECKING:
    from dask.distributed import Client

CHUNK = 2048  # images: what a kill may cost
DTYPES = ("float32", "float16")
_load = lru_cache(maxsize=1)(load_model)  # a worker of a cluster is given chunk after chunk
ARRAY, MODEL = "array.npy", "model.safetensors"  # in the folder of unfinished work


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
            is this process among those that `accelerate launch` or `torchrun` started (RANK and
            WORLD_SIZE). Of a process that died, whoever is given its shard again goes on.
        client: of a Dask cluster whose workers see the same disk: every chunk is a job, and a
            worker that dies costs its chunk alone.
        on_error: "raise", or "skip" for a row of NaN where an image cannot be decoded;
            `open_skipped` lists them.
        options: of `describe`: image_size, batch_size, workers, device.

    Returns:
        (N, D), read-only; None where other shards are still at work.

    Raises:
        ValueError: for arguments that are not such, or no image.
        UnreadableImageError: an image cannot be decoded, or was skipped before, and `on_error` is
            "raise".
        FloatingPointError: a descriptor is not finite; the image is named.
        OSError: an image cannot be read, the folder cannot be written to, or the disk has no room
            for all descriptors, found out before the first one is computed.
    """
    file = require_suffix(file, "an array of descriptors", ".npy")
    if shard == "auto":
        shard = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    if isinstance(shard, str) or not 0 <= shard[0] < shard[1]:
        raise ValueError(f'shard is {shard!r}; it should be (i, n) with 0 <= i < n, or "auto"')
    if not len(paths):
        raise ValueError("there are no images to describe")
    check_on_error(on_error)
    if client is not None and not isinstance(model, PlaceModel):
        raise ValueError(
            f"{model!r} cannot be sent to a cluster, whose workers load a file of save_model: "
            "start a process for each shard instead"
        )
    name = model_hash(model, options.get("image_size"))
    identity = {"model": name, "images": images_hash(paths), "dtype": dtype}
    array = ChunkedArray(file, identity | {"shape": [len(paths), model.dim], "chunk": CHUNK})
    if not array.is_finished():
        array.prepare(model)
        mine = {
            chunk: paths[CHUNK * chunk : CHUNK * (chunk + 1)]
            for chunk in array.missing()
            if chunk % shard[1] == shard[0]
        }
        options["on_error"] = on_error
        if mine and client is None:
            _describe_chunks(array, model, mine, progress=progress, **options)
        elif mine:
            _describe_on(client, array, mine, **options)
        if not array.missing():
            array.finish()
        elif not array.is_finished():  # another shard may have done it meanwhile
            return None
    array.clear()
    skipped = open_skipped(file)
    if skipped and on_error == "raise":
        raise UnreadableImageError(
            f"{file} lacks {len(skipped)} images, which were skipped since they cannot be decoded; "
            f'the first is {skipped[0]}. Replace them, or say on_error="skip".'
        )
    return open_descriptors(file)


def write_hloc(
    file: str | Path,
    paths: Sequence[str | Path],
    descriptors: np.ndarray,
    root: str | Path | None = None,
) -> None:
    """Write descriptors (N, D), such as `describe_to` gives, as hloc keeps global features: HDF5, a
    group an image with the data set `global_descriptor` (D,).

    Groups are named by paths relative to `root`; None: the deepest folder that holds all. Images
    that were skipped are left out, and named by a `SkippedImageWarning`.
    Source: extract_features.py of https://github.com/cvg/Hierarchical-Localization

    Raises ModuleNotFoundError without h5py, and ValueError where an image lies outside of `root`,
    or descriptors are not a row an image.
    """
    with extra("export"):
        import h5py
    if np.ndim(descriptors) != 2 or not len(paths) == len(descriptors) > 0:
        raise ValueError(f"{np.shape(descriptors)} is not a row of numbers for {len(paths)} images")
    lost = {str(path) for path in skipped_images(paths, descriptors)}
    rows = dict(zip(names_under(root, paths), zip(paths, descriptors, strict=True), strict=True))
    with atomic_path(file) as temporary, h5py.File(temporary, "w", locking=False) as store:
        for name, (path, descriptor) in rows.items():
            if str(path) not in lost:
                store[f"{name}/global_descriptor"] = descriptor
    if lost:
        text = f"{len(lost)} images were skipped, and are left out of {file}: {first_of([*lost])}"
        warnings.warn(text, SkippedImageWarning, stacklevel=2)


def open_descriptors(file: str | Path) -> np.memmap:
    """The descriptors (N, D) that `describe_to` wrote, as a read-only memory map.

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
    """The images that `describe_to` skipped, of rows NaN; raises as `open_descriptors`."""
    return read_record(Path(file))["skipped"]


def model_hash(model: nn.Module, image_size: Any = None) -> str:
    """Names what a model computes: its config, the content of its weights, another image size."""
    version, size = model.version, model.size_for(image_size)
    parts = [model.config.to_dict(), *([version] if version != 1 else [])]
    parts += [size] if size != model.size_for() else []
    digest = hashlib.sha256(config_hash(*parts).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def images_hash(paths: Sequence[str | Path]) -> str:
    """Names image files as they are now: path, size and time of the last change."""
    digest = hashlib.sha256()
    for path in paths:
        state = os.stat(path)
        line = f"{path}\n{state.st_size} {state.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))  # a name need not be text
    return digest.hexdigest()[:16]


class ChunkedArray:
    """The array in `file`, which any number of processes fill chunk by chunk.

    Args:
        identity: what decides its content, as JSON has it, with dtype, shape and chunk (rows).
    """

    def __init__(self, file: Path, identity: Mapping[str, Any]) -> None:
        self.file, self.identity = file, dict(identity)
        self.part = file.with_name(f"{file.stem}.{config_hash(self.identity)}.part")
        self.chunks = range(-(-identity["shape"][0] // identity["chunk"]))

    def is_finished(self) -> bool:
        """Whether the file is there, with all that was asked for."""
        try:
            return self.identity.items() <= read_record(self.file).items()
        except FileNotFoundError:
            return False

    def prepare(self, model: nn.Module) -> None:
        """Make the folder of unfinished work, unless it is there."""
        if self.part.is_dir():
            return
        fresh = self.part.with_name(f".{self.part.name}-{uuid.uuid4().hex[:8]}")
        try:
            fresh.mkdir(parents=True)
            if isinstance(model, PlaceModel):
                save_model(model, fresh / MODEL)  # for the workers of a cluster
            new_array(fresh / ARRAY, self.identity["dtype"], tuple(self.identity["shape"]))
            try:
                fresh.rename(self.part)
            except OSError:
                if not self.part.is_dir():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def missing(self) -> list[int]:
        """Numbers of the chunks that are not done."""
        return [chunk for chunk in self.chunks if not (self.part / str(chunk)).exists()]

    def mark_done(self, chunk: int, skipped: Sequence[str | Path]) -> None:
        """Say that a chunk is on the disk, and what was skipped in it."""
        with atomic_path(self.part / str(chunk)) as path:
            path.write_text(json.dumps([str(name) for name in skipped]))

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


def read_record(file: Path) -> dict[str, Any]:
    """What a finished array was made from, and what was skipped; else FileNotFoundError."""
    record = file.with_suffix(".json")
    if not (record.is_file() and file.is_file()):
        raise FileNotFoundError(f"{file} holds no finished descriptors; describe_to writes them")
    return {"skipped": [], **json.loads(record.read_text())}  # the first ones skipped nothing


def _describe_chunks(
    array: ChunkedArray, model: nn.Module, chunks: Mapping[int, Sequence[str | Path]], **options
) -> None:
    """Describe chunks, number -> paths, in one stream; each is marked when it is on the disk."""
    descriptors = np.load(array.part / ARRAY, mmap_mode="r+")  # (N, D)
    size = array.identity["chunk"]
    rows = [size * chunk + i for chunk, paths in chunks.items() for i in range(len(paths))]
    ends = dict(zip(accumulate(map(len, chunks.values())), chunks, strict=True))
    done = 0
    for batch in describe_batches(model, [p for c in chunks.values() for p in c], **options):
        descriptors[rows[done : done + len(batch)]] = batch
        ended = [ends[end] for end in range(done + 1, done + len(batch) + 1) if end in ends]
        done += len(batch)
        if ended:
            descriptors.flush()
        for chunk in ended:
            paths = chunks[chunk]
            whole = descriptors[size * chunk : size * chunk + len(paths)]
            array.mark_done(chunk, skipped_images(paths, whole))


def _describe_on(
    client: "Client", array: ChunkedArray, chunks: Mapping[int, Sequence[str | Path]], **options
) -> None:
    """Describe chunks as jobs of a cluster; raise at the end what the first failed one raised."""
    from dinomix.runs.cluster import compute

    array = ChunkedArray(array.file.absolute(), array.identity)
    jobs = {chunk: (array, {chunk: paths}, options) for chunk, paths in chunks.items()}
    found = [result for done in compute(client, _job, jobs) for result in done.values()]
    failed = [result for result in found if result is not None]
    if failed:
        raise failed[0]


def _job(job: tuple[ChunkedArray, Mapping[int, Sequence[str | Path]], Mapping[str, Any]]) -> None:
    array, chunks, options = job
    _describe_chunks(array, _load(array.part / MODEL), chunks, progress=False, **options)
