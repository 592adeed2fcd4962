"""Search: every way of it against a slow loop, in blocks of any size."""

import os

import numpy as np
import psutil
import pytest
import torch

from dinomix import retrieval
from dinomix.scale import search as neighbours
from dinomix.scale.search import SCANS, row_blocks, search


@pytest.fixture
def on_disk(tmp_path):
    """Saves an array and opens the file as a memory map."""

    def store(array: np.ndarray) -> np.memmap:
        np.save(tmp_path / "database.npy", array)
        return np.load(tmp_path / "database.npy", mmap_mode="r")

    return store


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def slowly(database: np.ndarray, query: np.ndarray) -> list[float]:
    return [float(np.dot(query.astype(float), row.astype(float))) for row in database]


def assert_exact(database, queries, k, found):
    """What was found is what sorting all similarities gives, but for the order of equals."""
    similarities, ranked = found
    k = min(k, len(database))
    assert similarities.shape == ranked.shape == (len(queries), k)
    assert similarities.dtype == np.float32 and ranked.dtype == np.int64
    for i, query in enumerate(queries):
        scores = slowly(database, query)
        np.testing.assert_allclose(similarities[i], sorted(scores, reverse=True)[:k], atol=1e-6)
        np.testing.assert_allclose(similarities[i], [scores[j] for j in ranked[i]], atol=1e-6)
        assert len(set(ranked[i].tolist())) == k


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("block_rows", [1, 7, 50, 1000])
@pytest.mark.parametrize(("n", "q", "k"), [(50, 7, 5), (3, 4, 10), (1, 1, 1), (101, 3, 20)])
def test_search_equals_a_slow_loop(n, q, k, block_rows, scan):
    rng = np.random.default_rng(n)
    database, queries = unit(rng.normal(size=(n, 16))), unit(rng.normal(size=(q, 16)))
    found = search(database, queries, k, scan=scan, block_bytes=block_rows * 16 * 4)
    assert_exact(database, queries, k, found)


@pytest.mark.parametrize("scan", SCANS)
def test_neighbours_closer_than_rounding_are_told_apart(scan):
    rng = np.random.default_rng(0)
    place = unit(rng.normal(size=(1, 64)))
    database = unit(place + 1e-4 * rng.normal(size=(300, 64)))  # bfloat16 cannot tell them apart
    queries = unit(place + 1e-4 * rng.normal(size=(5, 64)))
    rough = (np.abs(database[:, None] - database[None]).max(-1) < 2**-8).mean()
    assert rough > 0.9
    assert_exact(database, queries, 10, search(database, queries, 10, scan=scan, block_bytes=9999))


@pytest.mark.parametrize("scan", SCANS)
def test_duplicates_are_all_found(scan):
    rng = np.random.default_rng(1)
    database = np.repeat(unit(rng.normal(size=(4, 8))), 5, axis=0)
    similarities, ranked = search(database, database[:1], 5, scan=scan, block_bytes=3 * 8 * 4)
    assert sorted(ranked[0].tolist()) == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(similarities, 1, atol=1e-6)


@pytest.mark.parametrize("block_rows", [1, 7, 50, 1000])
def test_the_plain_search_in_memory_gives_the_same_bits(on_disk, block_rows):
    rng = np.random.default_rng(4)
    rows = unit(rng.normal(size=(40, 16)))[rng.integers(0, 40, 130)]  # many are equal
    database, queries = rows[:120].copy(), rows[120:].copy()
    database[rng.permutation(120)[:30], rng.integers(0, 16, 30)] = np.nan  # one of 16 entries
    queries[2, 5] = np.nan
    mapped = on_disk(database)
    options = {"k": 100, "block_bytes": block_rows * 16 * 4}
    expected = retrieval.search(database, queries, **options)
    assert expected[0].shape == (10, 90) and (expected[1][2] == -1).all()
    for found in (search(database, queries, **options), search(mapped, queries, **options)):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_database_on_disk_gives_what_it_gives_in_memory(on_disk, scan, dtype):
    rng = np.random.default_rng(2)
    database, queries = unit(rng.normal(size=(90, 32))), unit(rng.normal(size=(6, 32)))
    mapped = on_disk(database.astype(dtype))
    found = search(mapped, queries, 4, scan=scan, block_bytes=20 * 32 * 4)
    assert_exact(database.astype(dtype).astype(np.float32), queries, 4, found)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("entry", [0, 3, 31])
def test_one_broken_entry_costs_its_row(on_disk, scan, dtype, broken, entry):
    """A database row is never found, a query finds nothing, and the others what they would."""
    rng = np.random.default_rng(5)
    database, queries = unit(rng.normal(size=(90, 32))), unit(rng.normal(size=(6, 32)))
    rows = [0, 40, 41, 89]
    database[rows, entry], queries[2, entry] = broken, broken
    options = {"scan": scan, "block_bytes": 20 * 32 * 4}
    similarities, ranked = search(on_disk(database.astype(dtype)), queries, 100, **options)
    assert (ranked[2] == -1).all() and (similarities[2] == -np.inf).all()
    whole, asked = np.delete(np.arange(90), rows), [0, 1, 3, 4, 5]
    assert (np.sort(ranked[asked], axis=1) == whole).all()
    rest = database.astype(dtype)[whole].astype(np.float32)
    found = similarities[asked], np.searchsorted(whole, ranked[asked])
    assert_exact(rest, queries[asked], 100, found)


