"""Images to descriptors, and the nearest of them: exact, in memory."""

import ctypes
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from dinomix.images import Normalise, UnreadableImageError, eval_transform, read_image, size_text
from dinomix.plumbing.configs import whole

Found = tuple[np.ndarray, np.ndarray]  # similarities (Q, k), falling along each row; indices (Q, k)
BLOCK_BYTES = 2**26  # of descriptors that are compared with the queries at once


class SkippedImageWarning(UserWarning):
    """A damaged image is left out; the message names the file and what is wrong with it."""


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """ "auto" is the first of CUDA, Apple's MPS and the CPU that this machine has.

    Raises:
        ValueError: this machine has no such device.
    """
    here = ["cpu"]
    if torch.cuda.is_available():
        here = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), "cpu"]
    elif torch.backends.mps.is_available():
        here = ["mps", "mps:0", "cpu"]
    if device != "auto" and str(device) not in here:
        choice = ", ".join(["auto", *here])
        raise ValueError(f"device {str(device)!r} cannot be used here; choose one of {choice}")
    device = torch.device(here[0] if device == "auto" else device)
    if device.type == "cpu":
        keep_freed_memory()
    return device


@cache
def keep_freed_memory() -> None:
    """Let glibc keep what tensors free, up to 2 GiB, for the next ones, and not return it.

    Else each batch asks the system anew for every map, page by page: describe takes up to 2.5
    times as long (benchmarks/RESULTS.md). Where a MALLOC_ variable chooses, or where there is no
    glibc, nothing is changed.
    """
    if not sys.platform.startswith("linux") or any(key.startswith("MALLOC_") for key in os.environ):
        return
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(-4, 0)  # M_MMAP_MAX of malloc.h
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-2, 2**26)  # M_TOP_PAD


def check_on_error(on_error: str) -> None:
    """Raise ValueError for another word."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}; choose one of raise, skip")


class ImageFiles(Dataset):
    """Item i is file i as uint8 (3, H, W), and what is wrong with the file: "" if nothing is.

    Options as of `describe_batches`: a damaged image is raised, or skipped, with nothing, (0,), in
    its place; `frozen` is taken in place of the images. `step` is of `eval_transform`.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        image_size: int | Sequence[int] | str,
        on_error: str = "raise",
        frozen: Mapping[Path, torch.Tensor] | None = None,
        *,
        step: int = 1,
    ) -> None:
        check_on_error(on_error)
        self.paths, self.on_error, self.frozen = list(paths), on_error, frozen
        self.transform = eval_transform(image_size, step)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        if self.frozen is not None:
            return self.frozen[self.paths[index]], ""
        try:
            return self.transform(read_image(self.paths[index])), ""
        except UnreadableImageError as error:
            if self.on_error == "raise":
                raise
            return torch.empty(0, dtype=torch.uint8), str(error)


def _of_equal_size(items: Sequence[tuple[torch.Tensor, str]]) -> tuple[list[Any], list[str]]:
    """A batch of `ImageFiles`: for each size, rows and their images (b, 3, H, W); all faults."""
    rows: dict[torch.Size, list[int]] = {}
    for row, (image, fault) in enumerate(items):
        if not fault:
            rows.setdefault(image.shape, []).append(row)
    groups = [(group, torch.stack([items[row][0] for row in group])) for group in rows.values()]
    return groups, [fault for _, fault in items]


def normaliser(model: nn.Module) -> Normalise:
    """What makes batches of `ImageFiles` into what `model` takes."""
    return Normalise(*model.config.normalization)


def load_images(model: nn.Module, paths: Sequence[str | Path]) -> torch.Tensor:
    """Image files as `model` takes them: normalised float32 (B, 3, H, W), on the CPU."""
    files = ImageFiles(paths, model.config.image_size, step=model.size_step)
    images = [files[i][0] for i in range(len(files))]
    if len({image.shape for image in images}) > 1:
        raise ValueError("images of several sizes are no batch, so native is no size for this")
    return normaliser(model)(torch.stack(images))


