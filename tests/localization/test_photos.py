"""Which photos a path stands for, and where they say they were taken."""

import math
import os
import struct

import numpy as np
import pytest
import utm
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from dinomix.data import TestSet
from dinomix.datasets.layouts import read_csv
from dinomix.localization.photos import Position, find_photos, read_gps, read_position, settle_zones
from dinomix.plumbing.imagenames import image_formats
from tests.conftest import write_image

LAT, LON = (48, 51, 29.6), (2, 17, 40.2)  # the Eiffel tower
NOTHING = IFDRational(0, 0)
NORTH, EAST = 48 + 51 / 60 + 29.6 / 3600, 2 + 17 / 60 + 40.2 / 3600


def photo(path, tags=None, **changes):
    """A JPEG with GPS tags: 1 and 3 are the hemispheres, 2 and 4 degrees, minutes, seconds."""
    given = {1: "N", 2: LAT, 3: "E", 4: LON, 6: 35.0} if tags is None else tags
    given = {**given, **{int(key[1:]): value for key, value in changes.items()}}
    exif = Image.Exif()
    if given:
        exif[ExifTags.IFD.GPSInfo] = {k: v for k, v in given.items() if v is not None}
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    return path


class TestExif:
    @pytest.mark.parametrize(
        ("letters", "signs"),
        [("NE", (1, 1)), ("SE", (-1, 1)), ("NW", (1, -1)), ("SW", (-1, -1)), ("sw", (-1, -1))],
    )
    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".avif", ".heic"])
    def test_hemispheres(self, tmp_path, letters, signs, suffix):
        if suffix == ".heic":
            pytest.importorskip("pillow_heif")
            image_formats()  # else Pillow could not write it
        found = read_gps(photo(tmp_path / f"a{suffix}", t1=letters[0], t3=letters[1]))
        assert found == pytest.approx((signs[0] * NORTH, signs[1] * EAST), abs=1e-6)

    @pytest.mark.parametrize(
        "changes",
        [
            *({"tags": {}}, {"tags": {6: 35.0}}),
            *({"t1": None}, {"t3": None}, {"t2": None}, {"t4": None}),
            *({"t1": "E"}, {"t1": ""}),  # no hemisphere of a latitude
            *({"t2": (91, 0, 0)}, {"t4": (180, 0, 1)}),
            *({"t4": (NOTHING,) * 3}, {"t4": (NOTHING, 17, 40)}, {"t2": (48, NOTHING, 29)}),
            {"t2": (48, NOTHING, NOTHING)},
            {"t2": (0, 0, 0), "t4": (0, 0, 0)},  # a camera without a fix
        ],
    )
    def test_what_is_no_position_is_unknown(self, tmp_path, changes):
        assert read_gps(photo(tmp_path / "a.jpg", **changes)) is None

    def test_decimal_minutes_the_equator_and_greenwich_are_places(self, tmp_path):
        path = photo(tmp_path / "a.jpg", t2=(48, 51.5, 0), t4=(IFDRational(5, 2), 0, 0))
        assert read_gps(path) == pytest.approx((48 + 51.5 / 60, 2.5))
        assert read_gps(photo(tmp_path / "a.jpg", t2=(0, 0, 0)))[0] == 0
        assert read_gps(photo(tmp_path / "a.jpg", t4=(0, 0, 0)))[1] == 0

    @pytest.mark.parametrize("nothing", [IFDRational(0, 0), IFDRational(1, 0)])
    def test_what_is_there_is_a_position_without_seconds(self, tmp_path, nothing):
        path = photo(tmp_path / "a.jpg", t2=(48, 51.5, nothing), t4=(2.25, nothing, nothing))
        assert read_gps(path) == pytest.approx((48 + 51.5 / 60, 2.25))

    def test_tags_of_other_types(self, tmp_path):
        """As some programs write them: degrees alone, text, a hemisphere that ends in a zero."""
        for tags, expected in [
            ({1: b"N\0\0", 2: (48.5,), 3: b"W\0\0", 4: (2.5,)}, (48.5, -2.5)),
            ({1: "N", 2: "48.5", 3: "E", 4: "2.5"}, (48.5, 2.5)),
            ({1: "N", 2: "48.5 N", 3: "E", 4: "2.5"}, None),
            ({1: "N", 2: (1.0, 2.0, 3.0, 4.0), 3: "E", 4: (2.5,)}, None),
        ]:
            found = read_gps(self.with_tags(tmp_path, tags))
            assert found == (pytest.approx(expected) if expected else None), tags

    @staticmethod
    def with_tags(tmp_path, tags):
        """Written by hand, for Pillow gives each tag the type that it should have."""
        entries, blobs = b"", b""
        start = 8 + 2 + 12 + 4  # behind the header and the first IFD, which points to the GPS one
        room = start + 2 + 12 * len(tags) + 4
        for tag, value in tags.items():
            if isinstance(value, tuple):
                kind, count = 5, len(value)
                blob = b"".join(struct.pack("<II", round(v * 1000), 1000) for v in value)
            else:
                blob = value if isinstance(value, bytes) else value.encode() + b"\0"
                kind, count = 2, len(blob)
            at = blob.ljust(4, b"\0") if len(blob) <= 4 else struct.pack("<I", room + len(blobs))
            entries += struct.pack("<HHI", tag, kind, count) + at
            blobs += blob if len(blob) > 4 else b""
        first = struct.pack("<HHHII", 1, 0x8825, 4, 1, start) + bytes(4)
        gps = struct.pack("<H", len(tags)) + entries + bytes(4) + blobs
        exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + first + gps
        Image.new("RGB", (8, 8)).save(tmp_path / "byhand.jpg", exif=exif)
        return tmp_path / "byhand.jpg"

    @given(st.binary(max_size=120))
    def test_broken_tags_never_raise(self, tmp_path_factory, noise):
        path = tmp_path_factory.getbasetemp() / "noise.jpg"
        Image.new("RGB", (8, 8)).save(path, exif=b"Exif\0\0II*\0\x08\0\0\0" + noise)
        found = read_gps(path)
        assert found is None or (abs(found[0]) <= 90 and abs(found[1]) <= 180)

    def test_damaged_and_missing_files(self, tmp_path):
        (tmp_path / "a.jpg").write_bytes(b"no image")
        assert read_gps(tmp_path / "a.jpg") is None and read_gps(tmp_path / "b.jpg") is None


