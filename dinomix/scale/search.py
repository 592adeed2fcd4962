"""Descriptors block by block: the next block is read while one is in use."""

import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import psutil
import torch

PAGE = 4096  # what reading past the system's cache is aligned to
DIRECT = getattr(os, "O_DIRECT", 0)  # Linux has it


def row_blocks(database: np.ndarray, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """The first row of each block, and the block in float32 (n, D), n <= rows.

    A block is valid until the next one is asked for: all share two buffers, since memory that the
    system gives anew for each costs more time than reading does. A memory map of a whole file is
    read as a file: its pages would cost a fault each, and stay in memory as long as there is room.
    """
    rows = min(rows, len(database))
    fill = _Filler(database, rows)
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(fill, 0)
        for start in range(0, len(database), rows):
            block = coming.result()
            if start + rows < len(database):
                coming = reader.submit(fill, start + rows)
            yield start, block


class _Filler:
    """Makes the float32 block that begins at a row, in two buffers by turns."""

    def __init__(self, database: np.ndarray, rows: int) -> None:
        self.database, self.rows = database, rows
        self.read = _FileReader(database, rows) if _is_whole_file(database) else None
        # float32 from a file is used where it was read to
        if self.read is None or database.dtype != np.float32:
            shape = (rows, database.shape[1])
            self.buffers = [np.empty(shape, np.float32) for _ in range(2)]

    def __call__(self, start: int) -> np.ndarray:
        stop = min(start + self.rows, len(self.database))
        part = self.read(start, stop) if self.read else self.database[start:stop]
        if part.dtype == np.float32 and part.flags.c_contiguous and part.flags.writeable:
            return part  # torch wants to be allowed to write
        self.buffers.reverse()
        block = self.buffers[0][: stop - start]
        if self.read and part.dtype == np.float16:
            torch.from_numpy(block).copy_(torch.from_numpy(part))  # NumPy takes twice as long
        else:
            np.copyto(block, part)
        return block


def _is_whole_file(database: np.ndarray) -> bool:
    """Whether this is a memory map of all that its file holds, row by row: no part of one."""
    return (
        isinstance(database, np.memmap)
        and database.filename is not None
        and database.flags.c_contiguous
        and os.path.getsize(database.filename) == database.offset + database.nbytes
    )


class _FileReader:
    """Reads rows of a file into two buffers by turns.

    A file that memory cannot hold is read past the system's cache, where the system can: keeping
    it there would help nobody and costs much of a core's time.
    """

    def __init__(self, database: np.memmap, rows: int) -> None:
        self.database = database
        self.row_bytes = database.dtype.itemsize * database.shape[1]
        room = (rows * self.row_bytes // PAGE + 3) * PAGE  # begins and ends on whole pages
        self.buffers = [memoryview(mmap.mmap(-1, room)) for _ in range(2)]
        self.flags = DIRECT if database.nbytes > psutil.virtual_memory().available / 2 else 0

    def __call__(self, start: int, stop: int) -> np.ndarray:
        self.buffers.reverse()
        first = self.database.offset + start * self.row_bytes
        before = first % PAGE
        wanted = before + (stop - start) * self.row_bytes
        try:
            self._fill(self.buffers[0], first - before, wanted, self.flags)
        except OSError:
            if not self.flags:
                raise
            self.flags = 0  # not every file system can
            self._fill(self.buffers[0], first - before, wanted, self.flags)
        part = np.frombuffer(self.buffers[0][before:wanted], self.database.dtype)
        return part.reshape(stop - start, -1)

    def _fill(self, buffer: memoryview, begin: int, wanted: int, flags: int) -> None:
        """Read `wanted` bytes and up to the end of their page."""
        room = buffer[: -(-wanted // PAGE) * PAGE]
        descriptor = os.open(
            self.database.filename, os.O_RDONLY | getattr(os, "O_BINARY", 0) | flags
        )
        with open(descriptor, "rb", buffering=0) as file:
            file.seek(begin)
            done = 0
            while done < wanted:  # the system may give less than asked for
                count = file.readinto(room[done:])
                if not count:
                    raise OSError(f"{self.database.filename} has become shorter while it was read")
                done += count


# Nearest neighbours among descriptors: exact, block by block, so that memory stays bounded.
Found = tuple[np.ndarray, np.ndarray]  # similarities (Q, k), falling along each row; indices (Q, k)

BLOCK_BYTES = 2**26
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

    The database may be a memory map larger than memory (`descriptors.open_descriptors`): it is
    read block by block, the next one while the last one is searched. Beside the queries and what
    is found, three blocks are in memory at most, and what comparing a block with all queries
    gives.

    Args:
        database: (N, D), rows of unit length; float32, or float16 to save space. A row of NaN,
            which `describe` gives an image that it skipped, is never found.
        queries: float32 (Q, D), rows of unit length; a row of NaN finds nothing.
        k: how many; at most N come back.
        scan: "float32" compares as it is. "bfloat16" first compares rounded numbers, faster where
            the processor multiplies them natively, and then the best candidates in float32; a
            query whose neighbours are too close for that is searched again. Both are exact; only
            among equals the order is open.
        block_bytes: of a block of the database in float32.

    Returns:
        similarities float32 (Q, min(k, N)), falling along each row, and their database indices
        int64 of the same shape. N counts the rows that are not NaN. Where a query is NaN, -inf
        and -1.

    Raises:
        ValueError: the dimensions differ, the database is empty, k < 1, or there is no such scan.
    """
    if database.ndim != 2 or queries.ndim != 2 or database.shape[1] != queries.shape[1]:
        raise ValueError(
            f"descriptors should be (N, D) and (Q, D), but are {database.shape} and "
            f"{queries.shape}; describe both with the same model."
        )
    if not len(database) or k < 1:
        raise ValueError(f"cannot search {len(database)} descriptors for the nearest {k}")
    if scan not in SCANS:
        raise ValueError(f"scan is {scan!r}; choose one of {', '.join(SCANS)}")
    k = min(k, len(database))
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    if not len(queries):
        return _nothing(0, k)
    known = described(queries)
    if not known.all():
        part = search(database, queries[known], k, scan=scan, block_bytes=block_bytes)
        found = _nothing(len(queries), part[0].shape[1])
        found[0][known], found[1][known] = part
        return found
    rows = max(1, block_bytes // (4 * database.shape[1]))
    if scan == "bfloat16":
        return _search_rounded(database, queries, k, rows)
    return _stream(database, rows, len(queries), k, partial(_search_block, queries=queries))


def _stream(
    database: np.ndarray,
    rows: int,
    queries: int,
    k: int,
    search_block: Callable[[np.ndarray, int], Found],
) -> Found:
    """The best k of what `search_block` finds in each block; fewer where there are not so many."""
    best = _nothing(queries, k)
    for start, block in row_blocks(database, rows):
        known = np.flatnonzero(described(block))
        if not len(known):
            continue
        if len(known) < len(block):
            block = block[known]
        similarities, indices = search_block(block, min(k, len(block)))
        best = _merge(best, (similarities, start + known[indices]), k)
    found = (best[1] >= 0).any(axis=0)
    return best[0][:, found], best[1][:, found]


def described(descriptors: np.ndarray) -> np.ndarray:
    """bool (N,): which rows of (N, D) are descriptors; those of skipped images are NaN."""
    return ~np.isnan(descriptors[:, 0])


def _search_block(block: np.ndarray, k: int, queries: np.ndarray) -> Found:
    import faiss

    return faiss.knn(queries, block, k, metric=faiss.METRIC_INNER_PRODUCT)


def _nothing(queries: int, k: int) -> Found:
    return np.full((queries, k), -np.inf, np.float32), np.full((queries, k), -1)


def _merge(best: Found, found: Found, k: int) -> Found:
    """The k best of both, among equals those of `best` first."""
    both = (np.concatenate(pair, axis=1) for pair in zip(best, found, strict=True))
    return _first(*both, k)


def _first(similarities: np.ndarray, indices: np.ndarray, k: int) -> Found:
    """The k best of each row, among equals in the order given."""
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarities, order, 1), np.take_along_axis(indices, order, 1)


def _search_rounded(database: np.ndarray, queries: np.ndarray, k: int, rows: int) -> Found:
    """Exact search through descriptors rounded to bfloat16.

    Rounding changes an entry by its U-th part at most, and so a similarity q.x by at most
    (2 U + U^2) |q| |x|; the sum of D products adds float32's error, and the result is rounded
    once more. The best CANDIDATES by rounded numbers are compared again, in float32. If the last
    of them, by its rounded similarity, lies further than that below a query's k-th best, then so
    does every row that is no candidate. For a query of which this cannot be said, the whole
    database is searched in float32.
    """
    q = torch.from_numpy(queries)  # (Q, D)
    rounded = q.bfloat16()
    buffer = torch.empty(min(rows, len(database)), q.shape[1], dtype=torch.bfloat16)
    longest = 0.0

    def search_block(block: np.ndarray, count: int) -> Found:
        nonlocal longest
        x = torch.from_numpy(block)  # (n, D)
        longest = max(longest, torch.linalg.vector_norm(x, dim=1).max().item())
        near = buffer[: len(x)].copy_(x)
        similarities, indices = (rounded @ near.T).topk(count, dim=1)  # (Q, count)
        return similarities.float().numpy(), indices.numpy()

    count = min(max(CANDIDATES, 4 * k), len(database))
    rough, candidates = _stream(database, rows, len(queries), count, search_block)
    if not rough.size:  # no row is a descriptor
        return rough, candidates
    share = 3 * U + 4 * U**2 + database.shape[1] * 2.0**-23
    slack = share * longest * np.linalg.norm(queries, axis=1)  # (Q,)
    certain = rough[:, min(k, rough.shape[1]) - 1] - slack  # k rows are at least so near
    hopeless = rough + slack[:, None] < certain[:, None]
    found = compare_again(database, queries, np.where(hopeless, -1, candidates), k)
    if candidates.shape[1] < count or count == len(database):  # they are all there is
        return found
    unsure = np.flatnonzero(rough[:, -1] + slack >= found[0][:, -1])
    if len(unsure):
        again = search(database, queries[unsure], k, block_bytes=4 * rows * database.shape[1])
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
    return _first(similarities, candidates, k)
