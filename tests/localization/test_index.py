"""The kept descriptors: reused, updated, never of another model, and safe from kills."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from dinomix.localization import index as photoindex
from dinomix.localization.index import NAME, PhotoIndex, default_file
from dinomix.localization.photos import find_photos
from dinomix.retrieval import describe
from tests.conftest import write_image
from tests.localization.conftest import make_model


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.jpg", "old/c.jpg", "old/d.jpg"):
        write_image(tmp_path / "photos" / name, rng)
    return tmp_path / "photos"


@pytest.fixture
def seen(monkeypatch):
    """Names of the photos that are described from now on."""
    names = []

    def noted(model, paths, **options):
        names.extend(path.name for path in paths)
        return real(model, paths, **options)

    real = photoindex.describe_batches
    monkeypatch.setattr(photoindex, "describe_batches", noted)
    return names


def look(root, model, file=None):
    with PhotoIndex(file or root / NAME) as index:
        found = index.describe(model, find_photos(root), progress=False)
    expected = describe(model, found.paths, progress=False)
    np.testing.assert_allclose(found.descriptors, expected, atol=1e-5)
    return [path.relative_to(root).as_posix() for path in found.paths]


def test_is_reused_and_moves_with_its_folder(root, model, seen):
    everything = ["a.jpg", "b.jpg", "old/c.jpg", "old/d.jpg"]
    assert look(root, model) == everything and len(seen) == 4
    seen.clear()
    assert look(root, model) == everything and seen == []
    assert look(root.rename(root.with_name("moved")), model) == everything and seen == []


def test_follows_files_that_come_go_and_change(root, model, seen):
    look(root, model)
    seen.clear()
    rng = np.random.default_rng(1)
    write_image(root / "0.jpg", rng)
    write_image(root / "old" / "d.jpg", rng)
    (root / "a.jpg").unlink()
    assert look(root, model) == ["0.jpg", "b.jpg", "old/c.jpg", "old/d.jpg"]
    assert seen == ["0.jpg", "d.jpg"]
    with sqlite3.connect(root / NAME) as rows:
        names = [photo for (photo,) in rows.execute("SELECT photo FROM photos ORDER BY photo")]
    assert names == [b"0.jpg", b"b.jpg", b"old/c.jpg", b"old/d.jpg"]


def test_a_change_is_seen_by_size_or_by_time(root, model, seen):
    look(root, model)
    seen.clear()
    state = os.stat(root / "a.jpg")
    write_image(root / "a.jpg", np.random.default_rng(5), size=(40, 40))
    os.utime(root / "a.jpg", ns=(state.st_atime_ns, state.st_mtime_ns))
    os.utime(root / "b.jpg", ns=(0, state.st_mtime_ns + 1))
    assert os.stat(root / "a.jpg").st_size != state.st_size
    look(root, model)
    assert seen == ["a.jpg", "b.jpg"]


def test_each_model_has_its_own(root, model, seen):
    for each in (model, make_model(seed=1), model):  # `look` compares with what that model gives
        look(root, each)
    assert len(seen) == 8


def test_goes_on_after_an_error(root, model, seen, monkeypatch):
    real = photoindex.describe_batches

    def broken(model, paths, **options):
        yield from real(model, paths[:2], **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(photoindex, "describe_batches", broken)
    with pytest.raises(KeyboardInterrupt):
        look(root, model)
    monkeypatch.setattr(photoindex, "describe_batches", real)
    seen.clear()
    assert len(look(root, model)) == 4 and seen == ["c.jpg", "d.jpg"]


def test_one_file_for_several_databases(root, model, seen, tmp_path):
    other = tmp_path / "other"
    write_image(other / "a.jpg", np.random.default_rng(7))
    for folder in (root, other, root):
        look(folder, model, tmp_path / "kept" / "all.sqlite")
    assert len(seen) == 5  # neither is forgotten where the other is asked for


def test_without_a_file_nothing_is_kept(root, model, seen):
    for _ in range(2):
        with PhotoIndex(None) as index:
            assert len(index.describe(model, find_photos(root), progress=False).paths) == 4
    assert len(seen) == 8 and not (root / NAME).exists()


def test_damaged_photos_are_listed_each_time_and_tried_once(root, model, seen):
    (root / "b.jpg").write_bytes(b"half an ima")
    (root / "z.jpg").symlink_to(root / "nowhere.jpg")
    for tried, described in ((4, 3), (0, 0)):
        seen.clear()
        with PhotoIndex(root / NAME) as index:
            found = index.describe(model, find_photos(root), progress=False)
        assert found.skipped == [root / "b.jpg", root / "z.jpg"]
        assert len(found.paths) == len(found.descriptors) == 3
        assert (len(seen), found.fresh) == (tried, described)
    write_image(root / "b.jpg", np.random.default_rng(3))  # somebody repairs it
    (root / "z.jpg").unlink()
    assert "b.jpg" in look(root, model)


@pytest.mark.skipif(sys.platform == "win32", reason="names there are text")
def test_names_that_are_no_text(root, model):
    odd = os.fsdecode(b"\xff\xfe '@.jpg")
    (root / "a.jpg").rename(root / odd)
    assert odd in look(root, model) and odd in look(root, model)


def test_other_files_are_left_alone_and_damaged_ones_named(root, model, tmp_path):
    other = tmp_path / "catalogue.db"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE pictures (name TEXT)")
    before = [file.read_bytes() for file in (root / "a.jpg", other)]
    for file, error, complaint in (
        (root / "a.jpg", ValueError, r"a\.jpg is no index of photos.*another name"),
        (other, ValueError, r"catalogue\.db is a database of another program"),
        (root / "a.jpg" / "index.sqlite", OSError, r"a\.jpg"),
        (root / "old", OSError, "old cannot be read or written"),
    ):
        with pytest.raises(error, match=complaint):
            PhotoIndex(file)
    assert [file.read_bytes() for file in (root / "a.jpg", other)] == before
    look(root, model)
    data = bytearray((root / NAME).read_bytes())
    data[4096:8192] = b"\xff" * 4096
    (root / NAME).write_bytes(data)
    with pytest.raises(ValueError, match=r"\.dinomix\.sqlite .*delete the file"):
        look(root, model)


def test_a_read_only_database_has_its_index_in_the_data_folder(root, monkeypatch, tmp_path):
    monkeypatch.setenv("DINOMIX_DATA", str(tmp_path / "data"))
    assert default_file(root) == root / NAME
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    file = default_file(root)
    assert file.parent == tmp_path / "data" / "localize" and file.suffix == ".sqlite"
    monkeypatch.chdir(root.parent)
    assert default_file(root.relative_to(root.parent)) == file != default_file(root / "old")


CHILD = """
import sys
from dinomix.localization.index import NAME, PhotoIndex
from dinomix.localization.photos import find_photos
from tests.localization.conftest import make_model
photos = find_photos(sys.argv[1])
with PhotoIndex(photos.root / NAME) as index:
    index.describe(make_model(), photos, batch_size=1, progress=False)
"""


def test_survives_a_kill(root, model, seen):
    rng = np.random.default_rng(2)
    for i in range(60):
        write_image(root / f"{i}.jpg", rng)
    with PhotoIndex(root / NAME):
        pass
    with closing(sqlite3.connect(root / NAME, timeout=60)) as rows:

        def count():
            return rows.execute("SELECT count(*) FROM photos").fetchone()[0]

        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(root)], cwd=Path(__file__).parents[2]
        )
        while count() < 20:
            assert child.poll() is None
        child.kill()
        child.wait()
        done = count()
        assert 20 <= done < 64  # in its midst
        assert rows.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert len(look(root, model)) == 64 and len(seen) == 64 - done