class TestPosition:
    @given(st.floats(-80, 83.99), st.floats(-180, 179.99))
    def test_ways_there_and_back(self, latitude, longitude):
        assume(abs(latitude) > 1e-6)  # utm gives what lies just south of the equator a zone north
        place = Position.from_degrees(latitude, longitude)
        same = Position.from_utm(place.utm_east, place.utm_north, place.utm_zone)
        back = Position.from_point(place.point, geographic=True)
        assert place.metres_to(same) < 0.01 and place.metres_to(back) < 1e-6
        assert same.utm_zone == place.utm_zone

    def test_metres_are_those_of_utm(self):
        """Within one zone, up to the projection's scale of 0.04 %."""
        rng = np.random.default_rng(0)
        for _ in range(20):
            east, north = rng.uniform(300_000, 700_000), rng.uniform(1e5, 9e6)
            step = rng.uniform(-50, 50, 2)
            one = Position.from_utm(east, north, "31N")
            other = Position.from_utm(east + step[0], north + step[1], "31N")
            assert one.metres_to(other) == pytest.approx(math.hypot(*step), rel=1.1e-3)

    def test_metres_across_zones_the_date_line_and_the_pole(self):
        def apart(a, b):
            return Position.from_degrees(*a).metres_to(Position.from_degrees(*b))

        degree = 2 * math.pi * 6_378_137 / 360  # on the equator
        assert apart((0, 5.9999), (0, 6.0001)) == pytest.approx(0.0002 * degree)
        assert apart((0, 179.9999), (0, -179.9999)) == pytest.approx(0.0002 * degree)
        assert apart((89.9999, 0), (89.9999, 180)) == pytest.approx(0.0002 * 111_694, rel=1e-3)

    def test_near_a_pole_there_are_degrees_alone(self):
        place = Position.from_degrees(-89, 20)
        assert place.geographic and math.isnan(place.utm_east) and place.utm_zone == ""

    def test_what_cannot_be_compared_has_no_distance(self):
        earth, plan = Position.from_degrees(48, 2), Position.from_utm(400_000, 5e6)
        assert math.isnan(earth.metres_to(plan)) and math.isnan(plan.metres_to(None))
        assert plan.metres_to(Position.from_utm(400_003, 5e6 + 4)) == pytest.approx(5)


