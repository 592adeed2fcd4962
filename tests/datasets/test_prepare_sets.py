"""Each published format, from a made download to a test set with the right positives."""

import os
from pathlib import Path

import numpy as np
import pytest
import utm
from scipy.io import loadmat, savemat

import dinomix
from dinomix.datasets.prepare import MissingImagesError
from dinomix.datasets.prepare import prepare as prepare_loudly
from dinomix.evaluation import positives as positives_of
from tests.made_downloads import (
    CHALLENGE,
    EYNSHAM_LONLAT,
    MSLS_CENTRES,
    PITTS_UTM,
    ST_LUCIA_STEPS,
    TOKYO_LATLON,
    cells,
    write_amstertime,
    write_eynsham,
    write_images,
    write_msls,
    write_msls_challenge,
    write_nordland,
    write_pitts,
    write_sfxl,
    write_sped,
    write_st_lucia,
    write_svox,
    write_tokyo,
)


def prepare(*args, **options):
    return prepare_loudly(*args, progress=False, **options)


def fields(path: Path) -> list[str]:
    """The fields of a name: east, north, zone, letter, lat, lon, pano_id, tile, heading, pitch,
    roll, height, timestamp, note, suffix."""
    _, *parts = path.name.split("@")
    assert len(parts) == 15
    return parts


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# Pittsburgh


@pytest.mark.parametrize("name", ["pitts30k", "pitts250k"])
def test_pittsburgh(tmp_path, name):
    raw = write_pitts(tmp_path / "raw", name)
    summary = prepare(name, raw, tmp_path / "out")
    assert summary.name == name and summary.notes == ()
    assert summary.counts == {
        f"{split}/{side}": count
        for split in ("train", "val", "test")
        for side, count in (("database", 6), ("queries", 2))
    }
    for split in ("train", "val", "test"):
        struct = loadmat(raw / "datasets" / f"{name}_{split}.mat")["dbStruct"][0, 0]
        test = dinomix.TestSet(tmp_path / "out", split=split)
        sources = {}  # the .mat's positions by the file that a link leads to
        for folder, cell_array, positions in (
            (raw, struct["dbImageFns"], struct["utmDb"]),
            (raw / "queries_real", struct["qImageFns"], struct["utmQ"]),
        ):
            for i in range(len(cell_array)):
                sources[str(folder / cell_array[i, 0].item())] = positions[:, i]
        database = [sources[os.readlink(path)] for path in test.database]
        queries = [sources[os.readlink(path)] for path in test.queries]
        assert np.abs(test.database_utm - database).max() <= 0.005
        found = positives_of(test.database_utm, test.query_utm, 25)
        for query, positives in zip(queries, found, strict=True):
            near = []
            for i, place in enumerate(database):
                if ((query[0] - place[0]) ** 2 + (query[1] - place[1]) ** 2) ** 0.5 <= 25:
                    near.append(i)
            assert list(positives) == near and len(near) in (2, 4)


def test_pittsburgh_names(tmp_path):
    raw = write_pitts(tmp_path / "raw")
    prepare("pitts30k", raw, tmp_path / "out")
    path = next(
        path
        for path in dinomix.TestSet(tmp_path / "out", split="val").database
        if os.readlink(path).endswith("001/001000_pitch2_yaw13.jpg")
    )
    latitude, longitude = utm.to_latlon(*PITTS_UTM[0], 17, "T")
    expected = ["0585000.13", "4477000.00", "17", "T", f"0{latitude:.5f}", f"-0{-longitude:.5f}"]
    expected += ["001000", "36", "", "", "", "", "", "pitch2_yaw13", ".jpg"]
    assert fields(path) == expected


@pytest.mark.parametrize(
    ("images", "queries", "mats"),
    [("images", "queries", "."), ("Pittsburgh/images", "Pittsburgh/queries", "datasets")],
)
def test_pittsburgh_under_the_other_names_in_use(tmp_path, images, queries, mats):
    made, raw = write_pitts(tmp_path / "made"), tmp_path / "raw"
    (raw / images).mkdir(parents=True)
    for number in range(3):
        (made / f"00{number}").rename(raw / images / f"00{number}")
    (made / "queries_real").rename(raw / queries)
    (raw / mats).mkdir(exist_ok=True)
    for mat in (made / "datasets").iterdir():
        mat.rename(raw / mats / mat.name)
    assert prepare("pitts30k", raw, tmp_path / "out").made == 24


