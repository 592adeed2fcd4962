"""Test sets and training places, against plain loops; and what is wrong with either is named."""

import csv
import random
import re
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
import utm
from torch.utils.data import DataLoader

from dinomix.data import PlaceDataset, TestSet
from dinomix.images import (
    AUGMENTATIONS,
    Normalise,
    UnreadableImageError,
    read_image,
    train_transform,
)
from dinomix.plumbing.positions import read_utm
from tests.conftest import SHARED, write_image, write_places, write_testset
from tests.test_images import MEAN, STD, the_old_way

TRANSFORM = train_transform(28)


def write_table(root: Path, city: str, rows: list[dict], folder: str | None = None) -> None:
    """A city as GSV-Cities publishes it, its images empty files."""
    for name in ("Dataframes", f"Images/{folder or city}"):
        (root / name).mkdir(parents=True, exist_ok=True)
    with (root / "Dataframes" / f"{city}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        (root / "Images" / (folder or city) / published_name(row)).touch()


def published_name(row: dict) -> str:
    """As the README of GSV-Cities describes it, piece by piece."""
    zeros = {"place_id": 7, "year": 4, "month": 2, "northdeg": 3}
    order = ("city_id", "place_id", "year", "month", "northdeg", "lat", "lon", "panoid")
    return "_".join(str(row[key]).zfill(zeros.get(key, 0)) for key in order) + ".jpg"


def made_rows(city: str, places: int, seed: int) -> list[dict]:
    """Rows in mixed order, with coordinates of many lengths."""
    draw = random.Random(seed)
    rows = [
        {
            "place_id": place,
            "year": draw.randint(2007, 2022),
            "month": draw.randint(1, 12),
            "northdeg": draw.choice([0, 7, 45, 359, 584]),
            "city_id": city,
            "lat": draw.choice(["48.79733778544615", "48.80", "-0.5", "7", "1e1"]),
            "lon": draw.choice(["2.231461206488333", "-71.069", "180", "-0.0895151"]),
            "panoid": f"-x_{place}-{number}_",
        }
        for place in draw.sample(range(300_000), places)
        for number in range(draw.randint(1, 6))
    ]
    draw.shuffle(rows)
    return rows


def test_a_plain_loop_finds_the_same_places(tmp_path):
    cities = {"Rome": made_rows("Rome", 40, 1), "Oslo": made_rows("OSL", 30, 2)}
    for city, rows in cities.items():
        write_table(tmp_path, city, rows)
    expected = defaultdict(list)
    for number, city in enumerate(sorted(cities)):
        for row in cities[city]:
            path = f"Images/{city}/{published_name(row)}"
            expected[number, row["place_id"]].append(path)
    enough = {key: paths for key, paths in sorted(expected.items()) if len(paths) >= 3}
    places = PlaceDataset(tmp_path, images_per_place=2, min_images=3)
    assert [[p.decode() for p in paths] for paths in places.places] == list(enough.values())
    assert places.city_of.tolist() == [number for number, _ in enough]
    assert places.paths == [tmp_path / path for paths in enough.values() for path in paths]


def test_made_data_keep_their_fingerprints_and_draws(places_root):
    """Runs are named by them: recorded when names were still made row by row."""
    assert PlaceDataset(places_root).fingerprint == "fda820f6a2eb11ef"
    places = PlaceDataset(places_root, images_per_place=2, seed=1)
    assert places.fingerprint == "13f80c7e99ba1de5"
    places.set_epoch(3)
    drawn = [[path.stem.rsplit("_", 1)[1] for path in places.draw(i)] for i in (0, 5)]
    assert drawn == [["p0i1", "p0i0"], ["p5i3", "p5i2"]]
    write_places(places_root, places=3, city="Another")
    both = PlaceDataset(places_root, images_per_place=3)
    assert both.fingerprint == "1fa262c64ad5c1e5"
    rest, val = both.hold_out(0.3)
    assert (rest.fingerprint, val.fingerprint) == ("19f80107091830dc", "b5b56fe1dec34933")


def test_all_names_lie_in_one_array(places_root):
    """Thousands of small arrays and strings would be copied into every loading process."""
    places = PlaceDataset(places_root)
    (whole,) = {id(paths.base): paths.base for paths in places.places}.values()
    assert whole.nbytes == sum(paths.nbytes for paths in places.places)


@pytest.mark.parametrize(
    ("written", "row"),
    [
        ("48.400000_2.350000", "48.4,2.35"),  # as pandas saves a table anew
        ("48.4_2.35", "48.400000,2.350"),
        ("48_-0.00001", "48.0,-1e-05"),
        ("48.79733778544615_2.2", "48.797337785446146,2.2"),  # and its last digit
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".JPG", ".webp"])
def test_numbers_and_suffixes_may_be_written_otherwise(tmp_path, written, row, suffix):
    lat, lon = row.split(",")
    rows = [row | {"lat": lat, "lon": lon} for row in made_rows("PRS", 1, 0)[:2]]
    write_table(tmp_path, "Paris", rows)
    before = sorted((tmp_path / "Images" / "Paris").iterdir())
    assert sorted(PlaceDataset(tmp_path, images_per_place=2).paths) == before
    name = before[0].with_suffix(suffix).name.replace(f"{lat}_{lon}", written)
    image = before[0].rename(before[0].with_name(name))
    assert sorted(PlaceDataset(tmp_path, images_per_place=2).paths) == sorted([image, before[1]])
    image.rename(image.with_stem(image.stem + "x"))
    with pytest.raises(FileNotFoundError, match="1 images that"):
        PlaceDataset(tmp_path, images_per_place=2)


def test_what_a_row_names_to_the_letter_comes_first(places_root):
    first, other, *_ = expected = PlaceDataset(places_root).paths
    shutil.copy(first, first.with_suffix(".JPG"))
    other.rename(other.with_suffix(".png"))
    assert PlaceDataset(places_root).paths == [first, other.with_suffix(".png"), *expected[2:]]


def test_images_may_lie_in_a_folder_named_by_city_id(tmp_path):
    """As the code of GSV-Cities looks for them; its README shows a folder named as the CSV."""
    write_table(tmp_path, "Paris", made_rows("PRS", 5, 0), folder="PRS")
    for folder in ("PRS", "Paris"):
        (tmp_path / "Images" / "PRS").rename(tmp_path / "Images" / folder)
        places = PlaceDataset(tmp_path, images_per_place=2)
        assert {path.parent.name for path in places.paths} == {folder}


def test_reads_the_published_layout(places_root):
    places = PlaceDataset(places_root, images_per_place=3)
    assert len(places) == 6 and places.cities == ["Madeup"]
    assert "6 places, 24 images" in repr(places)
    images, label = places.with_transform(TRANSFORM)[4]
    assert images.shape == (3, 3, 28, 28) and images.dtype == torch.uint8
    assert label.item() == 4 and label.dtype == torch.int64
    assert all("_0000004_" in path.name for path in places.draw(4))


def test_places_of_two_cities_keep_apart(places_root):
    write_places(places_root, places=3, city="Other")
    both = PlaceDataset(places_root)
    assert len(both) == 9  # both cities count their places from 0
    assert len(PlaceDataset(places_root, cities=["Other"])) == 3
    assert {path.parent.name for path in both.draw(6)} == {"Other"}


def test_draws_depend_on_seed_epoch_and_index_only(places_root):
    places = PlaceDataset(places_root, images_per_place=2).with_transform(TRANSFORM)
    state = torch.get_rng_state()
    first = [places[i][0] for i in range(6)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)  # the global random state must not matter, nor the order of asking
    again = [places[i][0] for i in reversed(range(6))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    loader = DataLoader(places, batch_size=2, num_workers=2)
    in_workers = torch.cat([images for images, _ in loader])
    assert torch.equal(in_workers, torch.stack(first))
    places.set_epoch(1)
    assert not torch.equal(places[0][0], first[0])
    other_seed = PlaceDataset(places_root, images_per_place=2, seed=1).with_transform(TRANSFORM)
    assert not all(torch.equal(other_seed[i][0], first[i]) for i in range(6))


def test_images_of_a_draw_differ_and_all_come_up(places_root):
    places = PlaceDataset(places_root, images_per_place=2)
    seen = set()
    for epoch in range(20):
        places.set_epoch(epoch)
        chosen = places.draw(0)
        assert len(set(chosen)) == 2
        seen |= set(chosen)
    assert len(seen) == 4


def test_small_places_are_left_out(places_root):
    table = places_root / "Dataframes" / "Madeup.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:-2]) + "\n")  # the last place keeps 2 of its 4 images
    assert len(PlaceDataset(places_root, images_per_place=4)) == 5
    assert len(PlaceDataset(places_root, images_per_place=2)) == 6


def test_fingerprint_names_content_not_location(places_root, tmp_path):
    places = PlaceDataset(places_root)
    moved = tmp_path / "elsewhere"
    shutil.copytree(places_root, moved)
    assert PlaceDataset(moved).fingerprint == places.fingerprint
    assert PlaceDataset(places_root, images_per_place=2).fingerprint != places.fingerprint
    assert PlaceDataset(places_root, seed=1).fingerprint != places.fingerprint
    numpy = PlaceDataset(places_root, images_per_place=np.int64(4), seed=np.int64(0))
    assert numpy.fingerprint == places.fingerprint


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({"root": "nowhere"}, FileNotFoundError, "GSV-Cities layout"),
        ({"cities": ["Atlantis"]}, FileNotFoundError, "Atlantis.*Madeup"),
        ({"cities": []}, FileNotFoundError, "no CSV"),
        ({"cities": ["Madeup", "Madeup"]}, ValueError, "twice"),
        ({"images_per_place": 2, "min_images": 1}, ValueError, "min_images is 1"),
        ({"images_per_place": 5}, ValueError, "none of the 6 places"),
        *(
            ({"images_per_place": k}, ValueError, f"images_per_place is {k!r}; .* from 2 on.* loss")
            for k in (0, 1, "4", 4.0, True)
        ),
        ({"min_images": 4.0}, ValueError, "min_images is 4.0; .*whole number"),
        ({"seed": -1}, ValueError, "seed is -1; .*whole number"),
    ],
)
def test_what_cannot_be_asked_for(places_root, options, error, complaint):
    with pytest.raises(error, match=complaint):
        PlaceDataset(**({"root": places_root} | options))