def describe(model: nn.Module, paths: Sequence[str | Path], **options: Any) -> np.ndarray:
    """Descriptors of image files, in their order: float32 (N, D), rows of unit length.

    Options and errors are those of `describe_batches`. A skipped image's row is NaN.
    """
    descriptors = np.empty((len(paths), model.dim), dtype=np.float32)
    done = 0
    for batch in describe_batches(model, paths, **options):
        descriptors[done : done + len(batch)] = batch
        done += len(batch)
    return descriptors


def describe_batches(
    model: nn.Module,
    paths: Sequence[str | Path],
    *,
    image_size: int | Sequence[int] | str | None = None,
    batch_size: int = 32,
    workers: int = 0,
    device: str | torch.device = "auto",
    frozen: Mapping[Path, torch.Tensor] | None = None,
    on_error: str = "raise",
    progress: bool = True,
) -> Iterator[np.ndarray]:
    """Descriptors of image files, in their order, a batch at a time: float32 (b, D), unit length.

    The model is used in eval mode and left in the mode it was in. An image's descriptor does not
    depend on the batch it came in, up to rounding (about 1e-6).

    Args:
        model: a PlaceModel or a wrapped one; its config says the image size and normalisation.
        image_size: another one, a side or (height, width), or "native": each image's own, rounded
            down to multiples of a transformer's patch. Images of one size in a batch are described
            together. None: the model's.
        workers: processes that decode images; 0 decodes in this one.
        frozen: path -> what the backbone's frozen part made of it (`runs.prefix`), to go on from.
        on_error: "raise", or "skip": an image that cannot be decoded gets a row of NaN, which
            `search` never finds, and a SkippedImageWarning. A file that is missing, or that the
            system cannot read, is an error all the same.

    Raises:
        ValueError: the model cannot take images of this size, or `frozen` is of another one.
        UnreadableImageError, OSError: an image cannot be read; the file is named.
        FloatingPointError: a descriptor is not finite; the file is named.
    """
    batch_size, workers = whole("batch_size", batch_size, least=1), whole("workers", workers)
    device = pick_device(device)
    check_on_error(on_error)
    size, own = model.size_for(image_size), model.size_for()
    if frozen is not None and size != own:
        raise ValueError(f"frozen features are of {size_text(own)} images, not {size_text(size)}")
    # Faults come back beside the images: raised in a worker, they would bring its traceback.
    files = ImageFiles(paths, size, "skip", frozen, step=model.size_step)
    from_images = nn.Sequential(normaliser(model).to(device), model)
    forward = from_images if frozen is None else model.finish
    on_gpu = device.type == "cuda"
    loading = {"num_workers": workers, "pin_memory": on_gpu, "collate_fn": _of_equal_size}
    loader = DataLoader(files, batch_size, **loading)
    was_training, done = model.training, 0
    model.to(device).eval()  # outside of inference mode: moved weights must stay trainable
    try:
        with tqdm(total=len(files), desc="describe", unit="img", disable=not progress) as bar:
            for groups, faults in loader:
                if on_error == "raise" and (fault := next(filter(None, faults), "")):
                    way_out = 'on_error="skip" (--skip-damaged) leaves damaged images out'
                    raise UnreadableImageError(f"{fault.rstrip('.')}; {way_out}")
                batch = np.full((len(faults), model.dim), np.nan, np.float32)  # (b, D)
                for rows, images in groups:
                    try:
                        with torch.inference_mode():
                            found = forward(images.to(device, non_blocking=True))
                    except ValueError as error:  # at its own size, an image may be too small
                        raise ValueError(f"{paths[done + rows[0]]}: {error}") from error
                    batch[rows] = found.float().cpu().numpy()
                skipped = np.array([fault != "" for fault in faults])
                broken = np.flatnonzero(~np.isfinite(batch).all(axis=1) & ~skipped)
                if broken.size:
                    raise FloatingPointError(
                        f"the descriptor of {paths[done + broken[0]]} is not finite: the model's "
                        "weights are broken."
                    )
                for fault in filter(None, faults):
                    warnings.warn(f"skipped: {fault}", SkippedImageWarning, stacklevel=2)
                yield batch
                done += len(batch)
                bar.update(len(batch))
    finally:
        model.train(was_training)


