"""The toy data set on disk: layouts, resuming, byte-identity, and what is refused."""

import csv
import hashlib
import json
import subprocess
import sys
import time

import numpy as np
import pytest
import utm
from PIL import Image

from tests.toycity.conftest import QUIET, mtimes
from toycity import ToyCityConfig, make_city, write_toycity
from toycity.files import started
from toycity.writer import MANIFEST

SPLITS = ("train", "val", "test")
COLUMNS = ["place_id", "year", "month", "northdeg", "city_id", "lat", "lon", "panoid"]
TINY = ToyCityConfig.small(
    image_size=(24, 32),
    train_places=4,
    images_per_place=2,
    val_places=4,
    test_places=5,
    val_conditions=("snow",),
    test_conditions=("viewpoint", "lowlight"),
)


def _digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_toycity(tmp_path_factory.mktemp("toy") / "city", TINY, workers=2, progress=False)


def test_training_images_are_named_by_their_csv_rows(written):
    for seed in TINY.train_seeds:
        name = make_city(seed, TINY.blocks).name
        with (written / "train" / "Dataframes" / f"{name}.csv").open() as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        assert reader.fieldnames == COLUMNS
        assert len(rows) == TINY.train_places * TINY.images_per_place
        expected = {
            f"{r['city_id']}_{int(r['place_id']):07d}_{r['year']}_{int(r['month']):02d}_"
            f"{int(r['northdeg']):03d}_{r['lat']}_{r['lon']}_{r['panoid']}.jpg"
            for r in rows
        }
        there = {path.name for path in (written / "train" / "Images" / name).iterdir()}
        assert there == expected
        # The images of a place lie around one spot of the city.
        places = {}
        for row in rows:
            spot = utm.from_latlon(float(row["lat"]), float(row["lon"]))[:2]
            places.setdefault(row["place_id"], []).append(spot)
        assert all(np.ptp(np.array(spots), axis=0).max() < 15 for spots in places.values())


def test_test_images_are_named_by_their_coordinates(written):
    for split, places, queries, conditions in (
        ("val", TINY.val_places, TINY.val_queries, TINY.val_conditions),
        ("test", TINY.test_places, TINY.test_queries, TINY.test_conditions),
    ):
        folders = {
            path.name: list(path.iterdir()) for path in (written / "images" / split).iterdir()
        }
        assert set(folders) == {"database", *(f"queries_{name}" for name in conditions)}
        assert len(folders["database"]) == 2 * places
        assert all(len(folders[f"queries_{name}"]) == queries for name in conditions)
        database = np.array([_utm(path) for path in folders.pop("database")])
        for path in (path for paths in folders.values() for path in paths):
            away = np.linalg.norm(database - _utm(path), axis=1)
            assert away.min() < 25  # every query has a positive


def _utm(path):
    fields = path.name.split("@")
    assert len(fields) == 16
    assert (fields[0], fields[3], fields[4], fields[15]) == ("", "31", "T", ".jpg")
    east, north = float(fields[1]), float(fields[2])
    latlon = utm.to_latlon(east, north, 31, "T")
    np.testing.assert_allclose(latlon, (float(fields[5]), float(fields[6])), atol=1e-5)
    return east, north


def test_images_have_the_size_asked_for(written):
    paths = list(written.rglob("*.jpg"))
    assert all(Image.open(path).size == (32, 24) for path in paths)
    assert json.loads((written / MANIFEST).read_text())["images"] == len(paths)
    assert not list(written.rglob("*.part"))
    assert not started(written / MANIFEST).exists()


def test_another_process_writes_the_same_bytes(written, tmp_path):
    assert _digests(write_toycity(tmp_path, TINY, **QUIET)) == _digests(written)


def test_finished_set_is_left_alone_and_another_refused(written):
    before = mtimes(written)
    start = time.perf_counter()
    assert write_toycity(written, TINY) == written
    assert time.perf_counter() - start < 1
    with pytest.raises(FileExistsError, match="with test_queries 2 instead of 1: choose"):
        write_toycity(written, **(vars(TINY) | {"test_queries": 1}))
    assert mtimes(written) == before


def test_resumes_after_a_kill_without_rendering_twice(written, tmp_path):
    code = f"""
import toycity.work as work
from toycity import ToyCityConfig, write_toycity
save, count = work.save_jpeg, 0
def save_some(photo, path):
    global count
    count += 1
    if count == 12:
        open(path + ".part", "wb").write(b"half an image")
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
    save(photo, path)
work.save_jpeg = save_some
write_toycity({str(tmp_path)!r}, {TINY!r}, workers=1, progress=False)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == -9
    assert not (tmp_path / MANIFEST).exists()
    there = {path: when for path, when in mtimes(tmp_path).items() if path.suffix == ".jpg"}
    assert len(there) == 11
    write_toycity(tmp_path, TINY, **QUIET)
    assert there.items() <= mtimes(tmp_path).items()
    assert _digests(tmp_path) == _digests(written)


def test_foreign_and_unfinished_folders_are_refused_and_kept(tmp_path):
    theirs = tmp_path / "images" / "test" / "database" / "mine.jpg"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="not a toy city's"):
        write_toycity(tmp_path, TINY)
    assert theirs.read_bytes() == b"mine" and not started(tmp_path / MANIFEST).exists()
    started(tmp_path / MANIFEST).write_text(json.dumps({"recipe": 0, "config": {}}))
    with pytest.raises(FileExistsError, match=r"recipe 0 instead of 1, .*choose another"):
        write_toycity(tmp_path, TINY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": 1}, "blocks\n.*greater than or equal to 2.*input_value=1"),
        ({"image_size": 0}, "image_size\n.*0 is not from 8 to 4,096"),
        ({"image_size": (20, 30, 40)}, "image_size.*\n.*input_value=.20, 30, 40"),
        ({"test_queries": 0}, "test_queries\n"),
        ({"train_places": 2.5}, "train_places\n.*valid integer"),
        ({"severity": 2.0}, "severity\n.*less than or equal to 1"),
        ({"test_conditions": ()}, "test_conditions\n.*at least 1"),
        ({"test_conditions": {"day", "dusk"}}, "test_conditions\n.*tuple"),
        ({"test_conditions": ("fog",)}, "test_conditions.0\n.*'day', .*input_value='fog'"),
        ({"val_seed": 301}, "301.*twice"),
        ({"train_seeds": [-1]}, "train_seeds"),
        ({"tests": 2}, "tests\n.*Unexpected"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        ToyCityConfig(**change)


def test_config_takes_lists_and_whole_numbers():
    config = ToyCityConfig(image_size=[24, 32], train_seeds=[5], severity=1)
    assert (config.image_size, config.train_seeds, config.severity) == ((24, 32), (5,), 1.0)
    assert ToyCityConfig(image_size=24).size == (24, 24)


@pytest.mark.parametrize(
    ("sizes", "options", "error", "message"),
    [
        *(({f"{s}_places": 5000}, {}, ValueError, f"{s}_places is 5000") for s in SPLITS),
        ({"test_queries": 99}, {}, ValueError, "test_queries is 99"),
        ({}, {"workers": 0}, ValueError, "workers is 0"),
        ({}, {"image_size": 64}, TypeError, "not both"),
    ],
)
def test_writing_is_refused(tmp_path, sizes, options, error, message):
    config = ToyCityConfig.small(**sizes)
    with pytest.raises(error, match=message):
        write_toycity(tmp_path, config, **options, progress=False)
