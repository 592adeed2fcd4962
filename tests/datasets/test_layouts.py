"""Own data in other layouts: CSV files, numbered frames, unlabelled folders."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from dinomix.data import TestSet
from dinomix.datasets.layouts import read_csv, read_folders, read_frames
from dinomix.evaluation import evaluate, positives, retrieve
from dinomix.model import ModelConfig, build_model
from tests.conftest import SHARED, write_image

LATLON = "image,latitude,longitude"
UTM = "image,utm_east,utm_north"


def write_csv(root, name, header, *rows, images=True):
    """A CSV file, and an image for each of its rows: the first field."""
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join([header, *rows]) + "\n")
    for row in rows if images else ():
        image = root / row.split(",")[0]
        image.parent.mkdir(parents=True, exist_ok=True)
        image.touch()
    return root / name


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def truth(test):
    found = positives(test.database_utm, test.query_utm, test.threshold)
    return [indices.tolist() for indices in found]


def metres_apart(one, other):
    """Along a sphere, which is near enough over a city: latitudes and longitudes in degrees."""
    (lat1, lon1), (lat2, lon2) = np.radians(one), np.radians(other)
    half = np.sin((lat2 - lat1) / 2) ** 2
    half += np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    return 2 * 6_371_000 * np.arcsin(np.sqrt(half))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(
        ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8, out_rows=2)
    )


class TestCsv:
    def test_degrees_become_metres_of_one_zone(self, tmp_path):
        # Longitude 6 is the border of zones 31 and 32: in a zone of its own, a.jpg would be far
        # from everything.
        seen = {"a.jpg": (45.0, 5.9999), "b.jpg": (45.0, 6.0001), "sub/c.jpg": (45.001, 6.0)}
        asked = {"q.jpg": (45.0, 6.0), "r.jpg": (45.0005, 6.0002)}
        for name, rows in {"database.csv": seen, "queries.csv": asked}.items():
            lines = (f"{image},{lat},{lon}" for image, (lat, lon) in rows.items())
            write_csv(tmp_path / "city", name, LATLON, *lines)
        test = read_csv(tmp_path / "city/database.csv", tmp_path / "city/queries.csv")
        assert (test.name, test.unit, test.convention) == ("city", "m", "25 m")
        assert test.database == [tmp_path / "city" / image for image in seen]
        assert test.conditions == ["", ""] and truth(test) == [[0, 1], []]
        between = np.linalg.norm(test.query_utm[:, None] - test.database_utm, axis=-1)
        expected = [[metres_apart(q, d) for d in seen.values()] for q in asked.values()]
        np.testing.assert_allclose(between, expected, rtol=5e-3)

    def test_both_hemispheres(self, tmp_path):
        database = write_csv(tmp_path, "d.csv", LATLON, "a.jpg,0.00005,9", "b.jpg,0.001,9")
        queries = write_csv(tmp_path, "q.csv", LATLON, "q.jpg,-0.00005,9")
        assert truth(read_csv(database, queries)) == [[0]]

    def test_metres_and_conditions(self, tmp_path):
        database = write_csv(tmp_path, "d.csv", UTM, "a.jpg,400000,5e6", "b.jpg,400100,5e6")
        rows = ("day/1.jpg, 400005,5e6,day,oak", "night/1.jpg,400101,5e6, night,elm")
        queries = write_csv(tmp_path, "q.csv", f"\ufeff{UTM},condition, tree", *rows)
        test = read_csv(database, queries, name="mine", threshold=4)
        assert test.name == "mine" and test.convention == "4 m"
        assert test.conditions == ["day", "night"] and truth(test) == [[], [1]]
        np.testing.assert_array_equal(test.query_utm, [[400005, 5e6], [400101, 5e6]])

    def test_same_place_and_coordinates_before_places(self, tmp_path):
        rows = ("a.jpg,mill", "b.jpg,inn", "c.jpg,mill")
        database = write_csv(tmp_path, "d.csv", "image,place", *rows)
        queries = write_csv(tmp_path, "q.csv", "image,place", "q.jpg, mill ", "r.jpg,church")
        test = read_csv(database, queries)
        assert test.convention == "same place" and test.unit == "places"
        assert truth(test) == [[0, 2], []]
        database = write_csv(tmp_path, "d.csv", f"{UTM},place", "a.jpg,400000,5e6,mill")
        queries = write_csv(tmp_path, "q.csv", f"{UTM},place", "q.jpg,400000,5e6,inn")
        assert truth(read_csv(database, queries)) == [[0]]

    def test_fingerprint_covers_positions_and_not_the_folder(self, tmp_path):
        def fingerprint(folder, north="5e6"):
            database = write_csv(tmp_path / folder, "d.csv", UTM, "a.jpg,400000,5e6")
            queries = write_csv(tmp_path / folder, "q.csv", UTM, f"q.jpg,400000,{north}")
            return read_csv(database, queries).fingerprint

        assert fingerprint("one") == fingerprint("two") == fingerprint("three", "5000000.0001")
        assert fingerprint("one") != fingerprint("four", "5000001")

    def test_names_of_windows(self, tmp_path):
        touch(tmp_path / "sub", "a.jpg")
        database = write_csv(tmp_path, "d.csv", UTM, r"sub\a.jpg,400000,5e6", images=False)
        assert read_csv(database, database).database == [tmp_path / "sub" / "a.jpg"]

    @pytest.mark.parametrize(
        ("header", "row", "complaint"),
        [
            (LATLON, "a.jpg,95,6", "latitude is '95'"),
            (LATLON, "a.jpg,45,-181", "longitude is '-181'"),
            (LATLON, "a.jpg,,6", "latitude is ''"),
            (f"{UTM},utm_zone", "a.jpg,400000,5e6,61T", "has '61T' for a UTM zone"),
            (UTM, "a.jpg,2e7,5e6", "utm_east is '2e7'"),
            (UTM, "a.jpg,400000,inf", "utm_north is 'inf'"),
            ("image,place", "a.jpg,", "place is ''"),
            ("image,place,group", "a.jpg,inn,", "group is ''"),
            (UTM, "a.jpg,400000", "expected 3 fields"),
            (UTM, "../a.jpg,400000,5e6", r"image is '\.\./a.jpg', expected a path within"),
        ],
    )
    def test_a_wrong_row_is_named(self, tmp_path, header, row, complaint):
        firsts = {LATLON: "first.jpg,45,6", "image,place": "first.jpg,inn"}
        firsts["image,place,group"] = "first.jpg,inn,one"
        first = firsts.get(header, "first.jpg,400000,5e6" + ",31T" * (header.count(",") - 2))
        touch(tmp_path, "first.jpg", "a.jpg")
        database = write_csv(tmp_path, "good.csv", header, first, images=False)
        queries = write_csv(tmp_path, "bad.csv", header, first, row, images=False)
        with pytest.raises(ValueError, match=f"bad.csv, row 3:? {complaint}"):
            read_csv(database, queries)

    def test_groups_of_queries(self, tmp_path):
        database = write_csv(tmp_path, "d.csv", UTM, "a.jpg,400000,5e6")
        rows = "q.jpg,400000,5e6,one", "r.jpg,400900,5e6,one"
        queries = write_csv(tmp_path, "q.csv", f"{UTM},group", *rows)
        assert read_csv(database, queries).groups == ["one", "one"]
        plain = write_csv(tmp_path, "p.csv", UTM, *(row[:-4] for row in rows))
        assert read_csv(database, plain).groups == ["a.jpg", "/r.jpg"]
        assert read_csv(database, plain).fingerprint == read_csv(database, queries).fingerprint

    @pytest.mark.parametrize(
        ("header", "row", "complaint"),
        [
            (LATLON, "a.jpg,45,6", "'latitude'.*'utm_east'.*read_folders"),
            (UTM, "a.jpg,45.1,6.2", "look like degrees.*latitude and longitude"),
            (UTM, "a.jpg,400000,5e6", r"q\.csv, row 2: .*look like degrees"),
        ],
    )
    def test_degrees_on_one_side_and_metres_on_the_other(self, tmp_path, header, row, complaint):
        database = write_csv(tmp_path, "d.csv", header, row)
        queries = write_csv(tmp_path, "q.csv", UTM, "q.jpg,45.2,6.1")
        with pytest.raises(ValueError, match=complaint):
            read_csv(database, queries)

    def test_missing_images_are_counted_together(self, tmp_path):
        rows = [f"{i}.jpg,400000,5e6" for i in range(9)]
        database = write_csv(tmp_path, "d.csv", UTM, *rows, images=False)
        touch(tmp_path, "3.jpg")
        queries = write_csv(tmp_path, "q.csv", UTM, "q.jpg,400000,5e6")
        with pytest.raises(FileNotFoundError, match="8 of the 10 images") as error:
            read_csv(database, queries)
        named = re.findall(r"(\w+)\.jpg", str(error.value))
        assert named == ["0", "1", "2", "4", "5"]

    def test_a_name_twice(self, tmp_path):
        rows = ("a/1.jpg,400000,5e6", "a/2.jpg,400000,5e6", "b/1.jpg,400000,5e6")
        twice = write_csv(tmp_path, "twice.csv", UTM, *rows)
        once = write_csv(tmp_path, "once.csv", UTM, rows[0])
        for sides in ((twice, once), (once, twice)):
            with pytest.raises(ValueError, match=r"twice\.csv, rows 2 and 4: .*a/1.* and .*b/1"):
                read_csv(*sides)
        rows = [f"{row},{row[0]}" for row in rows]  # the folder is the condition
        twice = write_csv(tmp_path, "twice.csv", f"{UTM},condition", *rows)
        assert read_csv(once, twice).conditions == ["a", "a", "b"]
        with pytest.raises(ValueError, match="rows 2 and 4"):
            read_csv(twice, once)  # a database has no conditions

    def test_evaluates(self, tmp_path, model):
        rng = np.random.default_rng(0)
        for name in ("a", "b", "q"):
            write_image(tmp_path / f"{name}.jpg", rng)
        database = write_csv(tmp_path, "d.csv", UTM, "a.jpg,400000,5e6", "b.jpg,400100,5e6")
        queries = write_csv(tmp_path, "q.csv", UTM, "q.jpg,400001,5e6", "b.jpg,900000,5e6")
        table = evaluate(model, read_csv(database, queries), ks=(2,), progress=False)
        assert table["recall"].tolist() == [50] and table["without_positives"].tolist() == [1]


class TestFrames:
    @pytest.mark.parametrize(("tolerance", "stride"), [(0, 1), (1, 10), (10, 1), (2.5, 3)])
    def test_positives_equal_a_slow_loop(self, tmp_path, tolerance, stride):
        summer = touch(tmp_path / "summer", *(f"cam2_{i}.png" for i in range(40)))
        count = 40 // stride
        winter = touch(tmp_path / "winter", *(f"7-images-{i:05d}-.png" for i in range(count)))
        test = read_frames(summer, winter, tolerance, name="rail", query_stride=stride)
        assert [path.name for path in test.database] == [f"cam2_{i}.png" for i in range(40)]
        expected = [
            [frame for frame in range(40) if abs(frame - stride * i) <= tolerance]
            for i in range(count)
        ]
        assert truth(test) == expected
        assert (test.name, test.unit) == ("rail", "frames")

    def test_conventions_and_fingerprints(self, tmp_path):
        frames = touch(tmp_path / "rail" / "summer", "1.jpg", "2.jpg")
        tests = [
            read_frames(frames, frames, 1),
            read_frames(frames, frames, 10),
            read_frames(frames, frames, 10, query_stride=2),
        ]
        assert [t.convention for t in tests] == ["+-1 frame", "+-10 frames", "+-10 frames"]
        assert len({t.fingerprint for t in tests}) == 3 and tests[0].name == "rail"

    @pytest.mark.parametrize(
        ("names", "complaint"),
        [
            (("1.jpg", "first.jpg"), "first.jpg has no frame number"),
            (("a7.jpg", "b07.jpg"), "a7.jpg and b07.jpg .*same frame number 7"),
            (("1531234567890123456.png",), "1531234567890123456 is too large"),
        ],
    )
    def test_wrong_numbers_are_named(self, tmp_path, names, complaint):
        summer = touch(tmp_path / "summer", "1.jpg")
        with pytest.raises(ValueError, match=complaint):
            read_frames(summer, touch(tmp_path / "winter", *names), 1)

    @pytest.mark.parametrize(
        "options",
        [
            {"tolerance": -1},
            {"tolerance": "2"},
            {"tolerance": np.nan},
            {"tolerance": 1, "query_stride": 0},
            {"tolerance": 1, "query_stride": 1.5},
        ],
    )
    def test_impossible_tolerance_and_stride(self, tmp_path, options):
        summer = touch(tmp_path / "summer", "1.jpg")
        with pytest.raises(
            ValueError, match=r"(tolerance|query_stride) is .*should be a (whole )?number from"
        ):
            read_frames(summer, summer, **options)


class TestFolders:
    def test_retrieval_without_labels(self, tmp_path, model):
        rng = np.random.default_rng(0)
        for name in ("old/a.jpg", "old/b.jpg", "new/q.jpg"):
            write_image(tmp_path / "mine" / name, rng)
        write_image(tmp_path / "mine" / "new" / "a.jpg", np.random.default_rng(0))  # is old/a.jpg
        test = read_folders(tmp_path / "mine/old", tmp_path / "mine/new")
        assert (test.name, test.convention, test.labelled) == ("mine", "no positions", False)
        assert test.database_utm is None and test.query_utm is None
        assert "positives: no positions" in repr(test)
        retrieval = retrieve(model, test, k=2, progress=False)
        assert retrieval.ranked[0, 0] == 0 and retrieval.positives is None

    def test_missing_and_empty_folders(self, tmp_path):
        images = touch(tmp_path / "images", "a.jpg")
        with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
            read_folders(images, tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match="empty holds no images"):
            read_folders(touch(tmp_path / "empty", "notes.txt"), images)


def test_relative_paths_are_named_by_their_folder(tmp_path, monkeypatch):
    touch(tmp_path / "city" / "frames", "1.jpg")
    monkeypatch.chdir(tmp_path / "city")
    assert read_frames(Path("frames"), Path("frames"), 1).name == "city"


@pytest.mark.skipif(not (SHARED / "realplaces").exists(), reason="no real photographs here")
def test_real_photographs_in_a_csv_are_judged_as_in_the_utm_layout(tmp_path, model):
    test = TestSet(SHARED / "realplaces" / "sped_test")
    (tmp_path / "photos").symlink_to(test.database[0].parents[1], target_is_directory=True)
    files = []
    for name, paths, metres in (
        ("database", test.database, test.database_utm),
        ("queries", test.queries, test.query_utm),
    ):
        rows = [
            f"photos/{path.parent.name}/{path.name},{east},{north}"
            for path, (east, north) in zip(paths, metres, strict=True)
        ]
        files.append(write_csv(tmp_path, f"{name}.csv", UTM, *rows, images=False))
    again = read_csv(*files)
    assert truth(again) == truth(test) and all(truth(test))
    ours, theirs = (evaluate(model, t, progress=False)["recall"].tolist() for t in (again, test))
    assert ours == theirs