def test_pittsburgh_without_some_lists_or_its_query_folder(tmp_path):
    raw = write_pitts(tmp_path / "raw")
    (raw / "datasets" / "pitts30k_train.mat").unlink()
    summary = prepare("pitts30k", raw, tmp_path / "out")
    assert summary.made == 16 and "no pitts30k_train.mat" in str(summary)
    for gone, complaint in {
        "datasets/pitts30k_test.mat": r"pitts30k_test.mat or .*netvlad_v100",
        "queries_real": r"no folder queries_real .* with 001 in it.*http",
    }.items():
        (raw / gone).rename(tmp_path / "away")
        with pytest.raises(FileNotFoundError, match=complaint):
            prepare("pitts30k", raw, tmp_path / "out")
        (tmp_path / "away").rename(raw / gone)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"utmDb": None}, r"no field utmDb; it has whichSet"),
        ({"utmQ": np.ones((2, 3))}, r"utmQ in .* \(2, 3\), expected numbers \(2, 2\)"),
        ({"utmQ": np.ones((2, 2)).T * [1, 2]}, r"of 2 images are out of range"),
        ({"utmQ": np.array([[585e3, np.nan], [4e6, 4e6]])}, r"of 1 images.*000001.* at \(nan, 4e"),
        ({"utmQ": np.array([[585e3, 99e3], [4e6, 4e6]])}, r"of 1 images.*000001.* at \(99000, 4e"),
        ({"utmQ": np.array([[585e3, 6e5], [4e6, -1.0]])}, r"of 1 images.*000001.* at \(600000, -1"),
        ({"qImageFns": np.ones((2, 1))}, r"qImageFns in .* no cell array of names: cell 0"),
        ({"qImageFns": cells([])}, r"qImageFns in .* names no images"),
        ({"qImageFns": cells(["000/a.jpg", "b.jpg"])}, r"'000/a.jpg' is no Pittsburgh name"),
    ],
)
def test_mat_with_other_content(tmp_path, changes, complaint):
    raw = write_pitts(tmp_path / "raw", **changes)
    with pytest.raises(ValueError, match=complaint):
        prepare("pitts30k", raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_mat(tmp_path):
    raw = write_pitts(tmp_path / "raw")
    mat = raw / "datasets" / "pitts30k_val.mat"
    whole = mat.read_bytes()
    for broken in (b"", b"no mat at all" * 99, whole[: len(whole) // 2]):
        mat.write_bytes(broken)
        with pytest.raises(ValueError, match=r"pitts30k_val.mat is damaged"):
            prepare("pitts30k", raw, tmp_path / "out")
    for content in ({"other": 1.0}, {"dbStruct": 1.0}):
        savemat(mat, content)
        with pytest.raises(ValueError, match=r"pitts30k_val.mat holds no struct dbStruct"):
            prepare("pitts30k", raw, tmp_path / "out")


# Tokyo 24/7


@pytest.mark.parametrize("folder", ["247query_subset_v2", "247query_subset_v2/247query_subset_v2"])
def test_tokyo(tmp_path, folder):
    raw = write_tokyo(tmp_path / "raw", folder)
    summary = prepare("tokyo247", raw, tmp_path / "out")
    assert summary.counts == {"test/database": 24, "test/queries": 2}
    assert len(summary.notes) == 1 and "480 pixels" in summary.notes[0]
    test = dinomix.TestSet(tmp_path / "out")
    assert all(path.suffix == ".png" and path.is_file() for path in test.database)
    assert sorted(int(fields(path)[7]) for path in test.database) == sorted([*range(12)] * 2)
    assert {fields(path)[6] for path in test.database} == {"a" * 22, "b" * 22}
    for path, expected, latlon in zip(
        test.queries, test.query_utm, sorted(TOKYO_LATLON, key=lambda x: x[1]), strict=True
    ):
        east, north, zone, letter = utm.from_latlon(*latlon)
        assert np.abs(expected - (east, north)).max() <= 0.005
        assert fields(path)[2:6] == [str(zone), letter, f"0{latlon[0]:.5f}", f"0{latlon[1]:.5f}"]
    for positives in positives_of(test.database_utm, test.query_utm, 25):
        assert len(positives) == 12  # the cut-outs of the panorama 10 m away, and no others


def test_tokyo_takes_the_315_of_the_larger_query_set(tmp_path):
    raw = write_tokyo(tmp_path / "raw", "247query_v3")
    write_images(raw / "247query_v3", ["00001.jpg"])
    summary = prepare("tokyo247", raw, tmp_path / "out")
    assert summary.counts["test/queries"] == 2
    names = {fields(path)[6] for path in dinomix.TestSet(tmp_path / "out").queries}
    assert names == {"00010", "00379"}


def test_tokyo_prefers_the_csv_and_says_where_it_differs(tmp_path):
    raw = write_tokyo(tmp_path / "raw")
    queries = raw / "247query_subset_v2"
    (queries / "00010.csv").unlink()
    latitude, longitude = TOKYO_LATLON[1]
    (queries / "00379.csv").write_text(f"00379.jpg,{latitude + 0.001},{longitude}\n")
    summary = prepare("tokyo247", raw, tmp_path / "out")
    assert "1 queries have no .csv; tokyo247.mat gives their positions" in str(summary)
    assert "up to 111 m away from those in tokyo247.mat" in str(summary)
    east, north, *_ = utm.from_latlon(*TOKYO_LATLON[0])
    assert np.abs(dinomix.TestSet(tmp_path / "out").query_utm[0] - (east, north)).max() <= 0.005


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("00010.jpg;35.6;139.7", "00010.csv begins with '00010.jpg;35.6;139.7', expected"),
        ("", "00010.csv begins with '', expected"),
        ("00010.jpg,139.7,35.6", r"latitude and longitude of 1 images.*00010 at \(139.7, 35.6\)"),
    ],
)
def test_tokyo_csv_with_other_content(tmp_path, line, complaint):
    raw = write_tokyo(tmp_path / "raw")
    (raw / "247query_subset_v2" / "00010.csv").write_text(line)
    with pytest.raises(ValueError, match=complaint):
        prepare("tokyo247", raw, tmp_path / "out")


def test_tokyo_names_of_missing_cut_outs_and_of_another_pattern(tmp_path):
    raw = write_tokyo(tmp_path / "raw")
    min(raw.glob("03814/*/*_012_330.png")).unlink()
    with pytest.raises(MissingImagesError, match=r"1 of the 26 .*03814/.*_012_330.png\."):
        prepare("tokyo247", raw, tmp_path / "out")
    mat = raw / "datasets" / "tokyo247.mat"
    struct = loadmat(mat)["dbStruct"]
    struct["dbImageFns"][0, 0][3, 0] = "03814/x_30.jpg"
    savemat(mat, {"dbStruct": struct})
    with pytest.raises(ValueError, match=r"'03814/x_30.jpg' is no Tokyo 24/7 name"):
        prepare("tokyo247", raw, tmp_path / "out")


# Nordland


def test_nordland_with_its_clean_list(tmp_path):
    raw = write_nordland(tmp_path / "raw", frames=50)
    summary = prepare("nordland", raw, tmp_path / "out")
    assert summary.counts == {"test/database": 24, "test/queries": 24}
    assert "nordland_imageNames.txt lists 24 frames; results do not compare" in str(summary)
    test = dinomix.TestSet(tmp_path / "out")
    for side, season in ((test.database, "summer"), (test.queries, "winter")):
        for frame, path in enumerate(side):  # names sort as frames do
            assert os.readlink(path) == str(raw / season / f"images-{2 + 2 * frame:05d}.png")
            assert fields(path)[6] == f"images-{2 + 2 * frame:05d}"
            assert int(fields(path)[13]) == frame
    np.testing.assert_array_equal(np.rint(test.database_utm[:, 0] * 10.5 / 25), np.arange(24))
    for query, positives in enumerate(positives_of(test.database_utm, test.query_utm, 25)):
        assert list(positives) == [i for i in range(24) if abs(i - query) <= 10]


def test_nordland_takes_the_order_and_the_form_of_the_list(tmp_path):
    raw = write_nordland(tmp_path / "raw", frames=4, every=None)
    (raw / "winter").rename(raw / "unpacked")
    (raw / "winter").mkdir()
    (raw / "unpacked").rename(raw / "winter" / "winter")  # winter.tar.gz unpacked in winter
    listing = raw / "dataset_imagenames" / "nordland_imageNames_index.txt"
    listing.parent.mkdir()
    listing.write_text("./nordland/summer/images-00003.png\n./nordland/summer/images-00001.png\n")
    prepare("nordland", raw, tmp_path / "out")
    test = dinomix.TestSet(tmp_path / "out")
    assert [fields(path)[6] for path in test.queries] == ["images-00003", "images-00001"]


def test_nordland_without_a_list_uses_all_frames_by_number(tmp_path):
    raw = tmp_path / "raw"
    for season in ("summer", "winter"):
        write_images(raw / "data" / season, [f"{frame}.jpg" for frame in range(8, 12)])
    summary = prepare("nordland", raw, tmp_path / "out")
    assert "no clean list (nordland_imageNames.txt), so all 4 frames are used" in str(summary)
    test = dinomix.TestSet(tmp_path / "out")
    assert [fields(path)[6] for path in test.database] == ["8", "9", "10", "11"]
    (raw / "data" / "winter" / "9.jpg").unlink()
    with pytest.raises(MissingImagesError, match=r"1 of the 8 .*winter/9\."):
        prepare("nordland", raw, tmp_path / "out")


@pytest.mark.parametrize(
    ("listed", "complaint"),
    [
        (b"images-00001.png\nimages-00002.png\nimages-00001.png\n", "twice: images-00001"),
        (b"images-00001.png\n../../images-00002.png\n", r"that lead out .*'../../images"),
        (b"\n", "name no image$"),
        (b"\xff\xfe\x00\x01", "nordland_imageNames.txt is no text file"),
    ],
)
def test_nordland_list_with_other_content(tmp_path, listed, complaint):
    raw = write_nordland(tmp_path / "raw")
    (raw / "nordland_imageNames.txt").write_bytes(listed)
    with pytest.raises(ValueError, match=complaint):
        prepare("nordland", raw, tmp_path / "out")
    (raw / "winter").rename(raw / "query")
    with pytest.raises(FileNotFoundError, match=r"no folder winter.*VPR-Bench"):
        prepare("nordland", raw, tmp_path / "out")


# SF-XL


@pytest.mark.parametrize(("name", "version"), [("sfxl", "processed"), ("sfxl-small", "small")])
def test_sfxl(tmp_path, name, version):
    raw = write_sfxl(tmp_path / "raw", version, subfolder="37.77")
    summary = prepare(name, raw, tmp_path / "out")
    more = {"test/queries_v2": 1, "test/queries_night": 3, "test/queries_occlusion": 1}
    assert summary.counts == {
        **{"val/database": 5, "val/queries": 2},
        **{"test/database": 5, "test/queries": 2},
        **(more if version == "processed" else {}),
    }
    test = dinomix.TestSet(tmp_path / "out", split="test", condition="")
    assert {path.name for path in test.queries} == set(
        os.listdir(raw / version / "test" / "queries_v1")
    )
    np.testing.assert_allclose(test.database_utm[1], (543158.27, 4180593.76))
    again = prepare(name, raw / version, tmp_path / "out")  # the version's own folder will do
    assert (again.made, again.kept) == (0, sum(summary.counts.values()))


def test_sfxl_reads_the_lists_of_its_folders(tmp_path):
    raw = write_sfxl(tmp_path / "raw")
    folder = raw / "processed" / "test" / "database"
    names = sorted(os.listdir(folder))
    listing = folder.with_name("database_images_paths.txt")
    listing.write_text("\n".join(names[:3]))
    assert prepare("sfxl", raw, tmp_path / "out").counts["test/database"] == 3
    (folder / names[0]).unlink()
    with pytest.raises(MissingImagesError, match=r"1 of the 17 .*processed/test/database/@0543058"):
        prepare("sfxl", raw, tmp_path / "elsewhere")
    listing.write_text("../queries_v1/@1@.jpg\n")
    with pytest.raises(ValueError, match=r"database_images_paths.txt names 1 images that lead out"):
        prepare("sfxl", raw, tmp_path / "elsewhere")


def test_sfxl_with_one_split_only(tmp_path):
    raw = write_sfxl(tmp_path / "raw", "small")
    (raw / "small" / "val").rename(tmp_path / "val")
    summary = prepare("sfxl-small", raw, tmp_path / "out")
    assert set(summary.counts) == {"test/database", "test/queries"}
    assert "no folder val/database, so val/database was not prepared" in str(summary)
    (raw / "small" / "test" / "queries_v1").rename(tmp_path / "queries")
    with pytest.raises(ValueError, match=r"no image for test/queries.*no folder test/queries_v1"):
        prepare("sfxl-small", raw, tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["photo.jpg", "@0543158.27@nan@10@S@.jpg", "@43158.27@4180593.76@10@S@.jpg"]
)
def test_sfxl_names_without_a_position_or_twice(tmp_path, name):
    raw = write_sfxl(tmp_path / "raw")
    database, queries = (raw / "processed" / "val" / side for side in ("database", "queries"))
    write_images(queries, [name])
    with pytest.raises(ValueError, match=f"queries: easting and northing of 1 images.*{name} at"):
        prepare("sfxl", raw, tmp_path / "out")
    (queries / name).unlink()
    write_images(database / "37.70", [twice := min(os.listdir(database))])
    with pytest.raises(ValueError, match=f"1 images would have the name.*37.70/{twice}"):
        prepare("sfxl", raw, tmp_path / "out")


def test_sfxl_may_have_the_night_alone(tmp_path):
    raw = write_sfxl(tmp_path / "raw")
    for folder in ("queries_v1", "queries_v2", "queries_occlusion"):
        (raw / "processed" / "test" / folder).rename(tmp_path / folder)
    summary = prepare("sfxl", raw, tmp_path / "out")
    assert {name for name in summary.counts if name.startswith("test")} == {
        *("test/database", "test/queries_night"),
    }
    (tmp_path / "queries_v2").rename(raw / "processed" / "test" / "queries_v2")
    assert prepare("sfxl", raw, tmp_path / "out").made == 1  # it is added to the others


# SVOX


@pytest.mark.parametrize("inner", [".", "svox"])
def test_svox(tmp_path, inner):
    raw = write_svox(tmp_path / "raw")
    summary = prepare("svox", raw / inner, tmp_path / "out")
    assert summary.counts == {"test/database": 4, "test/queries_night": 2, "test/queries_snow": 1}
    assert "no folder images/test/queries_rain, so test/queries_rain was not prepared" in str(
        summary
    )
    night = dinomix.TestSet(tmp_path / "out", condition="night")
    np.testing.assert_array_equal(night.query_utm, [[620_100, 5_734_500], [620_101, 5_734_500]])
    assert len(night.database) == 4 and night.conditions == ["", ""]


# Pairs


@pytest.mark.parametrize(
    ("name", "write", "sides", "inner"),
    [
        ("amstertime", write_amstertime, ("new", "old"), "AmsterTime-v1.0"),
        ("sped", write_sped, ("ref", "query"), "."),
    ],
)
def test_pairs(tmp_path, name, write, sides, inner):
    raw = write(tmp_path / "raw" / inner).resolve()
    summary = prepare(name, tmp_path / "raw", tmp_path / "out")
    assert summary.counts == {"test/database": 3, "test/queries": 3} and not summary.notes
    test = dinomix.TestSet(tmp_path / "out", threshold=0)
    for images, side in zip((test.database, test.queries), sides, strict=True):
        for number, path in enumerate(images):
            source = Path(os.readlink(path))
            assert source.parent.name == side and raw in source.parents
            assert int(source.stem) == number and fields(path)[6] == source.stem
            assert fields(path)[-1] == source.suffix
    found = positives_of(test.database_utm, test.query_utm, 0)
    assert [list(indices) for indices in found] == [[0], [1], [2]]
    assert len(positives_of(test.database_utm, test.query_utm, 999)[1]) == 1


def test_pairs_that_are_none(tmp_path):
    raw = write_amstertime(tmp_path / "raw")
    (raw / "old" / "0001.jpg").unlink()
    with pytest.raises(MissingImagesError, match=r"1 of the 6 .*old/0001\.jpg"):
        prepare("amstertime", raw, tmp_path / "out")
    write_images(raw / "old", ["IMG_0001.jpg"])
    with pytest.raises(
        ValueError, match=r"'IMG_0001' has no number, expected such as 0042\. It is"
    ):
        prepare("amstertime", raw, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"no folder ref or SPEDTEST/ref of images.*VPR-B"):
        prepare("sped", raw, tmp_path / "out")


# Eynsham, St Lucia


@pytest.mark.parametrize("inner", [".", "Eynsham"])
@pytest.mark.parametrize("positions", [5, 4])
def test_eynsham(tmp_path, inner, positions):
    """Of five panoramas, the first has no position: two are the first loop, two the second."""
    raw = write_eynsham(tmp_path / "raw")
    if positions == 4:
        lon, lat = EYNSHAM_LONLAT[-1]
        edit(raw / "Eynsham" / "Route_map" / "Eynsham.kml", f"{lon},{lat},0 <", "<")
    summary = prepare("eynsham", raw / inner, tmp_path / "out")
    assert summary.counts == {"test/database": 10, "test/queries": 10}
    test = dinomix.TestSet(tmp_path / "out")
    tiles = sorted((raw / "Eynsham" / "Images").iterdir())
    for path, utms in zip(
        [*test.database, *test.queries], [*test.database_utm, *test.query_utm], strict=True
    ):
        pano, tile = int(fields(path)[6]), int(fields(path)[7])
        assert os.readlink(path) == str(tiles[5 * (pano + 1) + tile])
        assert path.parent.name == ("database" if pano < 2 else "queries")
        lon, lat = EYNSHAM_LONLAT[pano]
        assert np.abs(utms - utm.from_latlon(lat, lon)[:2]).max() <= 0.005
    found = positives_of(test.database_utm, test.query_utm, 25)
    for query, indices in zip(test.queries, found, strict=True):  # position 2 is position 0 again
        panos = {int(fields(test.database[i])[6]) for i in indices}
        assert panos == {int(fields(query)[6]) - 2} and len(indices) == 5


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("-1.37,", "-1.37;", r"Eynsham\.kml: latitude and longitude of .* out of range"),
        ("-1.37,51.78,0 -1.36,51.79,0 -1.37", "-1.37", "holds 25 images and .* 3 positions"),
        ("coordinates", "points", "holds 25 images and .* 0 positions; .*zenodo"),
    ],
)
def test_eynsham_with_another_route(tmp_path, old, new, complaint):
    raw = write_eynsham(tmp_path / "raw")
    edit(raw / "Eynsham" / "Route_map" / "Eynsham.kml", old, new)
    with pytest.raises(ValueError, match=complaint):
        prepare("eynsham", raw, tmp_path / "out")


