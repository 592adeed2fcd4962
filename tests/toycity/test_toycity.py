"""The toy city: its layout, what its conditions change, and that photos are what they say."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
import utm
from PIL import Image

from toycity import (
    CLASSES,
    CONDITIONS,
    PRETRAIN_SEEDS,
    TEST_SEED,
    TRAIN_SEEDS,
    VAL_SEED,
    Camera,
    Scene,
    TopDown,
    make_city,
    random_camera,
    top_down,
    write_views,
)
from toycity.atlas import Atlas, atlas
from toycity.canvas import TILE
from toycity.plan import inset

SKY, BUILDING, ROAD, VEGETATION, VEHICLE, PERSON = range(len(CLASSES))


@pytest.fixture(scope="module")
def city():
    return make_city(TEST_SEED, blocks=3)


@pytest.fixture(scope="module")
def scenes(city):
    """Scenes by condition, each built when first asked for."""

    class Scenes(dict):
        def __missing__(self, name):
            self[name] = Scene(city, CONDITIONS[name])
            return self[name]

    return Scenes()


@pytest.fixture(scope="module")
def views(city):
    return [view for place in city.places[::7] for view in place.views()][:10]


def test_same_seed_same_city_other_seed_other_city(city):
    again, other = make_city(TEST_SEED, blocks=3), make_city(TEST_SEED + 1, blocks=3)
    assert again.places == city.places
    assert other.places != city.places
    assert all((a.lot == b.lot).all() for a, b in zip(again.buildings, city.buildings, strict=True))


def test_places_lie_in_the_city_10_to_15_m_apart_along_their_street(city):
    assert all(city.contains(place.x, place.y) for place in city.places)
    for a, b in zip(city.places, city.places[1:], strict=False):
        if a.street == b.street:
            assert 10 <= np.hypot(b.x - a.x, b.y - a.y) <= 15
            direction = np.degrees(np.arctan2(b.x - a.x, b.y - a.y))
            assert abs((a.heading - direction + 180) % 360 - 180) < 12  # streets bend


def test_no_place_lies_in_a_building(city):
    corners = np.array([building.lot for building in city.buildings])  # (n, 4, 2)
    edges = np.roll(corners, -1, axis=1) - corners
    for place in city.places:
        away = np.array((place.x, place.y)) - corners
        inside = edges[..., 0] * away[..., 1] - edges[..., 1] * away[..., 0] > 0
        assert not inside.all(axis=1).any()


def test_inset_moves_every_side_by_its_distance():
    square = np.array([(0, 0), (10, 0), (10, 8), (0, 8)], float)
    expected = [(4, 1), (8, 1), (8, 5), (4, 5)]
    np.testing.assert_allclose(inset(square, np.array([1, 2, 3, 4])), expected)


def test_utm_and_latlon_name_the_same_spot(city):
    place = city.places[5]
    east, north = city.utm(place.x, place.y)
    back = utm.from_latlon(*city.latlon(place.x, place.y))
    np.testing.assert_allclose(back[:2], (east, north), atol=0.01)
    assert back[2:] == (31, "T")


def test_cities_of_different_roles_never_meet():
    studied = [*TRAIN_SEEDS, VAL_SEED, TEST_SEED]
    assert len(set(studied)) == len(studied)
    assert not set(studied) & set(PRETRAIN_SEEDS)
    origins = {make_city(seed, 2).utm(0, 0) for seed in (*studied, *PRETRAIN_SEEDS[:4])}
    assert len(origins) == len(studied) + 4
    apart = [np.hypot(*np.subtract(a, b)) for a in origins for b in origins if a != b]
    assert min(apart) > 2000


@pytest.mark.parametrize(
    ("seed", "blocks", "message"), [(-1, 3, "seed is -1"), (1, 1, "at least 2 x 2")]
)
def test_make_city_refuses(seed, blocks, message):
    with pytest.raises(ValueError, match=message):
        make_city(seed, blocks)


def test_rays_meet_the_corners_of_the_field_of_view():
    camera = Camera(1, 2, 3, heading=90, pitch=0, fov=90)
    px, py = np.array([0.0, 20, 10]), np.array([5.0, 5, 0])
    origins, directions = camera.rays(px, py, 20, 10)
    np.testing.assert_allclose(origins, np.array([[1, 2, 3]] * 3).T)
    expected = np.array([(1, 1, 0), (1, -1, 0), (1, 0, 0.5)], float)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(directions.T, expected, atol=1e-6)
    with pytest.raises(ValueError, match="fov is 170"):
        Camera(0, 0, fov=170)
    with pytest.raises(ValueError, match="extent is 0"):
        TopDown(0, 0, extent=0)


def test_depth_is_the_distance_to_the_ground(scenes, city):
    place = city.places[3]
    photo = scenes["day"].render(Camera(place.x, place.y, z=2.0, pitch=-90), 9)
    assert photo.depth[4, 4] == pytest.approx(2.0, abs=0.05)
    assert photo.classes[4, 4] == ROAD


def test_atlas_look_up_blends_the_four_nearest_texels():
    rng = np.random.default_rng(0)
    tiles = {str(i): rng.integers(0, 256, (TILE, TILE, 5), np.uint8) for i in range(2)}
    small = Atlas(tiles)
    s, t = rng.random(50).astype(np.float32), rng.random(50).astype(np.float32)
    tile = rng.integers(0, 2, 50).astype(np.int32)
    for level in (0, 2):
        side = TILE >> level
        got = small.look_up(tile, s, t, np.full(50, 2.0**level, np.float32))
        for n in range(50):
            full = tiles[str(tile[n])].astype(float)
            means = full.reshape(side, 2**level, side, 2**level, 5).mean(axis=(1, 3))
            x, y = (np.clip(v * side - 0.5, 0, side - 1) for v in (float(s[n]), float(t[n])))
            i, j = int(x), int(y)
            i1, j1 = min(i + 1, side - 1), min(j + 1, side - 1)
            low = means[j, i] * (1 - x % 1) + means[j, i1] * (x % 1)
            high = means[j1, i] * (1 - x % 1) + means[j1, i1] * (x % 1)
            expected = (low * (1 - y % 1) + high * (y % 1)) / 255
            np.testing.assert_allclose(got[:, n], expected, atol=0.5 / 255 + 1e-4)


def test_every_tile_is_painted_within_range():
    tiles = atlas().index
    assert len(tiles) == len(set(tiles.values()))
    assert {"asphalt", "sign/0", "window/brick/casement/2"} <= set(tiles)


def test_top_down_shows_roads_and_roofs_but_no_sky(scenes, city):
    photo = scenes["day"].render(top_down(*city.outline.mean(axis=0), extent=150), 96)
    share = np.bincount(photo.classes.ravel(), minlength=len(CLASSES)) / photo.classes.size
    assert share[SKY] == 0
    assert share[ROAD] > 0.2
    assert share[BUILDING] > 0.2


@pytest.mark.parametrize("size", [64, (48, 80)])
def test_photo_has_the_size_asked_for(scenes, views, size):
    shape = (size, size) if isinstance(size, int) else size
    photo = scenes["day"].render(views[0], size)
    assert photo.rgb.shape == (*shape, 3)
    assert photo.rgb.dtype == np.uint8
    assert photo.classes.shape == photo.depth.shape == shape
    assert (np.isinf(photo.depth) == (photo.classes == SKY)).all()


def test_size_below_one_pixel_is_refused(scenes, views):
    with pytest.raises(ValueError, match="size is 0"):
        scenes["day"].render(views[0], 0)


def test_same_arguments_same_photo_other_seed_other_sky(scenes, views):
    day = scenes["day"]
    a, b, c = (day.render(views[0], 64, seed=seed) for seed in (1, 1, 2))
    assert (a.rgb == b.rgb).all()
    assert (a.rgb != c.rgb).any()
    assert (a.classes == c.classes).all()


def test_a_wide_photo_shows_what_a_narrow_one_does(scenes, views):
    """Square pixels: the middle of a wide image is the square image of the same pixel size."""
    day = scenes["day"]
    camera = views[2]
    narrow = np.degrees(2 * np.arctan(np.tan(np.radians(camera.fov / 2)) / 2))
    wide = day.render(camera, (40, 80))
    square = day.render(Camera(*_pose(camera), fov=float(narrow)), 40)
    assert (wide.classes[:, 20:60] == square.classes).mean() > 0.98


def _pose(camera):
    return camera.x, camera.y, camera.z, camera.heading, camera.pitch


def _brightness(scenes, name, views):
    return np.mean([scenes[name].render(view, 48).rgb.mean() for view in views])


def test_night_and_low_light_are_darker_than_dusk_and_dusk_than_day(scenes, views):
    day, dusk = (_brightness(scenes, name, views) for name in ("day", "dusk"))
    assert _brightness(scenes, "night", views) < 0.6 * dusk
    assert _brightness(scenes, "lowlight", views) < 0.6 * dusk
    assert dusk < day


def test_night_has_lit_windows(scenes, views):
    bright = [(scenes["night"].render(view, 64).rgb[..., 0] > 180).mean() for view in views]
    assert np.mean(bright) > 0.005


def test_occlusion_puts_vehicles_and_people_before_the_camera(scenes, views):
    def share(name):
        photos = [scenes[name].render(view, 48).classes for view in views]
        return np.isin(photos, (VEHICLE, PERSON)).mean()

    assert share("occlusion") > 0.08
    assert share("occlusion") > 3 * share("day")


def test_snow_whitens_the_ground(scenes, views):
    photos = {name: [scenes[name].render(v, 48) for v in views] for name in ("day", "snow")}
    ground = {n: np.mean([p.rgb[p.classes == ROAD].mean() for p in ps]) for n, ps in photos.items()}
    assert ground["snow"] > ground["day"] + 25


def test_autumn_turns_leaves_from_green_to_red(scenes, city):
    camera = top_down(*city.outline.mean(axis=0), extent=300)
    warmth = {}
    for name in ("day", "autumn"):
        corners = scenes[name].mesh
        leaves = (corners.classes == VEGETATION) & (corners.densities > 20)
        tints = corners.tints[leaves].mean(axis=0)
        warmth[name] = tints[0] / tints[1]
    assert warmth["autumn"] > 1.5 * warmth["day"]
    assert len(scenes["autumn"].mesh.tiles) < len(scenes["day"].mesh.tiles)  # some have fallen
    assert scenes["autumn"].render(camera, 32).rgb.std() > 5


def test_changed_touches_buildings_and_leaves_streets(city):
    """Rendered in the same light and with the same cars, so that only the buildings can differ."""
    day = CONDITIONS["day"]
    later = dataclasses.replace(day, changed=CONDITIONS["changed"].changed)
    before, after = Scene(city, day), Scene(city, later)
    differ = {BUILDING: [], ROAD: []}
    for place in city.places[::9]:
        a, b = (scene.render(place.views()[0], 64, seed=3) for scene in (before, after))
        distance = np.abs(a.rgb.astype(int) - b.rgb).max(axis=-1) > 12
        for kind, shares in differ.items():
            both = (a.classes == kind) & (b.classes == kind)
            shares.append(distance[both].mean())
        assert (a.classes[-8:] == b.classes[-8:]).mean() > 0.97  # the ground before the camera
    assert np.mean(differ[BUILDING]) > 0.3
    assert np.mean(differ[ROAD]) < 0.12  # other roofs cast other shadows


def test_more_severe_changes_include_the_milder_ones(city):
    few, many = city.changed(0.3), city.changed(0.7)
    touched = [
        {i for i, (a, b) in enumerate(zip(city.buildings, c.buildings, strict=True)) if a is not b}
        for c in (few, many)
    ]
    assert touched[0] < touched[1]
    assert len(touched[1]) / len(city.buildings) == pytest.approx(0.7, abs=0.15)


def test_blur_takes_detail_away(scenes, views):
    def detail(name):
        photos = [scenes[name].render(v, 64).rgb.astype(float) for v in views]
        return np.mean([np.abs(np.diff(p, axis=1)).mean() for p in photos])

    assert detail("blur") < 0.6 * detail("day")


def test_severity_leads_from_the_plain_day_to_the_condition():
    night, day = CONDITIONS["night"], CONDITIONS["day"]
    assert night.at(1) == night
    assert night.at(0).sun == day.sun
    half = night.at(0.5)
    assert half.exposure == pytest.approx((night.exposure + day.exposure) / 2)
    assert half.zenith[2] == pytest.approx((night.zenith[2] + day.zenith[2]) / 2)
    for severity in (-0.1, 1.5):
        with pytest.raises(ValueError, match="severity is"):
            night.at(severity)


def test_jitter_stays_within_what_the_condition_allows(views):
    condition, rng = CONDITIONS["viewpoint"], np.random.default_rng(0)
    for _ in range(50):
        moved = condition.jitter(views[0], rng)
        turn = (moved.heading - views[0].heading + 180) % 360 - 180
        assert abs(turn) <= condition.turn
        away = np.hypot(moved.x - views[0].x, moved.y - views[0].y)
        assert away <= np.hypot(condition.aside, condition.along)
        assert (moved.x, moved.y) != (views[0].x, views[0].y)


def test_no_photo_is_taken_from_inside_something(scenes, city):
    rng = np.random.default_rng(5)
    for _ in range(20):
        camera = random_camera(city, rng)
        depth = scenes["day"].render(camera, 24).depth
        assert np.median(depth) > 2


def test_no_place_lies_inside_an_occluder():
    """Looking straight up, a camera inside a truck or a person would see its roof or hat. On a
    city of this seed and size, places round the corner would be hit if they were not spared.
    """
    crowded = make_city(VAL_SEED)
    scene = Scene(crowded, CONDITIONS["occlusion"])
    for place in crowded.places:
        above = scene.render(Camera(place.x, place.y, z=1.5, pitch=90), 3).classes
        assert not np.isin(above, (VEHICLE, PERSON)).any()


def test_views_are_written_once_and_guarded(tmp_path):
    asked = {"seeds": [1000, 1001], "images": 7, "image_size": (20, 28), "blocks": 2, "group": 2}
    quiet = {"workers": 1, "progress": False, "conditions": ("day", "snow")}
    path = write_views(tmp_path, **asked, **quiet)
    images = np.load(path, mmap_mode="r")
    assert images.shape == (7, 20, 28, 3)
    assert all(image.std() > 5 for image in images)
    rows = (tmp_path / "views.csv").read_text().splitlines()[1:]
    assert len(rows) == 7
    assert [row.split(",")[2] for row in rows] == ["0", "0", "1", "1", "2", "2", "3"]
    before = path.stat().st_mtime_ns
    assert write_views(tmp_path, **asked, **quiet) == path
    assert path.stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="another folder"):
        write_views(tmp_path, **(asked | {"images": 8}), **quiet)
    with pytest.raises(ValueError, match="study's own"):
        write_views(tmp_path / "other", seeds=[TEST_SEED])
    with pytest.raises(ValueError, match="images is 0"):
        write_views(tmp_path / "other", images=0)
    with pytest.raises(KeyError, match="fogg"):
        write_views(tmp_path / "other", conditions=["fogg"])


def test_another_process_renders_the_same_bytes(scenes, views, tmp_path):
    code = f"""
import numpy as np
from PIL import Image
from toycity import CONDITIONS, Camera, Scene, make_city
scene = Scene(make_city({TEST_SEED}, blocks=3), CONDITIONS["night"])
photo = scene.render(Camera(*{_pose(views[1])!r}), 64, seed=4)
Image.fromarray(photo.rgb).save({str(tmp_path / "photo.png")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
    there = np.asarray(Image.open(tmp_path / "photo.png"))
    here = scenes["night"].render(Camera(*_pose(views[1])), 64, seed=4).rgb
    assert (there == here).all()