def test_images_without_a_transform_are_refused(places_root):
    with pytest.raises(ValueError, match="with_transform"):
        PlaceDataset(places_root)[0]


@pytest.fixture
def table(places_root):
    return places_root / "Dataframes" / "Madeup.csv"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["no BOM", "BOM"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_other_bytes_of_a_table_are_the_same_places(places_root, table, mark, end):
    expected = PlaceDataset(places_root).fingerprint
    lines = [["x", *reversed(line.split(","))] for line in table.read_text().splitlines()]
    text = "\n".join(", ".join(line) for line in lines)  # columns in another order, and one more
    table.write_bytes(mark + text.encode().replace(b"\n", end))
    assert PlaceDataset(places_root).fingerprint == expected


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("northdeg", "heading", r"lacks the columns \['northdeg'\]"),
        ("year", "place_id", r"lacks the columns \['year'\]"),
        (",", "\t", "lacks the columns .* separated by commas, its header has 'place_id.tyear.t"),
        ("p0i1", "p0i1,x", "row 3: expected 8 fields"),
        (",3.001,p0i1", "", "row 3: expected 8 fields"),
        (",3.002,", ",east,", "row 4: lon is 'east', .*and so in 5 more rows"),
        ("p0i1", "\udce9", "line 3 is in another encoding"),
    ],
)
def test_tables_of_another_form_are_named(places_root, table, old, new, complaint):
    table.write_text(table.read_text().replace(old, new), errors="surrogateescape")
    with pytest.raises(ValueError, match=rf"Madeup\.csv.* {complaint}"):
        PlaceDataset(places_root)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        # 2^53 + 1 would be rounded in float64; texts that are no numbers: tests/plumbing
        *(("place_id", value, "a whole number") for value in ("", "nan", "1.5", 2**53 + 1, "1_0")),
        *(("year", value, "a whole number") for value in ("MMXX", "True")),
        *(("month", "inf", "a whole number"), ("northdeg", "north", "a whole number")),
        *(("lat", value, "a number from -90 to 90") for value in ("", "90.0001", "45,0")),
        *(("lon", value, "a number from -180 to 180") for value in ("-180.5", "3.0E", "None")),
        *(("panoid", value, "part of a file name") for value in ("", "../../x", "a\\b")),
        *(("city_id", value, "part of a file name") for value in ("", "..", "/etc", "a/b")),
    ],
)
def test_a_row_that_cannot_be_is_named(places_root, table, column, value, expected):
    lines = [line.split(",") for line in table.read_text().splitlines()]
    lines[3][lines[0].index(column)] = f'"{value}"'
    table.write_text("\n".join(",".join(line) for line in lines))
    with pytest.raises(ValueError) as error:
        PlaceDataset(places_root)
    message = str(error.value)
    assert message.startswith(f"{table}, row 4: {column} is {str(value)!r}, expected {expected}")
    assert "more rows" not in message


