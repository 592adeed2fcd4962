"""Benchmarks: counts are checked, conventions are those of the field, names never lie."""

import dataclasses
import math
import re

import numpy as np
import pytest

from dinomix.data import TestSet
from dinomix.datasets import benchmarks
from dinomix.datasets.benchmarks import BENCHMARKS, CountError, open_benchmark, write_submission
from dinomix.datasets.prepare import PREPARERS, planning, prepare
from dinomix.evaluation import Retrieval, positives
from dinomix.study import reported
from dinomix.study import study as studies
from tests.conftest import SHARED, write_testset
from tests.made_downloads import (
    write_amstertime,
    write_msls_challenge,
    write_sfxl,
    write_sped,
    write_svox,
)

SPACING = 25 / 10.5
SPED = SHARED / "realplaces" / "sped_test"


def counted(monkeypatch, name, database, queries, **changes):
    """The benchmark `name` as it would be with these counts."""
    changed = dataclasses.replace(BENCHMARKS[name], database=database, queries=queries, **changes)
    monkeypatch.setitem(BENCHMARKS, name, changed)


def ours(frame):
    return f"@{frame * SPACING:010.2f}@0000000.00@@@@@images-{frame:05d}@@@@@@@{frame:05d}@.jpg"


def others(frame):
    """As the field's formatter has it: northing, cut off after one digit."""
    return f"@0@{math.floor(frame * SPACING * 10) / 10:07.1f}@@@@@{frame}@@@@@@@@.jpg"


def write_nordland(root, frames=60, name=ours):
    for side in ("database", "queries"):
        folder = root / "nordland" / "images" / "test" / side
        folder.mkdir(parents=True)
        for frame in range(frames):
            (folder / name(frame)).touch()
    return root


def truth(test):
    found = positives(test.database_utm, test.query_utm, test.threshold)
    return [indices.tolist() for indices in found]


def pretend(monkeypatch, database, queries):
    """Every folder gives a test set of so many images, at frames 0, 1, 2 and so on."""

    def test_set(folder, split, name, condition):
        positions = [np.arange(n)[:, None] * [SPACING, 0] for n in (database, queries)]
        return TestSet.from_lists(name, [folder] * database, [folder] * queries, *positions)

    test_set.from_lists = TestSet.from_lists
    monkeypatch.setattr(benchmarks, "TestSet", test_set)


def test_registry():
    assert list(BENCHMARKS) == [
        *("pitts30k-val", "pitts30k-test", "pitts250k-val", "pitts250k-test", "tokyo247"),
        *("nordland", "nordland-1", "sfxl-val", "sfxl-testv1-small", "sfxl-testv1"),
        *("sfxl-testv2", "sfxl-night", "sfxl-occlusion"),
        *(f"svox-{weather}" for weather in ("night", "overcast", "rain", "snow", "sun")),
        *("msls-val", "msls-challenge", "amstertime", "sped", "eynsham", "st_lucia"),
    ]
    assert {b.folder for b in BENCHMARKS.values()} == set(PREPARERS)
    conventions = {name: b.convention for name, b in BENCHMARKS.items()}
    assert conventions.pop("nordland") == "+-10 frames"
    assert conventions.pop("nordland-1") == "+-1 frame"
    assert {conventions.pop(name) for name in ("amstertime", "sped")} == {"same place"}
    assert conventions.pop("msls-challenge") == "no positions"
    assert set(conventions.values()) == {"25 m"}
    # Pittsburgh's panoramas have 24 cut-outs, Tokyo's have 12
    for name, tiles in {"pitts250k-val": 24, "pitts250k-test": 24, "tokyo247": 12}.items():
        assert BENCHMARKS[name].database % tiles == 0
    table = benchmarks.table()
    assert table.index.tolist() == list(BENCHMARKS)
    assert table.loc["msls-val", ["database", "queries"]].tolist() == [18_871, 740]
    assert table["source"].str.startswith("http").all() and (table["citation"] != "").all()
    assert (table["licence"] != "").all() and (table["challenge"] != "").all()
    assert (table["counts"] != "").all()
    assert BENCHMARKS["eynsham"].database % 5 == 0  # tiles


def test_conditions_that_share_a_database_share_its_folder_and_counts():
    for group in ("sfxl-testv1 sfxl-testv2 sfxl-night sfxl-occlusion", "svox-night svox-sun"):
        same = [BENCHMARKS[name] for name in group.split()]
        assert len({(b.folder, b.split, b.database, b.slack) for b in same}) == 1
        assert len({b.condition for b in same}) == len(same)
    for folder, downloaded in {"sfxl": "sfxl", "svox": "svox"}.items():
        wanted = {
            f"queries_{b.condition}".rstrip("_") for b in BENCHMARKS.values() if b.folder == folder
        }
        prepared = {name.partition("/")[2] for name in planning.LAYOUTS["named"][downloaded]}
        assert wanted <= prepared


