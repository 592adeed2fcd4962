"""The vote of the matches, against slow loops and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinomix.localization.localizing import estimate_position
from dinomix.localization.photos import Position

FAR = 1000.0


def plan(*easts):
    """Positions in metres on a line; None stays unknown."""
    return [None if east is None else Position.from_utm(east, 0) for east in easts]


def agreeing(positions, radius=25.0):
    return np.flatnonzero(estimate_position(positions, radius).agrees).tolist()


def test_weights_fall_with_the_rank():
    found = estimate_position(plan(0, 10, FAR, 20))
    assert found.agrees.tolist() == [True, True, False, True]
    expected = (0 + 10 / 2 + 20 / 4) / (1 + 1 / 2 + 1 / 4)
    assert found.position.utm_east == pytest.approx(expected)


def test_the_first_match_wins_against_two_and_loses_against_three():
    assert agreeing(plan(0, FAR, FAR)) == [0]
    assert agreeing(plan(0, FAR, FAR, FAR)) == [1, 2, 3]


def test_the_radius_is_included():
    assert agreeing(plan(0, 25)) == [0, 1] and agreeing(plan(0, 25.01)) == [0]
    assert agreeing(plan(0, 60), radius=60) == [0, 1]


def test_unknown_positions_neither_vote_nor_crash():
    found = estimate_position(plan(None, 5, None, FAR))
    assert found.position.utm_east == 5 and found.agrees.tolist() == [False, True, False, False]
    nothing = estimate_position(plan(None, None))
    assert nothing.position is None and nothing.agrees.tolist() == [False, False]
    assert estimate_position([]).position is None


def test_metres_without_a_zone_do_not_mix_with_degrees():
    earth = Position.from_degrees(48, 2)
    assert agreeing([earth, *plan(0, 0, 0, 0)]) == [0]
    assert agreeing([*plan(0), earth, earth, earth, earth]) == [0]


def test_degrees_are_averaged_across_the_date_line():
    places = [Position.from_degrees(-17, longitude) for longitude in (179.9999, -179.9997)]
    found = estimate_position(places, radius=100)
    assert found.agrees.all()
    assert found.position.longitude % 360 == pytest.approx(179.9999 + 0.0004 / 3, abs=1e-9)
    assert found.position.latitude == pytest.approx(-17, abs=1e-9)


@given(st.lists(st.none() | st.integers(0, 200), min_size=1, max_size=8), st.integers(1, 80))
def test_against_loops(easts, radius):
    votes = {}
    for i, east in enumerate(easts):
        if east is not None:
            votes[i] = sum(
                1 / (j + 1)
                for j, other in enumerate(easts)
                if other is not None and abs(other - east) <= radius
            )
    found = estimate_position(plan(*easts), radius)
    if not votes:
        assert found.position is None
        return
    most = max(votes.values())
    winners = [i for i, vote in votes.items() if vote > most - 1e-12]
    means = []
    for winner in winners:  # sums in another order may round ties differently
        near = [
            j for j, e in enumerate(easts) if e is not None and abs(e - easts[winner]) <= radius
        ]
        total = sum(1 / (j + 1) for j in near)
        means.append((sum(easts[j] / (j + 1) for j in near) / total, near))
    got = (found.position.utm_east, np.flatnonzero(found.agrees).tolist())
    assert any(got[0] == pytest.approx(mean) and got[1] == near for mean, near in means)