def test_eynsham_with_a_tile_less(tmp_path):
    raw = write_eynsham(tmp_path / "raw")
    max((raw / "Eynsham" / "Images").iterdir()).unlink()
    with pytest.raises(ValueError, match=r"holds 24 images .* expected 5 images for each"):
        prepare("eynsham", raw, tmp_path / "out")


def test_st_lucia(tmp_path):
    """Frames at least 5 m after the one that was used before: of 0, 3, 6, 10, 12 m three are."""
    raw = write_st_lucia(tmp_path / "raw")
    summary = prepare("st_lucia", raw, tmp_path / "out")
    assert summary.counts == {"test/database": 3, "test/queries": 2}
    test = dinomix.TestSet(tmp_path / "out")
    used = [
        (side, fields(path)[6]) for side in ("database", "queries") for path in getattr(test, side)
    ]
    assert sorted(used) == [
        *(("database", f"100909_0845_{i:05d}") for i in (0, 2, 4)),
        *(("queries", f"210809_1210_{i:05d}") for i in (0, 2)),
    ]
    for path, metres in zip(test.database, test.database_utm, strict=True):
        drive, _, frame = fields(path)[6].rpartition("_")
        assert os.readlink(path) == str(raw / drive / "frames" / f"{frame}.png")
        north = 6_956_000 + ST_LUCIA_STEPS[drive][int(frame)]
        assert np.abs(metres - (500_000, north)).max() <= 0.02 and fields(path)[2:4] == ["56", "J"]