def test_doubles_are_named(places_root, table):
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[3], lines[3], lines[7]]))
    with pytest.raises(ValueError, match=r"3 rows .*p0i2\.jpg in rows \[4, 26, 27\]"):
        PlaceDataset(places_root)


def test_links_out_of_the_folder_are_followed(places_root, tmp_path):
    """`prepare` makes such links; what a CSV says never leads out."""
    expected = PlaceDataset(places_root).fingerprint
    image = next((places_root / "Images" / "Madeup").iterdir())
    image.rename(tmp_path / "elsewhere.jpg")
    image.symlink_to(tmp_path / "elsewhere.jpg")
    assert PlaceDataset(places_root).fingerprint == expected


def test_missing_images_are_reported_together(places_root):
    images = sorted((places_root / "Images" / "Madeup").iterdir())
    for path in images[:2]:
        path.unlink()
    write_places(places_root, places=3, city="Other")
    shutil.rmtree(places_root / "Images" / "Other")
    with pytest.raises(FileNotFoundError, match="14 images") as error:
        PlaceDataset(places_root)
    for path in images[:2]:
        assert path.name in str(error.value)
    assert "Images/Other/Other_" in str(error.value)


def test_places_can_be_held_out_to_validate_on(tmp_path):
    places = PlaceDataset(write_places(tmp_path / "p", places=10, images=3), images_per_place=2)
    rest, val = places.hold_out(share=0.3)
    assert len(rest) == 7 and len(places) == 10
    assert len(val.database) == 3 and len(val.queries) == 6
    trained = {path.decode() for paths in rest.places for path in paths}
    assert len(trained) == 21
    held = {str(path.relative_to(places.root)) for path in (*val.database, *val.queries)}
    assert len(held) == 9 and not trained & held
    assert rest.fingerprint != places.fingerprint
    again, same = places.hold_out(share=0.3)
    assert (again.fingerprint, same.fingerprint) == (rest.fingerprint, val.fingerprint)
    for path, (east, north) in zip(val.database, val.database_utm, strict=True):
        lat, lon = (float(v) for v in path.name.split("_")[5:7])
        assert (lat, lon) == pytest.approx(utm.to_latlon(east, north, 31, "T"), abs=1e-6)


