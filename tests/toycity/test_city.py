"""The layout of a city, and what changes in it over the years."""

import numpy as np
import pytest
import utm

from toycity import PRETRAIN_SEEDS, TEST_SEED, TRAIN_SEEDS, VAL_SEED, make_city
from toycity.city import inset


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


def test_more_severe_changes_include_the_milder_ones(city):
    few, many = city.changed(0.3), city.changed(0.7)
    touched = [
        {i for i, (a, b) in enumerate(zip(city.buildings, c.buildings, strict=True)) if a is not b}
        for c in (few, many)
    ]
    assert touched[0] < touched[1]
    assert len(touched[1]) / len(city.buildings) == pytest.approx(0.7, abs=0.15)
