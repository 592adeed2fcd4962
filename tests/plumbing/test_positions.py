"""Positions of every form in one plane, against distances in space; or refused."""

from pathlib import Path

import numpy as np
import pytest
import utm
from hypothesis import given
from hypothesis import strategies as st

from dinomix.data import TestSet
from dinomix.datasets.layouts import read_csv
from dinomix.localization.photos import Position
from dinomix.plumbing.positions import in_one_plane, plane_of_degrees, read_utm, read_zones

# Spots a few metres apart, on both sides of what divides UTM.
BORDERS = {
    "zones 32 and 33": [(45.0, 11.99998), (45.0, 12.00002)],
    "west of Greenwich, 29 and 30": [(45.0, -6.00002), (45.0, -5.99998)],
    "Greenwich": [(51.48, -0.00002), (51.48, 0.00002)],
    "the equator": [(-0.00001, 9.0), (0.00002, 9.0)],
    "the equator and two zones": [(-0.00001, 11.99999), (0.00001, 12.00001)],
    "Norway's 31 and 32": [(60.0, 2.99996), (60.0, 3.00004)],
    "Norway's end": [(63.99998, 5.0), (64.00002, 5.0)],
    "Svalbard's 31 and 33": [(78.0, 8.9999), (78.0, 9.0001)],
    "Svalbard's 33 and 35": [(78.0, 20.9999), (78.0, 21.0001)],
    "the date line": [(-17.0, 179.99998), (-17.0, -179.99998)],
    "bands M to N do not matter, nor T to U": [(47.99999, 7.0), (48.00001, 7.0)],
    "84 degrees north": [(83.99999, 7.0), (84.0, 7.0)],
}


def metres_in_space(one, other) -> float:
    return Position.from_degrees(*one).metres_to(Position.from_degrees(*other))


@pytest.mark.parametrize("border", BORDERS)
def test_a_border_divides_nothing(tmp_path, border):
    """In names as the field's formatter writes them, and in CSV files of degrees and of metres."""
    files = {"latitude,longitude": [], "utm_east,utm_north,utm_zone": []}
    for side, (lat, lon) in zip(("database", "queries"), BORDERS[border], strict=True):
        east, north, zone, letter = utm.from_latlon(lat, lon)
        name = f"{side}/@{east:010.2f}@{north:010.2f}@{zone:02d}@{letter}@{lat}@{lon}@@@@@@@@@.jpg"
        (tmp_path / side).mkdir()
        (tmp_path / name).touch()
        values = (f"{lat},{lon}", f"{east},{north},{zone}{letter}")
        for columns, row in zip(files, values, strict=True):
            files[columns].append(tmp_path / f"{columns}-{side}.csv")
            files[columns][-1].write_text(f"image,{columns}\n{name},{row}")
    apart = metres_in_space(*BORDERS[border])
    assert 1 < apart < 12
    for test in TestSet(tmp_path), *(read_csv(*pair) for pair in files.values()):
        found = np.linalg.norm(test.database_utm - test.query_utm)
        assert found == pytest.approx(apart, rel=0.01, abs=0.1)  # utm is good to 0.1 m


@pytest.mark.parametrize("other", ["32T", "31H", "55K"])
def test_towns_of_equal_metres_in_two_zones_are_two_towns(other):
    metres = np.array([[400_000.0, 5e6]] * 3)
    plane = in_one_plane(metres, ["31T", other, "31T"], "abc")
    assert np.linalg.norm(plane[1] - plane[0]) > 100_000
    np.testing.assert_array_equal(plane[[0, 2]], metres[:2])  # the first zone stays as it is


def test_cities_around_the_world_stay_as_they_are_but_apart():
    """As in the validation set of MSLS: Copenhagen in zone 32, its neighbour's, San Francisco."""
    corners = np.array([[[720_000.0, 6_175_000.0]], [[550_000.0, 4_180_000.0]]])
    cph, sf = corners + np.random.default_rng(0).uniform(0, 5000, (2, 20, 2))
    plane = in_one_plane(np.concatenate([cph, sf]), ["32 U"] * 20 + ["10 S"] * 20, range(40))
    np.testing.assert_array_equal(plane[:20], cph)
    np.testing.assert_allclose(plane[20:] - plane[20], sf - sf[0], atol=1e-6)
    assert np.linalg.norm(plane[:20, None] - plane[20:], axis=-1).min() > 1e6


spot = st.tuples(st.floats(-79, 83), st.floats(-180, 180))