class TestNames:
    def test_with_a_zone(self, tmp_path):
        place = read_position(tmp_path / "@0448251.80@5411932.68@31@U@@@@@@@@@@.jpg")
        assert (place.utm_east, place.utm_north, place.utm_zone) == (448251.80, 5411932.68, "31U")
        expected = utm.to_latlon(448251.80, 5411932.68, 31, "U")
        assert (place.latitude, place.longitude) == pytest.approx(expected)

    @pytest.mark.parametrize("zone", ["@.jpg", "@@@.jpg", "@61@T@.jpg", "@31@I@.jpg", "@x@T@.jpg"])
    def test_without_a_zone_or_with_a_wrong_one(self, tmp_path, zone):
        place = read_position(tmp_path / f"@0400000@5000000{zone}")
        assert (place.utm_east, place.utm_north) == (400_000, 5_000_000)
        assert not place.geographic and place.utm_zone == ""
        place = read_position(tmp_path / "@12@34@31@T@.jpg")  # metres that no zone has
        assert (place.utm_east, place.utm_north, place.geographic) == (12, 34, False)

    @pytest.mark.parametrize("name", ["me@1@2@.jpg", "@home@5@.jpg", "@1e9@2@.jpg", "@.jpg"])
    def test_other_names_tell_nothing(self, tmp_path, name):
        write_image(tmp_path / name, np.random.default_rng(0))
        assert read_position(tmp_path / name) is None

    def test_a_name_comes_before_the_tags(self, tmp_path):
        assert read_position(photo(tmp_path / "@400000@5000000@.jpg")).utm_east == 400_000
        assert read_position(photo(tmp_path / "a.jpg")).latitude == pytest.approx(NORTH)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names(photos):
    return [path.relative_to(photos.root).as_posix() for path in photos.paths]


def test_a_folder_and_all_folders_in_it(tmp_path):
    touch(tmp_path, "b.JPG", "a b.png", "old/c.jpeg", "old/ä/d.jpg", "old/note.txt", "e.heic")
    touch(tmp_path, ".f.jpg", ".hidden/g.jpg", "old/.dinomix.sqlite")
    photos = find_photos(tmp_path)
    assert names(photos) == ["a b.png", "b.JPG", "e.heic", "old/c.jpeg", "old/ä/d.jpg"]
    assert photos.root == tmp_path and photos.position(photos.paths[0]) is None


