import numpy as np
import pytest
from conftest import SHARED, write_testset

from dinomix.testsets import TestSet


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


@pytest.mark.skipif(not (SHARED / "realplaces").exists(), reason="no real photographs here")
def test_real_photographs():
    test = TestSet(SHARED / "realplaces" / "sped_test")
    assert len(test.database) == len(test.queries) == 203
