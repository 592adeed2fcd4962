"""Limits and drives in a toy city, and photos rendered again: layouts, resuming, refusals."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from dinomix.data import TestSet
from dinomix.evaluation import positives
from tests.toycity.conftest import QUIET, jpeg, mtimes
from toycity import (
    ToyCityConfig,
    drive_of,
    rerender,
    work,
    write_drive,
    write_limits,
    write_toycity,
)
from toycity.files import link_database

SIZE = (24, 32)
CONFIG = ToyCityConfig.small(
    image_size=SIZE,
    train_places=2,
    images_per_place=2,
    val_places=2,
    val_conditions=("dusk",),
    test_conditions=("dusk",),
)
LIMITS = {"conditions": ("blur", "changed"), "severities": (0, 0.5, 1)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A toy city with its limits and its drive."""
    root = write_toycity(tmp_path_factory.mktemp("toy") / "city", CONFIG, **QUIET)
    write_limits(root, **LIMITS, **QUIET)
    return write_drive(root, ("night", "dusk"), spacing=6, **QUIET)


@pytest.fixture
def bare(tmp_path):
    """A finished toy city without images, for calls that are refused or resumed."""
    (tmp_path / "toycity.json").write_text(_manifest(recipe=1))
    (tmp_path / "images" / "test" / "database").mkdir(parents=True)
    return tmp_path


def _manifest(recipe):
    return json.dumps({"recipe": recipe, "config": vars(CONFIG)})


def test_rerendered_photos_are_those_in_the_files(root):
    folders = sorted({path.parent for path in root.rglob("*.jpg")})
    folders += [root / "images" / split / "database" for split in ("limits", "drive")]
    paths = [sorted(folder.iterdir())[0] for folder in folders]
    paths = [*reversed(paths), str(paths[0])]
    photos = rerender(root, paths)
    for photo, path in zip(photos, paths, strict=True):
        with open(path, "rb") as file:
            assert jpeg(photo) == file.read()
        assert photo.classes.shape == photo.depth.shape == SIZE


def test_rerender_refuses(root, bare):
    known = next((root / "images" / "test" / "queries_dusk").iterdir())
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg is no image of"):
        rerender(root, [known, root / "images" / "nowhere.jpg"])
    with pytest.raises(FileNotFoundError, match="no finished toy city"):
        rerender(root / "images", [known])
    (bare / "toycity.json").write_text(_manifest(recipe=0))
    with pytest.raises(ValueError, match="recipe 0, and this is recipe 1"):
        rerender(bare, [])


def test_limits_ask_for_the_same_spots_at_every_severity(root):
    test, limits = TestSet(root), TestSet(root, split="limits")
    assert [path.name for path in limits.database] == [path.name for path in test.database]
    names = [f"{name}-{severity:.2f}" for name in ("blur", "changed") for severity in (0, 0.5, 1)]
    assert list(dict.fromkeys(limits.conditions)) == names
    assert len(limits.queries) == len(names) * CONFIG.test_queries
    queries = [path.name.split("@") for path in limits.queries]
    poses = np.array([(*fields[1:3], *fields[9:11]) for fields in queries])
    poses = poses.reshape(2, 3, CONFIG.test_queries, 4)
    assert (poses == poses[:, :1]).all()
    assert (poses[0] != poses[1]).any()
    # The config's own queries are other visits to the same spots.
    away = np.linalg.norm(limits.query_utm[:, None] - test.query_utm, axis=-1)
    assert (away.min(axis=1) < 8).all()


def test_limits_change_photos_more_and_more(root):
    def images(name):
        folder = root / "images" / "limits" / f"queries_{name}"
        return np.array([np.asarray(Image.open(p), float) for p in sorted(folder.iterdir())])

    for condition in ("blur", "changed"):
        plain, half, full = (images(f"{condition}-{s}") for s in ("0.00", "0.50", "1.00"))
        assert 1 < np.abs(half - plain).mean() < np.abs(full - plain).mean()


def test_more_limits_do_not_move_the_others(root, bare):
    """What one condition shows at one severity does not depend on what else is asked for."""
    write_limits(bare, conditions=("changed",), severities=(0.5,), **QUIET)
    alone = bare / "images" / "limits" / "queries_changed-0.50"
    there = root / "images" / "limits" / "queries_changed-0.50"
    contents = [{path.name: path.read_bytes() for path in d.iterdir()} for d in (alone, there)]
    assert contents[0] == contents[1]


def test_drive_goes_on_in_the_order_of_the_names(root):
    test = TestSet(root, split="drive")
    drives, frames = drive_of(test.queries)
    assert set(test.conditions) == {"night", "dusk"}
    assert len(set(drives[np.array(test.conditions) == "dusk"])) == len(set(drives)) / 2
    same = np.diff(drives) == 0
    assert (np.diff(frames)[same] == 1).all()
    assert (frames[1:][~same] == 0).all()
    step = np.diff(test.query_utm, axis=0)[same]
    assert (np.abs(np.linalg.norm(step, axis=1) - 6) < 1.5).all()
    headings = np.array([int(path.name.split("@")[9]) for path in test.queries])
    ahead = np.degrees(np.arctan2(step[:, 0], step[:, 1]))
    off = (headings[:-1][same] - ahead + 180) % 360 - 180
    assert np.abs(off).max() < 15
    assert all(len(right) for right in positives(test.database_utm, test.query_utm, 25))
    poses = [
        [path.name.split("@")[1:3] for path in sorted((root / "images" / "drive" / name).iterdir())]
        for name in ("queries_night", "queries_dusk")
    ]
    assert poses[0] == poses[1] and len(poses[0]) > 10


