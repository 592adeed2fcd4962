"""Blocks of rows: the same numbers as slices give, from memory, files and parts of files."""

import os

import numpy as np
import psutil
import pytest

from dinomix.scale import search as rowblocks
from dinomix.scale.search import row_blocks

ROWS, D = 1003, 50


@pytest.fixture
def stored(tmp_path):
    """Descriptors of a dtype in a file, opened as a memory map."""

    def store(dtype: str) -> np.memmap:
        database = np.random.default_rng(0).normal(size=(ROWS, D)).astype(dtype)
        np.save(tmp_path / "database.npy", database)
        return np.load(tmp_path / "database.npy", mmap_mode="r")

    return store


def assert_same_as_slices(database, rows):
    starts = []
    for start, block in row_blocks(database, rows):
        assert block.dtype == np.float32 and block.flags.c_contiguous and block.flags.writeable
        np.testing.assert_array_equal(block, database[start : start + rows].astype(np.float32))
        starts.append(start)
    assert starts == list(range(0, len(database), rows))


@pytest.fixture(params=["cached", "direct"])
def reading(request, monkeypatch):
    """Once as a small file is read, and once as one that is larger than memory."""
    if request.param == "direct":
        if not rowblocks.DIRECT:
            pytest.skip("this system cannot read past its cache")
        memory = psutil.virtual_memory()._replace(available=0)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    return request.param


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rows", [1, 7, 128, ROWS - 1, ROWS, 10**6])
def test_a_file_gives_what_its_slices_are(stored, dtype, rows, reading):
    assert_same_as_slices(stored(dtype), rows)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_arrays_in_memory_of_any_layout(dtype):
    database = np.random.default_rng(0).normal(size=(ROWS, D)).astype(dtype)
    assert_same_as_slices(database, 100)
    assert_same_as_slices(np.asfortranarray(database), 100)
    assert_same_as_slices(database[::2, ::3], 100)
    database.flags.writeable = False
    assert_same_as_slices(database, 100)


def test_a_part_of_a_file_is_that_part(stored):
    assert_same_as_slices(stored("float16")[10:500], 64)
    assert_same_as_slices(stored("float32")[:, 3:20], 64)


@pytest.fixture
def asked_for(monkeypatch):
    """Of each file that is opened, whether reading past the cache is asked for."""
    opened, asked = os.open, []

    def note(path, flags, *rest, **options):
        asked.append(bool(flags & rowblocks.DIRECT))
        return opened(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", note)
    return asked


def test_large_files_are_read_past_the_cache(stored, reading, asked_for):
    assert_same_as_slices(stored("float32"), 10)
    assert set(asked_for) == {reading == "direct"}


def test_a_file_system_that_cannot_read_past_its_cache_still_serves(stored, reading, monkeypatch):
    opened, flags = os.open, []

    def refuse(path, asked, *rest, **options):
        flags.append(asked & rowblocks.DIRECT)
        if flags[-1]:
            raise OSError(22, "Invalid argument")
        return opened(path, asked, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert_same_as_slices(stored("float32"), 100)
    assert sum(bool(flag) for flag in flags) == (reading == "direct")  # asked for only once


def test_a_file_that_shrinks_while_it_is_read_is_named(stored, reading):
    database = stored("float32")
    parts = rowblocks._file_blocks(database, 500)
    os.truncate(database.filename, database.offset + 60 * D * 4)
    with pytest.raises(OSError, match=r"database\.npy has become shorter while it was read"):
        next(parts)


def test_two_buffers_hold_whatever_the_number_of_blocks(stored):
    blocks = [block for _, block in row_blocks(stored("float16"), 100)]
    assert len({block.ctypes.data for block in blocks}) == 2