def test_st_lucia_incomplete(tmp_path):
    raw = write_st_lucia(tmp_path / "raw")
    frames = raw / "210809_1210" / "frames"
    (frames / "00000.png").rename(frames / "00003.png")  # as ffmpeg numbers them, unless told
    with pytest.raises(MissingImagesError, match=r"1 of the 5 .*210809_1210/frames/00000\.png"):
        prepare("st_lucia", raw, tmp_path / "out")
    frames.rename(raw / "210809_1210" / "pictures")
    with pytest.raises(FileNotFoundError, match=r"no folder frames of images\. .*ffmpeg -i webcam"):
        prepare("st_lucia", raw, tmp_path / "out")
    (raw / "100909_0845" / "fGPS.txt").write_text("27.5;153.0\n")
    with pytest.raises(ValueError, match=r"100909_0845/fGPS\.txt: latitude .* of 1 images"):
        prepare("st_lucia", raw, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"no two folders with fGPS\.txt.*100909_0845 and"):
        prepare("st_lucia", raw / "100909_0845", tmp_path / "out")


# MSLS


def test_msls_challenge(tmp_path):
    raw = write_msls_challenge(tmp_path / "raw")
    summary = prepare("msls-challenge", raw, tmp_path / "out")
    assert summary.counts == {"test/database": 12, "test/queries": 6}  # those of some task
    found = {path.name for path in (tmp_path / "out" / "images" / "test" / "queries").iterdir()}
    assert found == {f"{city}-q0_22characters.jpg" for city in CHALLENGE}
    again = prepare("msls-challenge", raw / "test", tmp_path / "out")
    assert (again.made, again.kept) == (0, 18)
    index = raw / "test" / "kampala" / "query" / "subtask_index.csv"
    edit(index, "kampala-q0", "../q0")
    with pytest.raises(ValueError, match=r"subtask_index.csv names 1 images that lead out"):
        prepare("msls-challenge", raw, tmp_path / "out")
    index.unlink()
    with pytest.raises(FileNotFoundError, match=r"no file test/kampala/query/subtask.*mapillary"):
        prepare("msls-challenge", raw, tmp_path / "out")