def described(descriptors: np.ndarray) -> np.ndarray:
    """bool (N,): which rows of (N, D) are finite, and so descriptors; a skipped image's is NaN."""
    # A sum is finite where all of its entries are; nothing of size (N, D) is made.
    return np.isfinite(np.einsum("nd->n", descriptors))


def skipped_images(paths: Sequence[str | Path], descriptors: np.ndarray) -> list[str | Path]:
    """The images that `describe` skipped: those of `paths` whose row in (N, D) has a NaN."""
    return [path for path, whole in zip(paths, described(descriptors), strict=True) if not whole]


def search(
    database: np.ndarray, queries: np.ndarray, k: int = 10, *, block_bytes: int = BLOCK_BYTES
) -> Found:
    """The k database descriptors nearest to each query by cosine similarity: exact, in memory.

    Args:
        database: float32 (N, D), rows of unit length; one with a NaN is never found.
        queries: float32 (Q, D), rows of unit length; one with a NaN finds nothing: -inf and -1.
        block_bytes: of the database, that are compared with the queries at once.

    Returns:
        similarities float32 (Q, min(k, N)), falling along each row, and database indices int64 of
        the same shape. N counts the rows without NaN.

    Raises:
        ValueError: the dimensions differ, the database is empty, or k < 1.
    """
    k = check_search(database, queries, k)
    rows = max(1, block_bytes // (4 * database.shape[1]))
    starts = range(0, len(database), rows)
    blocks = (np.ascontiguousarray(database[i : i + rows], np.float32) for i in starts)
    return search_blocks(zip(starts, blocks, strict=True), queries, k)


def check_search(database: np.ndarray, queries: np.ndarray, k: int) -> int:
    """k as an int; ValueError where there is nothing to search, or the dimensions differ."""
    if database.ndim != 2 or queries.ndim != 2 or database.shape[1] != queries.shape[1]:
        raise ValueError(
            f"descriptors should be (N, D) and (Q, D), but are {database.shape} and "
            f"{queries.shape}; describe both with the same model."
        )
    if not len(database):
        raise ValueError("cannot search 0 descriptors")
    return whole("k", k, least=1)


def nearest(queries: np.ndarray, block: np.ndarray, k: int) -> Found:
    """The k rows of a block (n, D) nearest to each query."""
    import faiss

    return faiss.knn(queries, block, k, metric=faiss.METRIC_INNER_PRODUCT)


def search_blocks(
    blocks: Iterable[tuple[int, np.ndarray]],
    queries: np.ndarray,
    k: int,
    compare: Callable[[np.ndarray, np.ndarray, int], Found] = nearest,
) -> Found:
    """`search` in blocks (n, D) of a database, each with the number of its first row."""
    known = described(queries)
    asked = np.ascontiguousarray(queries if known.all() else queries[known], np.float32)  # (q, D)
    best = np.empty((len(asked), 0), np.float32), np.empty((len(asked), 0), np.int64)
    for start, block in blocks:
        whole = np.flatnonzero(described(block))
        if not len(whole):
            continue
        if len(whole) < len(block):
            block = block[whole]
        similarities, indices = compare(asked, block, min(k, len(block)))
        found = similarities, start + whole[indices]
        best = best_of(*(np.concatenate(two, axis=1) for two in zip(best, found, strict=True)), k)

    similarities = np.full((len(queries), best[0].shape[1]), -np.inf, np.float32)
    indices = np.full(similarities.shape, -1)
    similarities[known], indices[known] = best
    return similarities, indices


def best_of(similarities: np.ndarray, indices: np.ndarray, k: int) -> Found:
    """The k best of each row, among equals in the order given."""
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarities, order, 1), np.take_along_axis(indices, order, 1)
