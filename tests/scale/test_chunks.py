"""One array, several processes: none steps on another one, and nothing stays behind."""

import json

import numpy as np
import pytest

from dinomix.plumbing.files import new_array
from dinomix.scale import descriptors
from dinomix.scale.descriptors import ChunkedArray, read_record

IDENTITY = {"of": "something", "dtype": "float32", "shape": [5, 2], "chunk": 2}


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    monkeypatch.setattr(descriptors, "save_model", lambda model, file: file.parent.mkdir())


def opened(array):
    return np.load(array.part / "array.npy", mmap_mode="r+")


def fill(array, value, chunks=(0, 1, 2)):
    array.prepare(None)
    values = opened(array)
    for chunk in chunks:
        values[2 * chunk : 2 * (chunk + 1)] = value
        values.flush()
        array.mark_done(chunk, [f"skipped in {chunk}"] if chunk else [])


def test_processes_that_start_together_share_one_folder(tmp_path, monkeypatch):
    """The slower one of the two finds the other's folder, and throws nothing away."""
    file = tmp_path / "a.npy"
    fast, slow = ChunkedArray(file, IDENTITY), ChunkedArray(file, IDENTITY)

    def meanwhile(*args):
        monkeypatch.setattr(descriptors, "new_array", new_array)
        fill(fast, 7, chunks=[1])
        new_array(*args)

    monkeypatch.setattr(descriptors, "new_array", meanwhile)
    slow.prepare(None)
    assert slow.missing() == fast.missing() == [0, 2]
    assert opened(slow).tolist() == [[0, 0], [0, 0], [7, 7], [7, 7], [0, 0]]
    assert [path.name for path in tmp_path.iterdir()] == [slow.part.name]


def test_what_others_make_does_not_mix(tmp_path):
    file = tmp_path / "a.npy"
    first = ChunkedArray(file, IDENTITY)
    second = ChunkedArray(file, {**IDENTITY, "of": "something else"})
    neighbour = ChunkedArray(tmp_path / "a.b.npy", IDENTITY)  # a name that begins alike
    fill(first, 1, chunks=[0])
    fill(neighbour, 5, chunks=[0])
    fill(second, 2)
    second.finish()
    second.clear()
    assert np.load(file).tolist() == [[2, 2]] * 5
    assert not first.part.exists() and neighbour.part.exists()
    assert second.is_finished() and not first.is_finished()


def test_the_last_finished_array_stays_until_the_new_one_is_done(tmp_path):
    file = tmp_path / "a.npy"
    old = ChunkedArray(file, IDENTITY)
    fill(old, 1)
    old.finish()
    new = ChunkedArray(file, {**IDENTITY, "of": "something else"})
    fill(new, 2, chunks=[0, 1])
    assert old.is_finished() and read_record(file)["of"] == "something"
    assert np.load(file).tolist() == [[1, 1]] * 5


def test_two_may_finish_at_once(tmp_path):
    array = ChunkedArray(tmp_path / "a.npy", IDENTITY)
    fill(array, 3)
    array.finish()
    array.finish()
    array.clear()
    array.finish()  # too late, and no error
    assert read_record(array.file) == {**IDENTITY, "skipped": ["skipped in 1", "skipped in 2"]}
    assert {path.name for path in tmp_path.iterdir()} == {"a.npy", "a.json"}


def test_records_of_before_skipped_nothing(tmp_path):
    array = ChunkedArray(tmp_path / "a.npy", IDENTITY)
    np.save(array.file, np.zeros((5, 2), np.float32))
    with pytest.raises(FileNotFoundError, match="no finished descriptors"):
        read_record(array.file)
    (tmp_path / "a.json").write_text(json.dumps(IDENTITY))
    assert array.is_finished() and read_record(array.file)["skipped"] == []


def test_a_folder_that_cannot_be_moved_is_an_error(tmp_path, monkeypatch):
    array = ChunkedArray(tmp_path / "a.npy", IDENTITY)

    def refused(*args):
        raise PermissionError("refused")

    monkeypatch.setattr("pathlib.Path.rename", refused)
    with pytest.raises(PermissionError, match="refused"):
        array.prepare(None)
    assert not list(tmp_path.iterdir())