def test_the_drives_database_is_another_drive_by_day(root):
    test = TestSet(root, split="drive")
    once = test.query_utm[np.array(test.conditions) == "dusk"]
    assert test.database_utm.shape == once.shape
    apart = np.linalg.norm(np.sort(test.database_utm, axis=0) - np.sort(once, axis=0), axis=1)
    assert 0 < apart.max() < 5
    headings = [
        sorted(int(path.name.split("@")[9]) for path in paths)
        for paths in (test.database, test.queries[: len(once)])
    ]
    assert headings[0] != headings[1]
    seen = Image.open(test.database[0]).convert("L").resize((1, 1)).getpixel((0, 0))
    night = Image.open(test.queries[-1]).convert("L").resize((1, 1)).getpixel((0, 0))
    assert seen > 2 * night  # "night" is the last of the conditions


def test_drive_of_refuses_other_names():
    drives, frames = drive_of(["x/07-0012@1@2@.jpg", "11-0000@1@2@.jpg"])
    assert (drives.tolist(), frames.tolist()) == ([7, 11], [12, 0])
    assert len(drive_of([])[0]) == 0
    with pytest.raises(ValueError, match=r"@1@2@\.jpg is not a frame"):
        drive_of(["07-0012@1@2@.jpg", "@1@2@.jpg"])


def test_database_is_a_link_or_where_there_are_none_a_copy(root, tmp_path, monkeypatch):
    link = root / "images" / "limits" / "database"
    assert not os.path.isabs(os.readlink(link))

    def refuse(*_, **__):
        raise OSError("no links here")

    monkeypatch.setattr(type(tmp_path), "symlink_to", refuse)
    database = tmp_path / "test" / "database"
    database.mkdir(parents=True)
    (database / "a.jpg").write_bytes(b"a")
    link_database(tmp_path, "limits")
    assert (tmp_path / "limits" / "database" / "a.jpg").read_bytes() == b"a"
    assert [path.name for path in (tmp_path / "limits").iterdir()] == ["database"]


def test_finished_sets_are_left_alone_and_others_refused(root):
    before = mtimes(root)
    write_limits(root, **LIMITS)
    write_drive(root, ("night", "dusk"), 6)
    with pytest.raises(FileExistsError, match=r"with queries 2 instead of 1: .* remove"):
        write_limits(root, **LIMITS, queries=1)
    with pytest.raises(FileExistsError, match=r"with spacing 6\.0 instead of 5\.0:"):
        write_drive(root, ("night", "dusk"), 5)
    assert mtimes(root) == before


def test_an_interrupted_set_is_resumed_and_another_one_refused(bare, monkeypatch):
    save, asked = work.save_jpeg, {"conditions": ("blur",), "severities": (0, 1)}

    def save_three(photo, path):
        if len(list(bare.rglob("*.jpg"))) == 3:
            raise KeyboardInterrupt
        save(photo, path)

    monkeypatch.setattr(work, "save_jpeg", save_three)
    with pytest.raises(KeyboardInterrupt):
        write_limits(bare, **asked, **QUIET)
    monkeypatch.undo()
    there = {path: when for path, when in mtimes(bare).items() if path.suffix == ".jpg"}
    assert len(there) == 3
    assert not (bare / "limits.json").exists()
    with pytest.raises(FileExistsError, match=r"blur.*snow"):
        write_limits(bare, ("snow",), (0, 1), **QUIET)
    write_limits(bare, **asked, **QUIET)
    assert there.items() <= mtimes(bare).items()
    assert len(list(bare.rglob("*.jpg"))) == 2 * CONFIG.test_queries
    assert {path.name for path in bare.glob("*.json")} == {"toycity.json", "limits.json"}


@pytest.mark.parametrize(("split", "write"), [("limits", write_limits), ("drive", write_drive)])
def test_a_split_needs_a_toy_city_and_a_folder_of_its_own(bare, split, write):
    (bare / "images" / split).mkdir()
    with pytest.raises(FileExistsError, match=f"no {split}.json"):
        write(bare)
    with pytest.raises(FileNotFoundError, match="no finished toy city"):
        write(bare / "images")


@pytest.mark.parametrize(
    ("write", "arguments", "error", "message"),
    [
        (write_limits, {"conditions": ()}, ValueError, "conditions is"),
        (write_limits, {"conditions": ("fog",)}, KeyError, "fog"),
        (write_limits, {"severities": (0.5, 0.5)}, ValueError, "none twice"),
        (write_limits, {"severities": (0.5, 1.5)}, ValueError, "severity is 1.5"),
        (write_limits, {"severities": (0.125,)}, ValueError, "0.125.*two decimals"),
        *((write_limits, {"queries": n}, ValueError, f"queries is {n}") for n in (0, 99)),
        (write_drive, {"conditions": ("night", "night")}, ValueError, "none twice"),
        (write_drive, {"conditions": ("fog",)}, KeyError, "fog"),
        (write_drive, {"spacing": 0}, ValueError, "spacing is 0"),
    ],
)
def test_nonsense_is_refused_before_anything_is_written(bare, write, arguments, error, message):
    with pytest.raises(error, match=message):
        write(bare, **arguments, **QUIET)
    assert [path.name for path in bare.glob("*.json")] == ["toycity.json"]