def msls_keys(out: Path, side: str) -> list[str]:
    paths = getattr(dinomix.TestSet(out, split="val"), side)
    return sorted(fields(path)[6].removesuffix("_22characters") for path in paths)


def test_msls_takes_the_queries_of_the_official_toolkit(tmp_path):
    raw = write_msls(tmp_path / "raw")
    summary = prepare("msls", raw, tmp_path / "out")
    assert summary.counts == {"val/database": 4, "val/queries": 2}
    assert msls_keys(tmp_path / "out", "database") == ["cph-d0", "cph-d1", "sf-d0", "sf-d1"]
    assert msls_keys(tmp_path / "out", "queries") == ["cph-q0", "sf-q0"]
    assert "the 2 that the official toolkit takes by subtask_index.csv" in str(summary)
    assert "do not compare with those on the official 740" in str(summary)
    test = dinomix.TestSet(tmp_path / "out", split="val")
    for query, positives in zip(
        test.queries, positives_of(test.database_utm, test.query_utm, 25), strict=True
    ):
        cities = {fields(test.database[i])[13].rpartition("_")[2] for i in positives}
        assert len(positives) == 2 and cities == {fields(query)[13].rpartition("_")[2]}


def test_msls_names(tmp_path):
    prepare("msls", write_msls(tmp_path / "raw", subtasks=False), tmp_path / "out")
    test = dinomix.TestSet(tmp_path / "out", split="val")
    names = {fields(path)[6]: fields(path) for path in test.queries}
    for city, (east, north, zone, letter) in MSLS_CENTRES.items():
        latitude, longitude = utm.to_latlon(east + 3, north + 4, zone, letter)
        assert names[f"{city}-q1_22characters"] == [
            *(f"{east + 3:010.2f}", f"{north + 4:010.2f}", str(zone), letter),
            *(f"{latitude:09.5f}", f"{longitude:010.5f}", f"{city}-q1_22characters"),
            *("", "", "", "", "", "20170508", f"night_forward_{city}", ".jpg"),
        ]


