from pathlib import Path

import numpy as np
import pytest

from dinomix.data import TestSet
from tests.conftest import SHARED, write_testset


def test_reads_the_utm_layout_with_conditions(test_root):
    test = TestSet(test_root)
    assert test.name == "city-test" and len(test.database) == 5 and len(test.queries) == 10
    assert test.conditions == ["day"] * 5 + ["night"] * 5
    np.testing.assert_array_equal(test.database_utm[2], [400200, 5000000])
    np.testing.assert_array_equal(test.query_utm[7], [400205, 5000000])
    assert "conditions: day, night" in repr(test)


def test_folder_of_the_split_itself_and_a_plain_query_folder(tmp_path):
    root = write_testset(tmp_path / "plain", split="val")
    test = TestSet(root / "images" / "val", name="mine", threshold=10)
    assert test.name == "mine" and test.convention == "10 m" and test.conditions == [""] * 5
    assert TestSet(root, split="val").queries == test.queries


def test_fingerprint_follows_the_content(test_root, tmp_path):
    same = write_testset(tmp_path / "again", conditions=("day", "night"))
    other = write_testset(tmp_path / "other", conditions=("day", "dusk"))
    assert TestSet(same).fingerprint == TestSet(test_root).fingerprint
    assert TestSet(other).fingerprint != TestSet(test_root).fingerprint
    assert TestSet(same, threshold=10).fingerprint != TestSet(test_root).fingerprint


def test_fingerprints_of_runs_that_are_there(test_root):
    """Runs are found again by these, so they stay what they are."""
    test = TestSet(test_root)
    assert test.fingerprint == "cd9e887c0cd1005a"
    assert TestSet(test_root, threshold=10).fingerprint == "28bbf5d188f72f01"
    positions = test.database_utm, test.query_utm
    again = TestSet.from_lists(
        "again", test.database, test.queries, *positions, conditions=test.conditions
    )
    assert again.fingerprint == test.fingerprint


def test_lists_with_conditions_and_units():
    database, queries = [Path("a.jpg"), Path("b.jpg")], [Path("q.jpg")]
    positions = np.array([[0.0, 0], [1, 0]]), np.array([[1.0, 0]])
    test = TestSet.from_lists(
        "rail", database, queries, *positions, 10, conditions=["snow"], unit="frames"
    )
    assert test.conditions == ["snow"] and test.convention == "+-10 frames" and test.labelled
    assert "positives: +-10 frames, conditions: snow" in repr(test)
    test = TestSet.from_lists("bare", database, queries, None, None)
    assert test.convention == "no positions" and not test.labelled and test.conditions == [""]
    test = TestSet.from_lists("near", database, queries, *positions)
    assert test.convention == "25 m" and test.unit == "m"


def test_fingerprint_covers_positions_that_names_do_not_tell():
    def fingerprint(east):
        positions = np.zeros((1, 2)), np.array([[east, -0.0]])
        paths = [Path("a.jpg")], [Path("q.jpg")]
        return TestSet.from_lists("x", *paths, *positions, positions_in_names=False).fingerprint

    assert fingerprint(1.0) == fingerprint(1.001) != fingerprint(1.01)
    assert fingerprint(0.0) == fingerprint(-0.0)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"unit": "miles"}, "unit is 'miles'; choose one of m, frames, places"),
        ({"conditions": ["day", "night"]}, "2 conditions for 1 queries"),
        ({"query_utm": None}, "positions of one side only"),
        ({"query_utm": np.zeros((2, 2))}, r"positions of 1 images should be \(1, 2\)"),
        ({"database_utm": np.zeros(1)}, r"should be \(1, 2\), but are \(1,\)"),
    ],
)
def test_lists_that_do_not_fit(changes, complaint):
    given = {
        "database": [Path("a.jpg")],
        "queries": [Path("q.jpg")],
        "database_utm": np.zeros((1, 2)),
        "query_utm": np.zeros((1, 2)),
    }
    with pytest.raises(ValueError, match=complaint):
        TestSet.from_lists("x", **(given | changes))


def test_missing_folders_say_what_was_expected(test_root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere.*expected"):
        TestSet(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no database.*expected"):
        TestSet(test_root, split="val")
    with pytest.raises(FileNotFoundError, match=r"holds no database.*expected"):
        TestSet(tmp_path)
    lonely = tmp_path / "lonely"
    write_testset(lonely, conditions=())
    with pytest.raises(FileNotFoundError, match="no query folder"):
        TestSet(lonely)


def test_empty_folder_is_named(test_root):
    (test_root / "images" / "test" / "queries_rain").mkdir()
    with pytest.raises(FileNotFoundError, match=r"queries_rain holds no images"):
        TestSet(test_root)


@pytest.mark.parametrize("name", ["photo.jpg", "@x@5000000.00@.jpg", "@1.0@.jpg", "@nan@2.0@.jpg"])
def test_name_without_coordinates_is_named(test_root, name):
    folder = test_root / "images" / "test" / "queries_day"
    next(folder.iterdir()).rename(folder / name)
    with pytest.raises(ValueError, match=f"{name}.*@UTM_east"):
        TestSet(test_root)


@pytest.mark.parametrize("name", ["@1e8@5000000.00@.jpg", "@400000.00@-10000001@.jpg"])
def test_coordinates_that_are_out_of_range(test_root, name):
    folder = test_root / "images" / "test" / "queries_day"
    next(folder.iterdir()).rename(folder / name)
    with pytest.raises(ValueError, match=rf"in 1 names are out of range.*{name}.*10,000 km"):
        TestSet(test_root)


def test_coordinates_at_the_edge_of_the_map(test_root):
    folder = test_root / "images" / "test" / "queries_day"
    next(folder.iterdir()).rename(folder / "@0@10000000.00@.jpg")
    assert TestSet(test_root).query_utm[:5].max() == 1e7


def test_hidden_files_are_no_images(test_root):
    before = len(TestSet(test_root).database)
    image = TestSet(test_root).database[0]
    (image.parent / f".{image.stem}-0123abcd.jpg").write_bytes(b"half of an image")
    assert len(TestSet(test_root).database) == before


@pytest.mark.skipif(not (SHARED / "realplaces").exists(), reason="no real photographs here")
def test_real_photographs():
    test = TestSet(SHARED / "realplaces" / "sped_test")
    assert len(test.database) == len(test.queries) == 203
