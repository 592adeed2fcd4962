"""Exact search of descriptors larger than memory: streamed from disk, float16, bfloat16 first."""

import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import numpy as np
import psutil
import torch

from dinomix.retrieval import BLOCK_BYTES, Found, best_of, check_search, search_blocks

PAGE = 4096  # what reading past the system's cache is aligned to
DIRECT = getattr(os, "O_DIRECT", 0)  # Linux has it
CANDIDATES = 64  # descriptors that are compared again, for each query
U = 2.0**-8  # bfloat16's unit roundoff
SCANS = ("float32", "bfloat16")


def search(
    database: np.ndarray,
    queries: np.ndarray,
    k: int = 10,
    *,
    scan: str = "float32",
    block_bytes: int = BLOCK_BYTES,
) -> Found:
    """The k database descriptors nearest to each query: exact, by cosine similarity.

    The database may be a memory map larger than memory (`open_descriptors`): it is read block by
    block, the next one while the last one is searched, and three blocks are in memory at most.

    Args:
        database: (N, D), rows of unit length; float32, or float16 to save space. A row with
            a NaN, such as `describe` gives an image that it skipped, is never found.
        queries: float32 (Q, D), rows of unit length; one with a NaN finds nothing: -inf and -1.
        scan: "float32" compares as it is. "bfloat16" first compares rounded numbers, faster where
            the processor multiplies them natively, and then the best candidates in float32; a
            query whose neighbours are too close for that is searched again. Both are exact; only
            among equals the order is open.
        block_bytes: of a block of the database in float32.

    Returns:
        similarities float32 (Q, min(k, N)), falling along each row, and their database indices
        int64 of the same shape. N counts the rows without NaN.

    Raises:
        ValueError: the dimensions differ, the database is empty, k < 1, or there is no such scan.
    """
    if scan not in SCANS:
        raise ValueError(f"scan is {scan!r}; choose one of {', '.join(SCANS)}")
    k = check_search(database, queries, k)
    rows = max(1, block_bytes // (4 * database.shape[1]))
    if scan == "float32":
        return search_blocks(row_blocks(database, rows), queries, k)
    return _search_rounded(database, np.ascontiguousarray(queries, np.float32), k, rows)


def _search_rounded(database: np.ndarray, queries: np.ndarray, k: int, rows: int) -> Found:
    """Exact search through descriptors rounded to bfloat16.

    Rounding changes an entry by its U-th part at most, and so a similarity q.x by at most
    (2 U + U^2) |q| |x|; the sum of D products adds float32's error, and the result is rounded
    once more. The best CANDIDATES by rounded numbers are compared again, in float32. If the last
    of them, by its rounded similarity, lies further than that below a query's k-th best, then so
    does every row that is no candidate. For a query of which this cannot be said, the whole
    database is searched in float32.
    """
    k, dim = min(k, len(database)), database.shape[1]
    count = min(max(CANDIDATES, 4 * k), len(database))
    room = torch.empty(min(rows, len(database)), dim, dtype=torch.bfloat16)
    longest = 0.0

    def compare(asked: np.ndarray, block: np.ndarray, count: int) -> Found:
        nonlocal longest
        x = torch.from_numpy(block)  # (n, D)
        longest = max(longest, torch.linalg.vector_norm(x, dim=1).max().item())
        q, near = torch.from_numpy(asked).bfloat16(), room[: len(x)].copy_(x)
        similarities, indices = (q @ near.T).topk(count, dim=1)  # (q, count)
        return similarities.float().numpy(), indices.numpy()

    rough, candidates = search_blocks(row_blocks(database, rows), queries, count, compare)
    if not rough.size:  # no row or no query is a descriptor
        return rough[:, :k], candidates[:, :k]
    share = 3 * U + 4 * U**2 + dim * 2.0**-23
    norms = np.nan_to_num(np.linalg.norm(queries, axis=1), posinf=0)  # those find nothing
    slack = share * longest * norms  # (Q,)
    certain = rough[:, min(k, rough.shape[1]) - 1] - slack  # k rows are at least so near
    hopeless = rough + slack[:, None] < certain[:, None]
    found = compare_again(database, queries, np.where(hopeless, -1, candidates), k)
    if candidates.shape[1] < count or count == len(database):  # they are all there is
        return found
    unsure = np.flatnonzero(rough[:, -1] + slack >= found[0][:, -1])
    if len(unsure):
        again = search_blocks(row_blocks(database, rows), queries[unsure], k)
        for whole, part in zip(found, again, strict=True):
            whole[unsure] = part
    return found


def compare_again(
    database: np.ndarray, queries: np.ndarray, candidates: np.ndarray, k: int
) -> Found:
    """The k best of each query's candidates, (Q, count), by float32; -1 is no candidate."""
    similarities = np.full(candidates.shape, -np.inf, np.float32)
    for i, rows in enumerate(candidates):
        real = rows >= 0
        compared = database[rows[real]].astype(np.float32, copy=False)  # (n, D)
        similarities[i, real] = compared @ queries[i]
    return best_of(similarities, candidates, k)


def row_blocks(database: np.ndarray, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """The first row of each block, and the block in float32 (n, D), n <= rows.

    The next block is read while one is in use, which is valid until the next one is asked for: all
    share two buffers, since memory that the system gives anew costs more time than reading does.
    """
    blocks = _blocks(database, min(rows, len(database)))
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, blocks)
        for start in range(0, len(database), rows):
            block = coming.result()
            if start + rows < len(database):
                coming = reader.submit(next, blocks)
            yield start, block


def _blocks(database: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """Blocks in float32, in memory that may be written to: torch wants that."""
    from_file = _is_whole_file(database)
    starts = range(0, len(database), rows)
    parts = _file_blocks(database, rows) if from_file else (database[i : i + rows] for i in starts)
    buffers = cycle([np.empty((rows, database.shape[1]), np.float32) for _ in range(2)])
    for part in parts:
        if part.dtype == np.float32 and part.flags.c_contiguous and part.flags.writeable:
            yield part
            continue
        block = next(buffers)[: len(part)]
        if from_file and part.dtype == np.float16:
            torch.from_numpy(block).copy_(torch.from_numpy(part))  # NumPy takes twice as long
        else:
            np.copyto(block, part)
        yield block


def _is_whole_file(database: np.ndarray) -> bool:
    """Whether this is a memory map of all that its file holds, row by row: no part of one."""
    return (
        isinstance(database, np.memmap)
        and database.filename is not None
        and database.flags.c_contiguous
        and os.path.getsize(database.filename) == database.offset + database.nbytes
    )


def _file_blocks(database: np.memmap, rows: int) -> Iterator[np.ndarray]:
    """Blocks of a memory map, read as a file: its pages would cost a fault each, and stay.

    A file that memory cannot hold is read past the system's cache, which would cost much of a
    core's time for nothing.
    """
    row_bytes = database.dtype.itemsize * database.shape[1]
    room = (rows * row_bytes // PAGE + 3) * PAGE  # begins and ends on whole pages
    buffers = cycle([memoryview(mmap.mmap(-1, room)) for _ in range(2)])
    flags = DIRECT if database.nbytes > psutil.virtual_memory().available / 2 else 0
    for start in range(0, len(database), rows):
        first = database.offset + start * row_bytes
        before = first % PAGE
        wanted = before + min(rows, len(database) - start) * row_bytes
        buffer = next(buffers)
        try:
            _fill(buffer, database.filename, first - before, wanted, flags)
        except OSError:
            if not flags:
                raise
            flags = 0  # not every file system can
            _fill(buffer, database.filename, first - before, wanted, flags)
        yield np.frombuffer(buffer[before:wanted], database.dtype).reshape(-1, database.shape[1])


def _fill(buffer: memoryview, file: str | Path, start: int, wanted: int, flags: int) -> None:
    """Read `wanted` bytes and up to the end of their page."""
    room = buffer[: -(-wanted // PAGE) * PAGE]
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0) | flags)
    with open(descriptor, "rb", buffering=0) as opened:
        opened.seek(start)
        done = 0
        while done < wanted:  # the system may give less than asked for
            count = opened.readinto(room[done:])
            if not count:
                raise OSError(f"{file} has become shorter while it was read")
            done += count