def test_queries_held_out_can_be_parts_of_their_images(tmp_path):
    places = PlaceDataset(write_places(tmp_path / "p", places=10, images=3), images_per_place=2)
    _, whole = places.hold_out(share=0.3)
    _, val = places.hold_out(share=0.3, crops=tmp_path / "crops")
    before = {path: path.read_bytes() for path in val.queries}
    assert val.database == whole.database and val.fingerprint != whole.fingerprint
    for cut, path in zip(val.queries, whole.queries, strict=True):
        small, large = read_image(cut), read_image(path)
        share = small.width * small.height / (large.width * large.height)
        assert cut.name == path.name and 0.25 < share <= 1
    places.hold_out(share=0.6, crops=tmp_path / "other")  # more queries, in another order
    again = places.hold_out(share=0.3, crops=tmp_path / "other")[1]
    assert [path.read_bytes() for path in again.queries] == list(before.values())
    assert len({read_image(path).size for path in val.queries}) > 1


def test_cities_around_the_world_are_held_out_in_zones_of_their_own(tmp_path):
    corners = {"Oslo": ("59.91", "10.75"), "Rio": ("-22.9", "-43.2"), "Osaka": ("34.69", "135.5")}
    for city, (lat, lon) in corners.items():
        rows = made_rows(city, 4, 0)
        for i, row in enumerate(rows):  # 0.001 degrees to the north are 111 m
            row |= {"place_id": i // 2, "lat": f"{float(lat) + 0.001 * (i % 2)}", "lon": lon}
        write_table(tmp_path, city, rows)
    places = PlaceDataset(tmp_path, images_per_place=2)
    rest, val = places.hold_out(share=0.9)
    assert rest.city_of.shape == (len(rest),)
    apart = np.linalg.norm(val.database_utm - val.query_utm, axis=1)
    assert apart == pytest.approx(111, abs=1)
    city = np.array([path.parent.name for path in val.database])
    distance = np.linalg.norm(val.database_utm[:, None] - val.query_utm[None], axis=2)
    assert len(set(city)) == 3 and distance[city[:, None] != city].min() > 1e6


@pytest.mark.parametrize("share", [0.0, 0.01, 1.0, 2.0, -1.0])
def test_nothing_on_one_side_is_refused(places_root, share):
    with pytest.raises(ValueError, match=f"share is {share}"):
        PlaceDataset(places_root).hold_out(share)


@pytest.mark.parametrize("augment", sorted(AUGMENTATIONS.keys() - {"crops"}))
def test_a_batch_of_bytes_is_normalised_to_the_bits_of_single_images(places_root, augment):
    places, added = PlaceDataset(places_root), AUGMENTATIONS[augment]
    one_by_one = places.with_transform(lambda image: the_old_way(image, (42, 28), added))
    loader = DataLoader(places.with_transform(train_transform((42, 28), augment)), 6, num_workers=2)
    (pixels, _) = next(iter(loader))  # (6, 4, 3, 42, 28)
    expected = torch.stack([one_by_one[i][0] for i in range(6)])
    assert torch.equal(Normalise(MEAN, STD)(pixels.flatten(0, 1)), expected.flatten(0, 1))


def test_a_damaged_training_image_is_named(places_root):
    places = PlaceDataset(places_root).with_transform(TRANSFORM)
    broken = places.draw(2)[1]
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(UnreadableImageError) as error:
        list(DataLoader(places, 2, num_workers=1))
    assert str(broken) in str(error.value)


@pytest.mark.skipif(not (SHARED / "realplaces").exists(), reason="no real photographs here")
def test_real_photographs():
    places = PlaceDataset(SHARED / "realplaces" / "gsv_layout", images_per_place=2)
    assert len(places) == 404
    assert places.with_transform(TRANSFORM)[0][0].shape == (2, 3, 28, 28)
    test = TestSet(SHARED / "realplaces" / "sped_test")
    assert len(test.database) == len(test.queries) == 203


# ------------------------------------------------------------------------------- test sets


def test_reads_the_utm_layout_with_conditions(test_root):
    test = TestSet(test_root)
    assert test.name == "city-test" and len(test.database) == 5 and len(test.queries) == 10
    assert test.conditions == ["day"] * 5 + ["night"] * 5
    np.testing.assert_array_equal(test.database_utm[2], [400200, 5000000])
    np.testing.assert_array_equal(test.query_utm[7], [400205, 5000000])
    assert "conditions: day, night" in repr(test)


def test_one_condition_alone(tmp_path):
    root = write_testset(tmp_path / "city", conditions=("night",))
    write_testset(tmp_path / "city", places=3)  # and `queries`
    everything = TestSet(root)
    for condition, folder, count in (("night", "queries_night", 5), ("", "queries", 3)):
        test = TestSet(root, condition=condition)
        chosen = [i for i, each in enumerate(everything.conditions) if each == condition]
        assert test.queries == [everything.queries[i] for i in chosen] and len(chosen) == count
        np.testing.assert_array_equal(test.query_utm, everything.query_utm[chosen])
        assert {path.parent.name for path in test.queries} == {folder}
        assert test.conditions == [""] * count and test.database == everything.database
    with pytest.raises(FileNotFoundError, match=r"no query folder; expected `queries_nigh`"):
        TestSet(root, condition="nigh")


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
        ({"unit": "miles"}, "'miles'.*frames"),
        ({"conditions": ["day", "night"]}, "2 conditions for 1 queries"),
        ({"query_utm": None}, "one side only"),
        ({"query_utm": np.zeros((2, 2))}, r"should be \(1, 2\)"),
        ({"query_utm": np.array([[0, np.nan]])}, r"q\.jpg: \[0\.0, nan\]"),
    ],
)
def test_lists_that_do_not_fit(changes, complaint):
    sides = {"database": [Path("a.jpg")], "queries": [Path("q.jpg")]}
    positions = {"database_utm": np.zeros((1, 2)), "query_utm": np.zeros((1, 2))}
    with pytest.raises(ValueError, match=complaint):
        TestSet.from_lists("x", **(sides | positions | changes))


