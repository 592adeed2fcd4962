import shutil

import pytest
import torch
import utm
from conftest import SHARED, write_places
from torch.utils.data import DataLoader

from dinomix.datasets import PlaceDataset
from dinomix.images import train_transform

TRANSFORM = train_transform(28, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_reads_the_published_layout(places_root):
    places = PlaceDataset(places_root, images_per_place=3)
    assert len(places) == 6 and places.cities == ["Madeup"]
    assert "6 places, 24 images" in repr(places)
    images, label = places.with_transform(TRANSFORM)[4]
    assert images.shape == (3, 3, 28, 28) and images.dtype == torch.float32
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
    first = [places[i][0] for i in range(6)]
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


def test_draws_leave_the_global_random_state_alone(places_root):
    places = PlaceDataset(places_root).with_transform(TRANSFORM)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    places[0]
    assert torch.equal(torch.rand(1), expected)


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
    with pytest.raises(ValueError, match=r"none of the 6 places .* has 5 images"):
        PlaceDataset(places_root, images_per_place=5)


def test_fingerprint_names_content_not_location(places_root, tmp_path):
    places = PlaceDataset(places_root)
    moved = tmp_path / "elsewhere"
    shutil.copytree(places_root, moved)
    assert PlaceDataset(moved).fingerprint == places.fingerprint
    assert PlaceDataset(places_root, images_per_place=2).fingerprint != places.fingerprint
    assert PlaceDataset(places_root, seed=1).fingerprint != places.fingerprint


def test_wrong_folder_says_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"GSV-Cities layout.*Dataframes"):
        PlaceDataset(tmp_path)


def test_unknown_city_is_named(places_root):
    with pytest.raises(FileNotFoundError, match=r"Atlantis.*Madeup"):
        PlaceDataset(places_root, cities=["Atlantis"])


def test_missing_images_are_reported_together(places_root):
    images = sorted((places_root / "Images" / "Madeup").iterdir())
    for path in images[:2]:
        path.unlink()
    with pytest.raises(FileNotFoundError, match="2 images") as error:
        PlaceDataset(places_root)
    assert images[0].name in str(error.value) and images[1].name in str(error.value)


def test_missing_columns_and_unreadable_numbers_are_named(places_root):
    table = places_root / "Dataframes" / "Madeup.csv"
    text = table.read_text()
    table.write_text(text.replace("northdeg", "heading"))
    with pytest.raises(ValueError, match=r"Madeup\.csv lacks .*northdeg"):
        PlaceDataset(places_root)
    table.write_text(text.replace("2020", "MMXX", 1))
    with pytest.raises(ValueError, match=r"Madeup\.csv .*MMXX"):
        PlaceDataset(places_root)


def test_fewer_images_than_asked_for_is_refused(places_root):
    with pytest.raises(ValueError, match="min_images is 1"):
        PlaceDataset(places_root, images_per_place=2, min_images=1)


def test_images_without_a_transform_are_refused(places_root):
    with pytest.raises(ValueError, match="with_transform"):
        PlaceDataset(places_root)[0]


@pytest.mark.skipif(not (SHARED / "realplaces").exists(), reason="no real photographs here")
def test_real_photographs():
    places = PlaceDataset(SHARED / "realplaces" / "gsv_layout", images_per_place=2)
    assert len(places) == 404
    assert places.with_transform(TRANSFORM)[0][0].shape == (2, 3, 28, 28)


def test_places_can_be_held_out_to_validate_on(tmp_path):
    places = PlaceDataset(write_places(tmp_path / "p", places=10, images=3), images_per_place=2)
    rest, val = places.hold_out(share=0.3)
    assert len(rest) == 7 and len(places) == 10
    assert len(val.database) == 3 and len(val.queries) == 6
    trained = {path for paths in rest.places for path in paths}
    held = {str(path.relative_to(places.root)) for path in (*val.database, *val.queries)}
    assert len(held) == 9 and not trained & held
    assert rest.fingerprint != places.fingerprint
    again, same = places.hold_out(share=0.3)
    assert (again.fingerprint, same.fingerprint) == (rest.fingerprint, val.fingerprint)


def test_held_out_coordinates_are_utm(tmp_path):
    places = PlaceDataset(write_places(tmp_path / "p", places=10, images=2), images_per_place=2)
    _, val = places.hold_out(share=0.5)
    for path, (east, north) in zip(val.database, val.database_utm, strict=True):
        lat, lon = (float(v) for v in path.name.split("_")[5:7])
        assert (lat, lon) == pytest.approx(utm.to_latlon(east, north, 31, "T"), abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.01, 1.0, 2.0, -1.0])
def test_nothing_on_one_side_is_refused(places_root, share):
    with pytest.raises(ValueError, match=f"share is {share}"):
        PlaceDataset(places_root).hold_out(share)
