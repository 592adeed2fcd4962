"""Maps: read back as other programs would, and drawings measured with a ruler."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import utm

from dinomix.data import TestSet
from dinomix.datasets.layouts import read_csv
from dinomix.evaluation import retrieve_described
from dinomix.localization import Position, localize, write_gallery, write_map
from dinomix.localization.maps import SIZE, Spot, draw
from tests.conftest import write_image
from tests.localization.conftest import find

KML = "{http://www.opengis.net/kml/2.2}"


def features(result, file):
    """Of a GeoJSON file: kind, [longitude, latitude] or None, properties."""
    found = json.loads(write_map(result, file).read_text("utf-8"))
    assert found["type"] == "FeatureCollection"
    for each in found["features"]:
        assert each["type"] == "Feature"
        assert each["geometry"] is None or each["geometry"]["type"] == "Point"
        at = each["geometry"] and each["geometry"]["coordinates"]
        yield each["properties"].pop("kind"), at, each["properties"]


@pytest.fixture
def found(model, root, tmp_path):
    """A query with a truth and a name full of what XML must escape, and one without a truth."""
    rng = np.random.default_rng(9)
    write_image(truth := tmp_path / "q" / "@400023.00@5000040.00@31@T@<&\"'\x01@.jpg", rng)
    write_image(other := tmp_path / "q" / "other.jpg", rng)
    return find(model, root, [truth, other], k=7)


def test_geojson(found, tmp_path):
    spots = list(features(found, tmp_path / "new" / "a.geojson"))
    matches = ["match"] * 7
    assert [kind for kind, *_ in spots] == ["estimate", "truth", *matches, "estimate", *matches]
    rows = iter(found.matches.to_dict("records"))
    truth = np.array([400_023.0, 5_000_040.0])
    for kind, at, said in spots:
        if kind == "match":
            row = next(rows)
            assert {key: said[key] for key in ("query", "image", "rank", "similarity")} == {
                key: row[key] for key in ("query", "image", "rank", "similarity")
            }
            if row["utm_east"] != row["utm_east"]:
                assert at is None and said["metres"] is None
                continue
        longitude, latitude = at
        metres = np.array(utm.from_latlon(latitude, longitude)[:2])
        if kind == "estimate":
            place, error = metres, said["error"]
        elif kind == "truth":
            np.testing.assert_allclose(metres, truth, atol=0.02)
            assert np.linalg.norm(place - truth) == pytest.approx(error, rel=1e-3)
        else:
            assert np.linalg.norm(place - metres) == pytest.approx(said["metres"], abs=0.03)
            np.testing.assert_allclose(metres, (row["utm_east"], row["utm_north"]), atol=0.02)


def test_kml(found, tmp_path):
    page = ElementTree.parse(write_map(found, tmp_path / "a.KML")).getroot()
    folders = page.findall(f"{KML}Document/{KML}Folder")
    names = [path.replace("\x01", "\ufffd") for path in found.estimates["query"]]
    assert [folder.findtext(f"{KML}name") for folder in folders] == names
    marks = [mark for folder in folders for mark in folder.findall(f"{KML}Placemark")]
    spots = list(features(found, tmp_path / "a.geojson"))
    for mark, (kind, at, said) in zip(marks, spots, strict=True):
        order = [child.tag.removeprefix(KML) for child in mark]  # as the schema has it
        assert order == ["name", "styleUrl", "ExtendedData", "Point"][: 3 + (at is not None)]
        assert mark.findtext(f"{KML}styleUrl") == f"#{kind}"
        point = mark.findtext(f"{KML}Point/{KML}coordinates")
        assert at is None or list(map(float, point.split(","))) == at
        told = {data.get("name"): data[0].text for data in mark.iter(f"{KML}Data")}
        assert told.keys() == said.keys() and told["query"] in names


def made(kind, folder):
    """A test set of three images 30 m apart and a query beside the second, with its positions."""
    east, north = np.array([500_000.0, 500_030, 500_060, 500_031]), np.full(4, 7_000_000.0)
    latitude, longitude = utm.to_latlon(east, north, 60, northern=False)
    rng = np.random.default_rng(0)
    if kind == "names":
        for i, side in enumerate(["database"] * 3 + ["queries"]):
            write_image(folder / side / f"@{east[i]}@{north[i]}@60@J@{i}@.jpg", rng)
        return TestSet(folder), longitude, latitude
    columns = {"degrees": (latitude, longitude), "metres": (east, north, ["60J", "", "60J", ""])}
    header = {"degrees": "latitude,longitude", "metres": "utm_east,utm_north,utm_zone"}[kind]
    for name, rows in (("database", range(3)), ("queries", [3])):
        lines = [f"image,{header}"]
        for i in rows:
            write_image(folder / f"{i}.jpg", rng)
            lines.append(",".join([f"{i}.jpg", *(str(column[i]) for column in columns[kind])]))
        (folder / f"{name}.csv").write_text("\n".join(lines))
    return read_csv(folder / "database.csv", folder / "queries.csv"), longitude, latitude


@pytest.mark.parametrize("kind", ["names", "degrees", "metres"])
def test_what_retrieve_finds(kind, tmp_path):
    test, longitude, latitude = made(kind, tmp_path)
    retrieved = retrieve_described(test, np.eye(3, dtype=np.float32), np.eye(3)[[1]], 3)
    spots = list(features(retrieved, tmp_path / "a.geojson"))
    ranks = retrieved.ranked[0].tolist()
    rows = [3, *ranks]  # truth and matches
    for (_, at, _), row in zip(spots[1:], rows, strict=True):
        np.testing.assert_allclose(at, (longitude[row], latitude[row]), atol=1e-7)
    assert ranks[0] == 1 and spots[0][0] == "estimate"  # the first wins, all are 30 m apart
    np.testing.assert_allclose(spots[0][1], (longitude[1], latitude[1]), atol=1e-7)
    assert [said["image"] for *_, said in spots[2:]] == [str(test.database[row]) for row in ranks]
    metres = [abs(test.database_utm[row, 0] - test.database_utm[1, 0]) for row in ranks]
    assert [said["metres"] for *_, said in spots[2:]] == pytest.approx(metres, abs=0.05)
    assert spots[0][2]["error"] == pytest.approx(1.0, abs=0.01) and spots[0][2]["agreeing"] == 1
    lost = retrieve_described(test, np.eye(3, dtype=np.float32), np.full((1, 3), np.nan), 3)
    (_, at, said), (kind, place, _) = features(lost, tmp_path / "b.geojson")
    assert at is None and said["error"] is None and kind == "truth" and place == spots[1][1]


def test_refusals(model, tmp_path):
    rng = np.random.default_rng(0)
    write_image(tmp_path / "plan" / "@1010.00@1020.00@@@a@.jpg", rng)
    write_image(tmp_path / "q.jpg", rng)
    found = find(model, tmp_path / "plan", tmp_path / "q.jpg")
    with pytest.raises(ValueError, match=r"no position is known in degrees.* need a UTM zone"):
        write_map(found, tmp_path / "a.kml")
    with pytest.raises(ValueError, match=r"\.geojson or \.kml, not as a\.gpx"):
        write_map(found, tmp_path / "a.gpx")
    assert not list(tmp_path.glob("a.*"))
    page = write_gallery(found, tmp_path / "a.html").read_text("utf-8")
    assert page.count("<svg") == 2 and ">20 m<" in page  # a map of one's own is drawn all the same


def spot(kind, position):
    return Spot(kind, position, {"query": "q.jpg", "image": "a.jpg", "rank": 1, "similarity": 0.5})


def ruler(drawn, a, b):
    """Metres between two marks, by the scale bar."""
    pixels, text = drawn["bar"]
    number, unit = text.replace(",", "").split()
    metre = float(number) * {"m": 1, "km": 1000}[unit] / pixels
    (_, ax, ay, _), (_, bx, by, _) = (drawn["marks"][i] for i in (a, b))
    return np.hypot(ax - bx, ay - by) * metre


@pytest.mark.parametrize(
    ("a", "b", "metres"),
    [
        ((-17.0, 179.99), (-17.0, -179.99), 2 * 1113.2 * np.cos(np.radians(17))),  # the date line
        ((89.999, 0.0), (89.999, 180.0), 223.4),  # over the pole
        ((48.0, 5.999), (48.0, 6.001), 149.2),  # two UTM zones
        ((0.0, -90.0), (0.0, 90.0), 20_037_508.0),  # half of the Earth
    ],
)
def test_distances_are_true_wherever_it_is(a, b, metres):
    drawn = draw([spot("estimate", Position.from_degrees(*at)) for at in (a, b)], [], True)
    assert ruler(drawn, 0, 1) == pytest.approx(metres, rel=0.02)
    for _, x, y, _ in drawn["marks"]:
        assert 0 < x < SIZE[0] and 0 < y < SIZE[1]


def test_north_is_up_and_east_is_right():
    places = [Position.from_degrees(45, 3), Position.from_degrees(45.01, 3.01)]
    plan = [Position.from_utm(0, 0), Position.from_utm(500, 800)]
    for two in (places, plan):
        (_, x, y, _), (_, other_x, other_y, _) = draw([spot("match", p) for p in two], [], False)[
            "marks"
        ]
        assert other_x > x and other_y < y


def test_frames_lines_and_dots():
    around = [Position.from_utm(10 * i, 0) for i in range(-3000, 3000)]
    spots = [spot("estimate", Position.from_utm(0, 0)), spot("truth", Position.from_utm(90, 0))]
    near, far = (draw(spots, around, whole) for whole in (False, True))
    assert len(far["dots"]) < 8_000 and far["dots"].count("M") <= SIZE[0]
    assert near["dots"].count("M") < 20 and ruler(near, 0, 1) == pytest.approx(90, rel=0.02)
    ends = list(map(float, re.findall(r"[\d.]+", near["lines"])))
    assert ends == [coordinate for mark in near["marks"] for coordinate in mark[1:3]]
    lost = [spots[0], Spot("truth", spots[1].position, {"query": "other.jpg"})]
    assert draw(lost, [], True)["lines"] == ""  # of two queries
    earth = spot("match", Position.from_degrees(45, 3))  # of another kind than the first
    assert len(draw([*spots, earth], [earth.position], True)["marks"]) == 2


@pytest.mark.parametrize("position", [Position.from_degrees(45, 3), Position.from_utm(5, 5)])
def test_one_place_alone(position):
    drawn = draw([spot("match", position)] * 3, [position], True)
    assert {mark[1:3] for mark in drawn["marks"]} == {(SIZE[0] / 2, SIZE[1] / 2)}
    assert drawn["bar"][1] == "20 m" and 0 < drawn["bar"][0] <= SIZE[0] / 4
    assert draw([spot("match", None)], [position], True) is None


def test_a_page_of_unknown_positions_has_no_map(model, root, tmp_path):
    found = localize(model, root / "old", root / "old" / "unknown.jpg", progress=False)
    assert "<svg" not in write_gallery(found, Path(tmp_path, "g.html")).read_text("utf-8")