def test_reported_sets_have_the_same_counts():
    counts = reported.test_sets()[["database", "queries"]]
    for theirs, name in {
        "Pitts30k-test": "pitts30k-test",
        "Pitts250k-test": "pitts250k-test",
        "SF-XL-val": "sfxl-val",
        "Tokyo24/7": "tokyo247",
        "Nordland": "nordland",
        "SF-XL-testv1, small": "sfxl-testv1-small",
        "Nordland, +-1": "nordland-1",
    }.items():
        assert counts.loc[theirs].tolist() == [BENCHMARKS[name].database, BENCHMARKS[name].queries]
    assert counts.loc["Nordland, +-10, others"].isna().all()
    assert counts.loc["Nordland"].tolist() == [27_592, 27_592]


def test_opens_what_has_the_right_counts(tmp_path, monkeypatch):
    write_testset(tmp_path / "pitts30k", places=4, split="val")
    counted(monkeypatch, "pitts30k-val", 4, 4)
    test = open_benchmark("pitts30k-val", tmp_path)
    assert (test.name, test.convention, len(test.database)) == ("pitts30k-val", "25 m", 4)
    assert test.database == TestSet(tmp_path / "pitts30k", "val").database
    monkeypatch.setenv("DINOMIX_DATA", str(tmp_path))
    assert open_benchmark("pitts30k-val").fingerprint == test.fingerprint


def test_other_counts_are_an_error_or_another_name(tmp_path, monkeypatch):
    write_testset(tmp_path / "tokyo247", places=3)
    counted(monkeypatch, "tokyo247", 36, 4, known={3: "one cut-out a panorama"})
    expected = r"36 .* and 4 .*gives 3 and 3\. 3 database images: one cut-out.* 3 queries: one"
    with pytest.raises(CountError, match=f"{expected}.* strict=False .--other-counts. opens it"):
        open_benchmark("tokyo247", tmp_path)
    with pytest.warns(UserWarning, match=expected):
        test = open_benchmark("tokyo247", tmp_path, strict=False)
    assert test.name == "tokyo247 (3 database images, 3 queries)"
    counted(monkeypatch, "tokyo247", 36, 3, known={})
    with pytest.warns(UserWarning, match="Images are missing"):
        test = open_benchmark("tokyo247", tmp_path, strict=False)
    assert test.name == "tokyo247 (3 database images)"


@pytest.mark.parametrize(
    ("name", "database", "queries", "meaning"),
    [
        ("sfxl-testv2", 27_191, 598, "27,191 database images: this is SF-XL small"),
        ("sfxl-testv1", 27_191, 1_000, "27,191 database images: this is SF-XL small"),
        ("sfxl-testv1", 2_805_815, 598, "598 queries: .*test v2"),
        ("sfxl-night", 27_191, 466, "27,191 database images: this is SF-XL small"),
        ("svox-rain", 17_166, 870, "counts of svox-snow"),
        ("sfxl-val", 8_015, 7_983, "7,983 queries: .*ten queries fewer"),
        ("tokyo247", 6_332, 315, "6,332 database images: .*one cut-out"),
        ("tokyo247", 75_984, 1_125, "1,125 queries: .*315"),
        ("nordland", 27_592, 2_760, "2,760 queries: .*nordland-1"),
        ("nordland", 3_450, 3_450, "3,450 queries: .*Olid"),
        ("nordland-1", 28_865, 28_865, "28,865 database images: .*another list"),
        ("msls-val", 18_871, 11_084, "11,084 queries: .*740"),
        ("msls-val", 18_871, 747, "747 queries: .*no positive"),
        ("pitts30k-test", 10_000, 7_608, "counts of pitts30k-val"),
        ("pitts30k-test", 83_952, 8_280, "counts of pitts250k-test"),
    ],
)
def test_known_counts_are_explained(monkeypatch, name, database, queries, meaning):
    pretend(monkeypatch, database, queries)
    with pytest.raises(CountError, match=meaning):
        open_benchmark(name, "data")


def test_a_rounded_count_leaves_room(monkeypatch):
    for database in (2_805_815, 2_751_000):
        pretend(monkeypatch, database, 1_000)
        assert open_benchmark("sfxl-testv1", "data").name == "sfxl-testv1"
    pretend(monkeypatch, 2_700_000, 1_000)
    with pytest.raises(CountError, match=r"about 2,800,000 .*gives 2,700,000"):
        open_benchmark("sfxl-testv1", "data")


