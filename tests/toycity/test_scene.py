"""Photos: that they are what they say, and what the conditions change."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from toycity import (
    CLASSES,
    CONDITIONS,
    TEST_SEED,
    VAL_SEED,
    Camera,
    Scene,
    TopDown,
    make_city,
    random_camera,
    top_down,
)

SKY, BUILDING, ROAD, VEGETATION, VEHICLE, PERSON = range(len(CLASSES))


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


def test_top_down_shows_roads_and_roofs_but_no_sky(scenes, city):
    photo = scenes["day"].render(top_down(*city.outline.mean(axis=0), extent=150), 96)
    share = np.bincount(photo.classes.ravel(), minlength=len(CLASSES)) / photo.classes.size
    assert share[SKY] == 0 and share[ROAD] > 0.2 and share[BUILDING] > 0.2


@pytest.mark.parametrize("size", [64, (48, 80)])
def test_photo_has_the_size_asked_for(scenes, views, size):
    shape = (size, size) if isinstance(size, int) else size
    photo = scenes["day"].render(views[0], size)
    assert photo.rgb.shape == (*shape, 3) and photo.rgb.dtype == np.uint8
    assert photo.classes.shape == photo.depth.shape == shape
    assert (np.isinf(photo.depth) == (photo.classes == SKY)).all()
    with pytest.raises(ValueError, match="size is 0"):
        scenes["day"].render(views[0], 0)


def test_same_arguments_same_photo_other_seed_other_sky(scenes, views):
    day = scenes["day"]
    a, b, c = (day.render(views[0], 64, seed=seed) for seed in (1, 1, 2))
    assert (a.rgb == b.rgb).all() and (a.rgb != c.rgb).any()
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


def seen(measure, scenes, views):
    """The mean over views of what `measure` gives for a condition's photos, by its name."""
    return lambda name: np.mean([measure(scenes[name].render(view, 48)) for view in views])


def test_conditions_change_what_they_say(scenes, views):
    brightness = seen(lambda photo: photo.rgb.mean(), scenes, views)
    assert brightness("night") < 0.6 * brightness("dusk") < 0.6 * brightness("day")
    assert brightness("lowlight") < 0.6 * brightness("dusk")
    assert seen(lambda photo: photo.rgb[..., 0] > 180, scenes, views)("night") > 0.005  # windows
    traffic = seen(lambda photo: np.isin(photo.classes, (VEHICLE, PERSON)), scenes, views)
    assert traffic("occlusion") > max(0.08, 3 * traffic("day"))
    ground = seen(lambda photo: photo.rgb[photo.classes == ROAD].mean(), scenes, views)
    assert ground("snow") > ground("day") + 25
    detail = seen(lambda photo: np.abs(np.diff(photo.rgb.astype(float), axis=1)), scenes, views)
    assert detail("blur") < 0.6 * detail("day")


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


def test_severity_leads_from_the_plain_day_to_the_condition():
    night, day = CONDITIONS["night"], CONDITIONS["day"]
    assert night.at(1) == night and night.at(0).sun == day.sun
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