def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path):
    touch(tmp_path, "photos/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "photos" / "b.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    (tmp_path / "photos" / "round").symlink_to(tmp_path / "photos")
    assert names(find_photos(tmp_path / "photos")) == ["a.jpg", "b.jpg"]


def test_one_photo_or_none(tmp_path):
    touch(tmp_path, "in/notes.txt", "in/.hidden.jpg", "a.webp", "b.jpg")
    assert names(find_photos(str(tmp_path / "a.webp"))) == ["a.webp"]
    with pytest.raises(FileNotFoundError, match=r"in holds no images$"):
        find_photos(tmp_path / "in")
    for name in ("nowhere", "nowhere.jpg", "nowhere.csv"):
        with pytest.raises(FileNotFoundError, match=f"no photo, folder or CSV file .*{name}"):
            find_photos(tmp_path / name)


class TestTables:
    def read(self, tmp_path, *lines):
        for line in lines[1:]:
            touch(tmp_path, line.split(",")[0])
        (tmp_path / "d.csv").write_text("\n".join(lines) + "\n")
        photos = find_photos(tmp_path / "d.csv")
        return photos, [photos.position(path) for path in photos.paths]

    def test_degrees_some_of_them_unknown(self, tmp_path):
        photos, (a, b) = self.read(
            tmp_path, "image,latitude,longitude,who", "x/a.jpg,45,6.5,me", "b.jpg, ,,you"
        )
        assert names(photos) == ["x/a.jpg", "b.jpg"] and photos.root == tmp_path
        assert (a.latitude, a.longitude, a.utm_zone) == (45, 6.5, "32T") and b is None

    def test_degrees_come_before_metres_and_both_before_names(self, tmp_path):
        _, (a, b, c) = self.read(
            tmp_path,
            "image,utm_east,utm_north,latitude,longitude",
            "@1@2@.jpg,400000,5e6,45,6",
            "@3@4@.jpg,,,,",
            "@5@6@.jpg,400000,5e6,,",
        )
        assert a.latitude == 45 and (b.utm_east, b.utm_north) == (3, 4)
        assert (c.utm_east, c.utm_north, c.geographic) == (400_000, 5e6, False)

    def test_images_alone(self, tmp_path):
        photos, positions = self.read(tmp_path, "image", "a.jpg", "b.jpg", "a.jpg")
        assert names(photos) == ["a.jpg", "b.jpg"] and positions == [None, None]

    @pytest.mark.parametrize(
        ("row", "complaint"),
        [
            ("a.jpg,95,6", "row 3: latitude is '95'"),
            ("a.jpg,45,", "row 3: longitude is ''"),
            ("../a.jpg,45,6", "row 3: image is '../a.jpg'"),
        ],
    )
    def test_a_wrong_row_is_named(self, tmp_path, row, complaint):
        os.makedirs(tmp_path / "in")
        with pytest.raises(ValueError, match=f"d.csv, {complaint}"):
            self.read(tmp_path / "in", "image,latitude,longitude", "b.jpg,45,6", row)

    def test_missing_images_are_an_error(self, tmp_path):
        (tmp_path / "d.csv").write_text("image\na.jpg\nb.jpg\n")
        with pytest.raises(FileNotFoundError, match="2 of the 2 images"):
            find_photos(tmp_path / "d.csv")

    def test_metres_of_a_zone(self, tmp_path):
        rows = ("a.jpg,448251.8,5411932.68,31U", "b.jpg,,,", "c.jpg,448251.8,5411932.68,")
        _, (a, b, c) = self.read(tmp_path, "image,utm_east,utm_north,UTM_zone", *rows)
        assert (a.latitude, a.longitude) == pytest.approx(
            utm.to_latlon(448251.8, 5411932.68, 31, "U")
        )
        assert b is None and not c.geographic

    @pytest.mark.parametrize("zone", ["", "31U"])
    def test_metres_that_cannot_be(self, tmp_path, zone):
        with pytest.raises(ValueError, match=r"d\.csv, row 2(: .* look like degrees| at)"):
            self.read(tmp_path, "image,utm_east,utm_north,utm_zone", f"a.jpg,48.85,2.35,{zone}")


@pytest.mark.parametrize(
    "names", ["@120.43912@36.59905@a.jpg c.jpg", "@5@6@51@S@a.jpg", "@1e9@2@.jpg"]
)
def test_names_that_cannot_be_positions(tmp_path, names):
    own = ["@home@5@a.jpg", "@12@34@b.jpg", "@312@34@.jpg"]
    settle_zones([find_photos(touch(tmp_path / "own", *own))])
    good = find_photos(touch(tmp_path / "good", "@400000@5000000@a.jpg"))
    bad = find_photos(touch(tmp_path / "bad", *names.split()))
    for sources in ([bad, good], [good, bad]):  # of database or queries
        with pytest.raises(ValueError, match=r"look like degrees|out of range"):
            settle_zones(sources)


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize(
    ("zones", "agree"),
    [
        (["31@T", "@", "31@T"], True),  # without a zone: in that of the others
        (["@", "@", "031@t"], True),
        (["31@", "31@", "31@"], True),  # nobody knows on which side of the equator
        (["31@T", "33@T", "33@T"], True),
        (["31@T", "33@T", "@"], False),
        (["31@", "32@", "32@"], False),
        (["31@T", "61@T", "31@"], False),
    ],
)
def test_localize_and_test_sets_agree_on_metres(tmp_path, zones, agree, table):
    sources = [tmp_path / "database", tmp_path / "queries"]
    rows = [(f"{400_000 + i}", "5000000", zone) for i, zone in enumerate(zones)]
    for folder, of in zip(sources, (rows[:2], rows[2:]), strict=True):
        names = [f"@{'@'.join(row)}@.jpg" for row in of]
        touch(folder, *names)
        lines = [
            ",".join([name, *row[:2], row[2].replace("@", "")])
            for name, row in zip(names, of, strict=True)
        ]
        (folder / "all.csv").write_text("\n".join(["image,utm_east,utm_north,utm_zone", *lines]))
    if table:
        sources = [folder / "all.csv" for folder in sources]
    open_set = read_csv if table else lambda *_: TestSet(tmp_path)
    if not agree:
        for refuse in (lambda: open_set(*sources), lambda: settle_zones(map(find_photos, sources))):
            with pytest.raises(ValueError, match="for a UTM zone, while there are several"):
                refuse()
        return
    test = open_set(*sources)
    database, queries = settle_zones(map(find_photos, sources))
    asked = queries.position(queries.paths[0])
    for path, place in zip(test.database, test.database_utm, strict=True):
        expected = np.linalg.norm(place - test.query_utm[0])
        if expected < 1000:  # far apart, a plane's metres are others than those on the Earth
            assert asked.metres_to(database.position(path)) == pytest.approx(expected, abs=0.1)