def test_msls_with_a_list_of_keys_or_paths(tmp_path):
    raw = write_msls(tmp_path / "raw")
    listing = raw / "val_queries.txt"
    listing.write_text("cph-far_22characters\n./train_val/sf/query/images/sf-q1_22characters.jpg\n")
    summary = prepare("msls", raw, tmp_path / "out")
    assert msls_keys(tmp_path / "out", "queries") == ["cph-far", "sf-q1"]
    assert "queries: the 2 in val_queries.txt" in str(summary)
    listing.write_text("")
    with pytest.raises(ValueError, match="name no image for val/queries"):
        prepare("msls", raw, tmp_path / "out2")
    listing.write_text("cph-q0_22characters\nsf-qp_22characters\nnobody\n")
    with pytest.raises(ValueError, match=r"names 2 keys that are no .*: nobody, sf-qp_22"):
        prepare("msls", raw, tmp_path / "out2")


def test_msls_without_any_list_takes_all_and_says_so(tmp_path):
    raw = write_msls(tmp_path / "raw", subtasks=False)
    summary = prepare("msls", raw / "train_val", tmp_path / "out")  # the inner folder will do
    assert len(msls_keys(tmp_path / "out", "queries")) == 6  # all but the panoramas
    assert "all 6, for there is no val_queries.txt and no subtask_index.csv" in str(summary)
    assert "do not compare with those on the official 740" in str(summary)


