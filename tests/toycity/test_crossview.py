"""The ground-to-aerial set: layout, tiles, what is refused."""

import csv
import os

import numpy as np
import pytest

from dinomix.data import PlaceDataset, TestSet
from dinomix.evaluation import positives
from tests.toycity.conftest import QUIET, jpeg, mtimes
from toycity import Camera, CrossviewConfig, rerender, write_crossview
from toycity.config import TRAIN_MIX
from toycity.crossview import FLIGHTS, TILE, tile_for

CROSSVIEW = CrossviewConfig.small(
    image_size=(24, 32), train_places=3, images_per_place=4, val_places=4, test_places=5
)


@pytest.fixture(scope="module")
def crossview(tmp_path_factory):
    return write_crossview(tmp_path_factory.mktemp("crossview"), CROSSVIEW, **QUIET)


def test_rerendered_photos_of_both_kinds_of_a_crossview_set(crossview):
    paths = sorted(crossview.rglob("*.jpg"))[::9]
    photos = rerender(crossview, [os.path.relpath(path) for path in paths])
    assert all(jpeg(photo) == path.read_bytes() for photo, path in zip(photos, paths, strict=True))


def test_crossview_places_have_as_many_photos_as_tiles(crossview):
    places = PlaceDataset(crossview / "train", images_per_place=4)
    assert len(places) == 2 * CROSSVIEW.train_places
    for table in (crossview / "train" / "Dataframes").iterdir():
        with table.open() as file:
            rows = list(csv.DictReader(file))
        for place in range(CROSSVIEW.train_places):
            own = [row for row in rows if int(row["place_id"]) == place]
            tiles = [row for row in own if row["panoid"].startswith(TILE)]
            photos = [row for row in own if row not in tiles]
            assert len(tiles) == len(photos) == 2
            # Each tile was cut for one of the photos.
            pose = ("lat", "lon", "northdeg")
            assert {tuple(t[k] for k in pose) for t in tiles} == {
                tuple(p[k] for k in pose) for p in photos
            }


@pytest.mark.parametrize("split", ["val", "test"])
def test_crossview_asks_photos_for_tiles(crossview, split):
    test = TestSet(crossview, split=split)
    assert len(test.database) == 2 * getattr(CROSSVIEW, f"{split}_places")
    assert all(f"@{TILE}@" in path.name for path in test.database)
    assert set(test.conditions) == {"day"}
    assert all(len(right) for right in positives(test.database_utm, test.query_utm, 25))
    photos = rerender(crossview, [test.database[0], test.queries[0]])
    assert np.isfinite(photos[0].depth).all()  # no sky from above
    assert photos[0].depth.min() > 150 > photos[1].depth.min()


def test_a_tile_shows_what_its_camera_sees():
    camera = Camera(100, 200, heading=90)
    px, py = np.array([25.0, 25, 50]), np.array([45.0, 0, 45])
    origins, _ = tile_for(camera, 50).rays(px, py, 50, 50)
    # The camera is 5 m above the lower edge; the top is ahead, the right edge at its right hand.
    np.testing.assert_allclose(origins[:2].T, [(100, 200), (145, 200), (100, 175)], atol=1e-4)


def test_tiles_and_photos_never_share_parked_cars():
    """Cars are drawn by the name of the condition."""
    photos = {name for name, *_ in TRAIN_MIX}
    queries = {*CrossviewConfig().val_conditions, *CrossviewConfig().test_conditions}
    assert not {name for name, _ in FLIGHTS} & (photos | queries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images_per_place": 5}, "images_per_place\n.*multiple of 2"),
        ({"extent": 0}, "extent\n.*greater than 0"),
        ({"extent": np.inf}, "extent\n.*finite"),
        ({"tests": 2}, "tests\n.*Unexpected"),
    ],
)
def test_crossview_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        CrossviewConfig(**change)


def test_crossview_refuses_a_config_with_sizes_and_foreign_folders(tmp_path):
    with pytest.raises(TypeError, match="not both"):
        write_crossview(tmp_path, CROSSVIEW, extent=40)
    (tmp_path / "images").mkdir()
    with pytest.raises(FileExistsError, match=r"no crossview\.json"):
        write_crossview(tmp_path, CROSSVIEW)


def test_a_finished_set_is_left_alone_and_another_refused(crossview):
    before = mtimes(crossview)
    write_crossview(crossview, CROSSVIEW)
    with pytest.raises(FileExistsError, match=r"with extent 50\.0 instead of 40\.0:"):
        write_crossview(crossview, **(vars(CROSSVIEW) | {"extent": 40.0}))
    assert mtimes(crossview) == before