def test_what_is_not_there_says_where_to_get_it(tmp_path):
    with pytest.raises(ValueError, match=r"'pitts30k'; did you mean 'pitts30k-val' or "):
        open_benchmark("pitts30k")
    write_testset(tmp_path / "pitts30k", places=1, split="test")
    for name, complaint in {
        "msls-val": r"no folder .*msls; expected .*mapillary.*prepare msls",
        "pitts30k-val": r"holds no database .*prepare pitts30k",
    }.items():
        with pytest.raises(FileNotFoundError, match=complaint):
            open_benchmark(name, tmp_path)


@pytest.mark.parametrize("name", [ours, others])
def test_nordland_is_winter_on_summer_within_ten_frames(tmp_path, monkeypatch, name):
    write_nordland(tmp_path, name=name)
    counted(monkeypatch, "nordland", 60, 60)
    test = open_benchmark("nordland", tmp_path)
    assert (test.name, test.convention, test.unit) == ("nordland", "+-10 frames", "frames")
    assert {path.parent.name for path in test.queries} == {"queries"}  # winter
    slow = [[f for f in range(60) if abs(f - query) <= 10] for query in range(60)]
    assert truth(test) == slow and len(slow[30]) == 21 and len(slow[0]) == 11
    # the field's codes judge the same folder by 25 m
    assert truth(TestSet(tmp_path / "nordland")) == slow


@pytest.mark.parametrize("name", [ours, others])
def test_nordland_1_is_every_tenth_summer_frame_on_winter(tmp_path, monkeypatch, name):
    write_nordland(tmp_path, name=name)
    counted(monkeypatch, "nordland-1", 60, 6)
    test = open_benchmark("nordland-1", tmp_path)
    assert (test.name, test.convention) == ("nordland-1", "+-1 frame")
    assert {path.parent.name for path in test.queries} == {"database"}  # summer
    assert [path.name for path in test.queries] == [name(10 * i) for i in range(6)]
    assert [path.name for path in test.database] == [name(frame) for frame in range(60)]
    wanted = [{10 * i - 1, 10 * i, 10 * i + 1} & set(range(60)) for i in range(6)]
    assert [set(found) for found in truth(test)] == wanted


def test_nordland_has_the_published_counts(monkeypatch):
    pretend(monkeypatch, 27_592, 27_592)
    both = [open_benchmark(name, "data") for name in ("nordland", "nordland-1")]
    assert [len(test.queries) for test in both] == [27_592, 2_760]
    assert [len(found) for found in truth(both[0])[13_000:13_003]] == [21, 21, 21]
    assert truth(both[1])[-1] == [27_589, 27_590, 27_591]


@pytest.mark.parametrize(
    "odd",
    [
        f"@{60.5 * SPACING:.2f}@0@.jpg",  # between two frames
        f"@{60 * SPACING:.2f}@{SPACING:.2f}@.jpg",  # not on a line
        f"@{7 * SPACING:.3f}@0@.jpg",  # frame 7 again
    ],
)
def test_names_that_tell_no_frame(tmp_path, monkeypatch, odd):
    write_nordland(tmp_path)
    (tmp_path / "nordland" / "images" / "test" / "queries" / odd).touch()
    with pytest.raises(ValueError, match=rf"{re.escape(odd)} gives no frame of its own"):
        open_benchmark("nordland", tmp_path, strict=False)


def test_the_sets_of_sfxl_share_a_database_and_have_their_own_queries(tmp_path, monkeypatch):
    prepare("sfxl", write_sfxl(tmp_path / "raw"), tmp_path / "sfxl", progress=False)
    tests = []
    for name, queries in {"testv1": 2, "testv2": 1, "night": 3, "occlusion": 1}.items():
        counted(monkeypatch, f"sfxl-{name}", 5, queries, slack=0)
        tests.append(open_benchmark(f"sfxl-{name}", tmp_path))
        assert tests[-1].name == f"sfxl-{name}" and len(tests[-1].queries) == queries
        assert len(tests[-1].query_utm) == queries == len(truth(tests[-1]))
    assert all(test.database == tests[0].database for test in tests)
    folders = [{path.parent.name for path in test.queries} for test in tests]
    assert folders == [{"queries"}, {"queries_v2"}, {"queries_night"}, {"queries_occlusion"}]
    everything = TestSet(tmp_path / "sfxl", "test")
    assert sorted(everything.queries) == sorted(path for test in tests for path in test.queries)


def test_a_condition_that_is_not_there_says_how_to_get_it(tmp_path):
    prepare("svox", write_svox(tmp_path / "raw"), tmp_path / "svox", progress=False)
    with pytest.raises(FileNotFoundError, match=r"expected `queries_rain`.*dinomix prepare svox"):
        open_benchmark("svox-rain", tmp_path)
    with pytest.raises(CountError, match=r"17,166 database images and 823 queries, but .* 4 and 2"):
        open_benchmark("svox-night", tmp_path)