RAW, POST = "database/raw.csv", "database/postprocessed.csv"


@pytest.mark.parametrize(
    ("files", "old", "new", "complaint"),
    [
        ([RAW], ",captured_at,", ",taken_at,", r"raw.csv lacks the columns \['captured_at'\]"),
        ([RAW], "cph-d1_", "cph-d0_", "raw.csv has two rows of key 'cph-d0_22characters'"),
        ([RAW], "cph-d1_", "cph-d7_", "other keys: cph-d1_22characters, cph-d7_22characters"),
        ([RAW], "12.5,2017-05-08,True", "12.5", "raw.csv, row 4: expected 7 fields"),
        ([RAW], "False", "True", "lists no photo that is no panorama"),
        ([RAW, POST], "cph-d1_", "../../cph-d1_", r"1 images that lead out .*'../../cph-d1"),
        ([POST], "723943.0", "x", r"of 1 images.*cph-d1_22characters at \(nan, 6"),
        ([POST], ",6177544.1", ",5177544.1", "1,000,000 m off lon and lat in raw.csv"),
        (["query/raw.csv"], ",55.69", ",155.69", r"latitude .* of 3 images.*cph-q0_22characters"),
        (["query/subtask_index.csv"], "cph-q1", "cph-q9", "lacks 1 keys of raw.csv: cph-q1"),
    ],
)
def test_msls_tables_with_other_content(tmp_path, files, old, new, complaint):
    raw = write_msls(tmp_path / "raw")
    for file in files:
        edit(raw / "train_val" / "cph" / file, old, new)
    with pytest.raises(ValueError, match=complaint):
        prepare("msls", raw, tmp_path / "out")


def test_msls_cities_must_not_be_missing(tmp_path):
    raw = write_msls(tmp_path / "raw")
    (raw / "train_val" / "sf").rename(tmp_path / "sf")
    with pytest.raises(FileNotFoundError, match=r"no file sf/database/raw.csv.*mapillary.com"):
        prepare("msls", raw, tmp_path / "out")