@pytest.mark.parametrize("scan", SCANS)
def test_a_part_of_a_file_is_searched_as_such(on_disk, scan):
    rng = np.random.default_rng(3)
    database = unit(rng.normal(size=(60, 8)))
    mapped = on_disk(database)
    for part in (slice(10, 40), slice(0, 60, 2), slice(None, None, -1)):
        found = search(mapped[part], database[:3], 4, scan=scan, block_bytes=7 * 8 * 4)
        assert_exact(database[part], database[:3], 4, found)


def test_search_leaves_its_input_alone_and_takes_any_memory_layout():
    rng = np.random.default_rng(0)
    database = np.asfortranarray(unit(rng.normal(size=(20, 8))))
    before = database.copy()
    _, ranked = search(database, database[::2], 1)
    np.testing.assert_array_equal(database, before)
    np.testing.assert_array_equal(ranked[:, 0], np.arange(0, 20, 2))


@pytest.mark.parametrize("scan", SCANS)
def test_no_queries_find_nothing_and_no_descriptors_give_no_columns(scan):
    database = unit(np.random.default_rng(0).normal(size=(5, 4)))
    nothing = np.full((5, 4), np.nan, np.float32)
    for asked, shape in (((database, database[:0]), (0, 3)), ((nothing, database[:2]), (2, 0))):
        similarities, ranked = search(*asked, 3, scan=scan)
        assert similarities.shape == ranked.shape == shape


ROW = np.ones((1, 4), np.float32)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ((ROW, ROW[:, :3]), r"\(1, 4\) and \(1, 3\)"),
        ((ROW[:0], ROW), "0 descriptors"),
        ((ROW, ROW, 0), "k is 0"),
    ],
)
def test_search_errors_name_the_shapes(asked, words, scan):
    with pytest.raises(ValueError, match=words):
        search(*asked, scan=scan)
    with pytest.raises(ValueError, match="scan is 'int8'"):
        search(ROW, ROW, 1, scan="int8")


@pytest.mark.parametrize("scan", SCANS)
def test_k_is_a_whole_number_of_any_library(scan):
    rows = unit(np.random.default_rng(0).normal(size=(5, 4)))
    for k in (np.int64(2), torch.tensor(2)):
        assert np.array_equal(search(rows, rows, k, scan=scan)[1], search(rows, rows, 2)[1])
    for k in (2.0, "2", True):
        with pytest.raises(ValueError, match=rf"k is {k!r}; it should be a whole number from 1 on"):
            search(rows, rows, k, scan=scan)


def test_candidates_without_hope_are_not_read_again(monkeypatch):
    rng = np.random.default_rng(0)
    places = np.repeat(rng.normal(size=(100, 64)), 10, axis=0)
    database = unit(places + 0.3 * rng.normal(size=places.shape))
    seen = []
    compare = neighbours.compare_again
    monkeypatch.setattr(
        neighbours, "compare_again", lambda *a: seen.append((a[2] >= 0).sum(axis=1)) or compare(*a)
    )
    found = search(database, database[::50], 3, scan="bfloat16")
    assert seen[0].max() < neighbours.CANDIDATES / 2 and seen[0].min() >= 3
    assert_exact(database, database[::50], 3, found)


# ------------------------------------------------------------------------- blocks of rows

ROWS, D = 1003, 50


@pytest.fixture
def stored(on_disk):
    """Descriptors of a dtype in a file, opened as a memory map."""
    rows = np.random.default_rng(0).normal(size=(ROWS, D))
    return lambda dtype: on_disk(rows.astype(dtype))


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
        if not neighbours.DIRECT:
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
    for layout in (database, np.asfortranarray(database), database[::2, ::3]):
        assert_same_as_slices(layout, 100)
    database.flags.writeable = False
    assert_same_as_slices(database, 100)


def test_a_part_of_a_file_is_that_part(stored):
    assert_same_as_slices(stored("float16")[10:500], 64)
    assert_same_as_slices(stored("float32")[:, 3:20], 64)


@pytest.mark.parametrize("can", [True, False])
def test_large_files_are_read_past_the_cache_where_a_system_can(stored, reading, monkeypatch, can):
    opened, asked = os.open, []

    def note(path, flags, *rest, **options):
        asked.append(bool(flags & neighbours.DIRECT))
        if asked[-1] and not can:
            raise OSError(22, "Invalid argument")
        return opened(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", note)
    assert_same_as_slices(stored("float32"), 100)
    if can:
        assert set(asked) == {reading == "direct"}
    else:
        assert sum(asked) == (reading == "direct")  # asked for only once


def test_a_file_that_shrinks_while_it_is_read_is_named(stored, reading):
    database = stored("float32")
    parts = neighbours._file_blocks(database, 500)
    os.truncate(database.filename, database.offset + 60 * D * 4)
    with pytest.raises(OSError, match=r"database\.npy has become shorter while it was read"):
        next(parts)


def test_two_buffers_hold_whatever_the_number_of_blocks(stored):
    blocks = [block for _, block in row_blocks(stored("float16"), 100)]
    assert len({block.ctypes.data for block in blocks}) == 2