@pytest.mark.parametrize(
    ("name", "write"), [("amstertime", write_amstertime), ("sped", write_sped)]
)
@pytest.mark.parametrize("formatter", [False, True])
def test_pairs_are_of_the_same_place(tmp_path, monkeypatch, name, write, formatter):
    if formatter:  # what the field's one makes of it
        for side in ("database", "queries"):
            folder = tmp_path / name / "images" / "test" / side
            folder.mkdir(parents=True)
            for i in range(3):
                (folder / f"@0@{1000 * i}@@@@@{i:04d}@@@@@@@@.jpg").touch()
    else:
        prepare(name, write(tmp_path / "raw"), tmp_path / name, progress=False)
    counted(monkeypatch, name, 3, 3)
    test = open_benchmark(name, tmp_path)
    assert (test.convention, test.unit) == ("same place", "places")
    assert truth(test) == [[0], [1], [2]]


@pytest.mark.skipif(not SPED.is_dir(), reason="no real photographs here")
def test_a_sample_of_sped(tmp_path, monkeypatch):
    for side, folder in (("database", "ref"), ("queries", "query")):
        images = sorted((SPED / "images" / "test" / side).iterdir())[:40]
        (tmp_path / "raw" / folder).mkdir(parents=True)
        for i, image in enumerate(images):
            (tmp_path / "raw" / folder / f"{i:07d}.jpg").symlink_to(image)
    prepare("sped", tmp_path / "raw", tmp_path / "sped", progress=False)
    with pytest.warns(UserWarning, match=r"607 database images and 607 queries, but .* 40 and 40"):
        test = open_benchmark("sped", tmp_path, strict=False)
    assert test.name == "sped (40 database images, 40 queries)"
    assert truth(test) == [[i] for i in range(40)]


@pytest.fixture
def challenge(tmp_path, monkeypatch):
    raw = write_msls_challenge(tmp_path / "raw")
    prepare("msls-challenge", raw, tmp_path / "msls-challenge", progress=False)
    counted(monkeypatch, "msls-challenge", 12, 6)
    return open_benchmark("msls-challenge", tmp_path)


def test_the_challenge_gives_a_submission_and_no_recall(challenge, tmp_path):
    assert not challenge.labelled and challenge.convention == "no positions"
    rng = np.random.default_rng(0)
    ranked = np.array([rng.permutation(12)[:5] for _ in range(6)])
    found = Retrieval(challenge, ranked, np.zeros((6, 5), np.float32), None)
    with pytest.raises(ValueError, match="recall does not"):
        found.table()
    write_submission(found, tmp_path / "made" / "submission.csv")
    # as the official evaluation reads it
    rows = np.loadtxt(tmp_path / "made" / "submission.csv", ndmin=2, dtype=str)
    assert rows.shape == (6, 6)
    for row, query, indices in zip(rows, challenge.queries, ranked, strict=True):
        keys = [f"{challenge.database[i].name.removesuffix('.jpg')}" for i in indices]
        assert row.tolist() == [query.name.removesuffix(".jpg"), *keys]
    ranked[4] = -1
    with pytest.raises(ValueError, match=f"{challenge.queries[4].name} found nothing"):
        write_submission(found, tmp_path / "other.csv")
    assert not (tmp_path / "other.csv").exists()


def test_studies_name_benchmarks(tmp_path, monkeypatch):
    studies._test_set.cache_clear()
    write_testset(tmp_path / "pitts30k", places=4, split="val")
    write_testset(tmp_path / "pitts30k", places=3, split="test")
    write_nordland(tmp_path, frames=11)
    for name, *counts in [("pitts30k-val", 4, 4), ("pitts30k-test", 3, 3), ("nordland-1", 11, 2)]:
        counted(monkeypatch, name, *counts)
    tests = ["nordland-1", "pitts30k-test", "pitts30k", ("pitts30k", "val")]
    study = studies.Study.under(tmp_path, "places", "pitts30k-val", tests)
    names = ["nordland-1", "pitts30k-test", "pitts30k-test", "pitts30k-val"]
    assert [test.name for test in study.test_sets()] == names
    assert [test.convention for test in study.test_sets()] == ["+-1 frame", *["25 m"] * 3]
    assert studies._test_set(study.val, "val").name == "pitts30k-val"
    with pytest.raises(FileNotFoundError, match=r"no folder .*pitts30k-test"):
        studies._test_set(tmp_path / "pitts30k-test", "val")  # no test set to validate on
    studies._test_set.cache_clear()