@given(spot, st.lists(st.tuples(st.floats(-0.002, 0.002), st.floats(-8.9, 8.9)), min_size=1))
def test_near_spots_are_as_far_apart_as_on_the_earth(first, steps):
    """Wherever they lie in what one plane holds, around any first spot."""
    lat, lon = first
    spots = [first]
    for north, east in steps:
        longitude = (lon + east + 180) % 360 - 180
        near = (longitude + 0.0002 + 180) % 360 - 180
        spots += [(lat, longitude), (lat + north, near)]
    try:
        plane = plane_of_degrees(np.array(spots), spots)
    except ValueError as error:  # a gap, and a part of it on either side
        assert "too far for one plane" in str(error)
        return
    for i in range(1, len(spots), 2):
        found = np.linalg.norm(plane[i] - plane[i + 1])
        assert found == pytest.approx(metres_in_space(*spots[i : i + 2]), rel=0.023, abs=0.01)


def test_what_no_plane_holds_is_refused():
    route = np.stack([np.full(30, 50.0), np.linspace(-5, 15, 30)], axis=1)
    with pytest.raises(
        ValueError, match=r"^29 is 20\.0 degrees of longitude from 0, too far .*region"
    ):
        plane_of_degrees(route, range(30))
    ends = plane_of_degrees(route[[0, 29]], "ab")  # with nothing between, two regions
    assert ends[1, 0] - ends[0, 0] > 5e6
    with pytest.raises(ValueError, match="latitude out of range"):
        plane_of_degrees(np.array([[84.1, 5.0]]), "a")


@pytest.mark.parametrize(
    ("text", "north", "expected"),
    [
        *(("31T", 5e6, 31), ("31 T", 5e6, 31), ("05t", 5e6, 5), ("5N", 1, 5)),
        *(("56J", 6e6, -56), ("1C", 1e6, -1), ("60M", 9e6, -60)),
        *(("54S", 3.95e6, 54), ("56S", 6.25e6, -56)),  # Tokyo's band, Sydney's half
        *(("31", 5e6, 0), ("31I", 5e6, 0), ("31A", 5e6, 0)),
        *((text, 5e6, 0) for text in ("", "0T", "61T", "x T", "12 3", "31 .jpg", "-3", "\u0663T")),
    ],
)
def test_zones_and_hemispheres(text, north, expected):
    assert read_zones([text], np.array([north])).tolist() == [expected]


@pytest.mark.parametrize(
    "tails", [("31@T@", "@@"), ("31@T@", "31@U@"), ("31@@", "31@@"), ("", "@"), ("7@1@", "8@2@")]
)
def test_where_no_second_zone_is_named_metres_stay(tails):
    paths = [Path(f"@400000@5000000@{tail}.jpg") for tail in tails]
    assert read_utm(paths).tolist() == [[400_000, 5e6]] * 2


def test_of_several_zones_each_image_needs_its_own():
    for zones in (
        *(["31@T@", "32@T@", odd] for odd in ("@@", "31@@", "31@I@", "x@T@", "7@1@")),
        *(["31@T@", "31@@"], ["32@@", "31@@"], ["31@T@", "31@H@", "@"]),
    ):
        names = [f"@400000@5000000@{zone}x.jpg" for zone in zones]
        lacking = next(zone for zone in zones if zone not in ("31@T@", "32@T@", "31@H@"))
        with pytest.raises(ValueError, match=rf"{lacking}x\.jpg has '.*such as 31T"):
            read_utm(list(map(Path, names)))


LINE = [f"@0@{2.4 * i:07.1f}@@@@@{i}@.jpg" for i in range(9)]  # frames, as formatters place them


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["@120.43912@36.59905@51@S@.jpg"], r"out of range \(1,000 to .*@120\.43912@36\.59905"),
        (["@120.43912@36.59905@.jpg", "@120.4@36.6@.jpg"], r"@120\.43912@.*look like degrees"),
        (["@400000@5e6@.jpg", "@9.4@45.1@.jpg"], r"^@9\.4@45\.1@\.jpg: .* look like degrees"),
        (["@400000@5e6@31@T@.jpg", "@9.4@45.1@.jpg"], r"^@9\.4@45\.1@\.jpg: .* look like degrees"),
        (["@36.59905@-120.43912@@@.jpg", "@0@0@.jpg", "@36.6@-120.4@.jpg"], "look like degrees"),
        (["@400000@-5@31@T@.jpg"], r"of 1 images are out of range .* at \(400000, -5\)"),
        (["@400000@5000000@31@T@.jpg", "@9e6@5000000@31@T@.jpg"], "of 1 images .*@9e6"),
        (["@1009000@5e6@31@T@.jpg", "@400000@5e6@32@T@.jpg"], "several zones: .* of 1 images"),
        (LINE, None),
        (["@12.5@34.5@.jpg", "@312.5@34.5@.jpg"], None),  # a map of one's own
        (["@1009000@5000000@31@T@.jpg"], None),  # made-up places in a row
    ],
)
def test_degrees_and_impossible_metres_are_refused(names, complaint):
    paths = list(map(Path, names))
    if complaint is None:
        expected = [[float(field) for field in name.split("@")[1:3]] for name in names]
        assert read_utm(paths).tolist() == expected
    else:
        with pytest.raises(ValueError, match=complaint):
            read_utm(paths)