def test_missing_and_empty_folders_are_named(test_root, tmp_path):
    lonely = write_testset(tmp_path / "lonely", conditions=())
    for root, split, complaint in [
        (tmp_path / "nowhere", "test", "no folder .*nowhere.*expected"),
        (test_root, "val", "holds no database.*expected"),
        (lonely, "test", "no query folder"),
    ]:
        with pytest.raises(FileNotFoundError, match=complaint):
            TestSet(root, split=split)
    (test_root / "images" / "test" / "queries_rain").mkdir()
    with pytest.raises(FileNotFoundError, match="queries_rain"):
        TestSet(test_root)


GARBAGE = ["photo.jpg", "@.jpg", "@@@.jpg", "@1.0@.jpg", "@400000.00.jpg", "@x@5000000.00@.jpg"]
GARBAGE += ["@400000.00@north@.jpg", "@4_0@5@.jpg", "@\uff14\uff10@5@.jpg", "@400 000@5@.jpg"]
GARBAGE += [f"@{value}@5@.jpg" for value in ("400,5", "0x40", "nan", "inf", "1e999", "True")]


OFF_THE_MAP = ["@1e8@5000000.00@.jpg", "@400000.00@-10000001@.jpg"]


@pytest.mark.parametrize("name", [*GARBAGE, *OFF_THE_MAP])
def test_a_name_without_coordinates_is_named(test_root, name):
    write_image(test_root / "images/test/queries_day" / name, np.random.default_rng(0))
    wrong = "out of range" if name in OFF_THE_MAP else "no coordinates"
    with pytest.raises(ValueError, match=f"{wrong}.*{re.escape(name)}"):
        TestSet(test_root)


