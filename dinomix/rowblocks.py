"""Descriptors block by block: the next block is read while one is in use."""

import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

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