def test_what_utm_names_may_hold():
    names = ["@1e5@2@", "x@-1.5@+2000.25@y@@", "@ 3 @4e3@  ", "@5e5@6@31@T@45.0@1.0@é @@.png"]
    names += ["@0@10000000.00@.jpg"]  # the edge of the map
    expected = [[1e5, 2], [-1.5, 2000.25], [3, 4e3], [5e5, 6], [0, 1e7]]
    assert read_utm([Path(name) for name in names]).tolist() == expected
    assert read_utm([]).shape == (0, 2)


def test_hidden_files_are_no_images(test_root):
    before = len(TestSet(test_root).database)
    image = TestSet(test_root).database[0]
    (image.parent / f".{image.stem}-0123abcd.jpg").write_bytes(b"half of an image")
    assert len(TestSet(test_root).database) == before


def test_queries_of_one_place_are_a_group(test_root):
    """In every condition; without a positive, each is its own."""
    far = min((test_root / "images" / "test" / "queries_night").iterdir())
    far.rename(far.with_name(far.name.replace("@400005", "@490005")))
    before, test = TestSet(test_root).fingerprint, TestSet(test_root)
    number = {path.name: i for i, path in enumerate(test.database)}
    expected = []
    for condition, path, at in zip(test.conditions, test.queries, test.query_utm, strict=True):
        apart = np.linalg.norm(test.database_utm - at, axis=1)
        near = test.database[apart.argmin()].name
        expected.append(near if apart.min() <= 25 else f"{condition}/{path.name}")
    assert test.groups == expected and test.fingerprint == before
    assert sum(group in number for group in test.groups) == len(test.queries) - 1


def test_groups_of_panoramas_drives_and_what_is_unlabelled():
    names = ["02-0000@", "02-0001@", "03-0000@", "a", "b", "c"]
    asked, seen = [Path(f"{name}.jpg") for name in names], [Path(f"{i}.jpg") for i in range(4)]
    east = np.array([0.0, 40, 1, 41, 42, 80])
    where = [np.stack([x, 0 * x], axis=1) for x in (np.array([0.0, 40, 40, 300]), east)]
    test = TestSet.from_lists("city", seen, asked, *where)
    # two cut-outs of one panorama at 40 m; the drives begin at one place; c is far from all
    assert test.groups == ["0.jpg", "0.jpg", "0.jpg", "1.jpg", "1.jpg", "/c.jpg"]
    assert len(set(TestSet.from_lists("city", seen, asked[3:], None, None).groups)) == 3
    places = TestSet.from_lists("p", seen, asked, where[0], where[0][[0, 1, 1, 2, 3, 3]], 0.0)
    assert places.groups[3:] == ["1.jpg", "3.jpg", "3.jpg"]
    given = TestSet.from_lists("city", seen, asked, *where, groups=list("aabbcc"))
    assert given.groups == list("aabbcc") and given.fingerprint == test.fingerprint
    with pytest.raises(ValueError, match="2 groups for 6 queries"):
        TestSet.from_lists("city", seen, asked, *where, groups=["a", "b"])
