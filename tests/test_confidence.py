import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve

from dinomix.confidence import (
    average_precision,
    margin,
    precision_recall,
    recall_at_precision,
    similarity,
    spread,
    threshold_for,
)


def retrieved(seed, queries=40, k=13):
    """Similarities and places: ties, places close together, unknown ones, and nothing found."""
    rng = np.random.default_rng(seed)
    similarities = -np.sort(-rng.integers(-2, 9, (queries, k)).astype(np.float32) / 10, axis=1)
    places = 5e6 + rng.integers(0, 8, (queries, k, 2)) * 10.0
    places[rng.random((queries, k)) < 0.1] = np.nan  # localize: photos without a position
    places[3], similarities[3] = np.nan, -np.inf  # a damaged query
    places[4, 1:], similarities[4, 1:] = np.nan, -np.inf  # an approximate index found only one
    places[5] = places[5, 0] = 5e6  # all are of one place
    return similarities, places


def slow_margin(similarities, places, reach):
    first, others = similarities[0], []
    for s, place in zip(similarities[1:], places[1:], strict=True):
        near = np.sqrt(((place - places[0]) ** 2).sum()) <= reach
        if s > -np.inf and not near:
            others.append(s)
    if first == -np.inf:
        return first
    return first - (max(others) if others else min(s for s in similarities if s > -np.inf))


def slow_spread(similarities, places, reach):
    weights, points = [], []
    for s, place in list(zip(similarities, places, strict=True))[:10]:
        if np.isfinite(place).all() and s > -np.inf:
            weights.append(np.exp(50 * float(s)))
            points.append(place)
    if len(points) < 2:
        return -np.inf
    mean = sum(w * p for w, p in zip(weights, points, strict=True)) / sum(weights)
    squares = [w * ((p - mean) ** 2).sum() for w, p in zip(weights, points, strict=True)]
    return -np.sqrt(sum(squares) / sum(weights))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("fast", "slow"), [(margin, slow_margin), (spread, slow_spread)])
def test_confidences_equal_slow_loops(fast, slow, seed):
    found = retrieved(seed)
    expected = [slow(*rows, 25.0) for rows in zip(*found, strict=True)]
    np.testing.assert_allclose(fast(*found, 25.0), expected, atol=1e-5)
    assert np.isfinite(expected).sum() > 30 > 1 <= np.isinf(expected).sum()


def test_the_spread_of_unnormalised_descriptors_goes_by_differences_of_similarities():
    similarities, places = retrieved(0)
    similarities = similarities.astype(np.float64)
    expected = spread(similarities, places, 25.0)
    np.testing.assert_allclose(spread(similarities + 512, places, 25.0), expected, rtol=1e-3)


def test_similarity_is_that_of_the_first_match():
    similarities, places = retrieved(0)
    assert similarity(similarities, places, 25.0).tolist() == [row[0] for row in similarities]


def test_the_margin_is_a_lower_bound_where_all_are_of_one_place():
    similarities = np.array([[0.9, 0.8, 0.3]], np.float32)
    east = np.array([[[0.0, 0], [25, 0], [26, 0]]])
    assert margin(similarities, east, 25.0) == pytest.approx(0.6)  # the bound is included
    assert margin(similarities[:, :2], east[:, :2], 25.0) == pytest.approx(0.1)  # at least


def slow_curve(confidence, right, answerable):
    rows = []
    for threshold in sorted({c for c in confidence if c > -np.inf}, reverse=True):
        accepted = [c >= threshold for c in confidence]
        correct = sum(a and r for a, r in zip(accepted, right, strict=True))
        recall = correct / sum(answerable) if any(answerable) else np.nan
        answered = sum(accepted) / len(confidence)
        rows.append((threshold, correct / sum(accepted), recall, answered))
    columns = ["threshold", "precision", "recall", "answered"]
    return pd.DataFrame(rows, columns=columns, dtype=float)


def case(name):
    rng = np.random.default_rng(0)
    confidence, right = rng.permutation(60) / 60, rng.random(60) < 0.6
    answerable = right | (rng.random(60) < 0.5)
    if name == "ties":
        confidence = np.round(confidence, 1)
    elif name == "one value":
        confidence[:] = 0.5
    elif name == "none is right":
        right[:] = False
    elif name == "all are right":
        right[:], answerable[:] = True, True
    elif name == "none has a positive":
        right[:], answerable[:] = False, False
    elif name == "nothing found":
        confidence[[0, 7]], confidence[9] = -np.inf, np.nan
        right[[0, 7, 9]] = False
    elif name == "nothing found at all":
        confidence[:], right[:] = -np.inf, False
    elif name == "no queries":
        confidence, right, answerable = confidence[:0], right[:0], answerable[:0]
    return confidence, right, answerable


CASES = ["plain", "ties", "one value", "none is right", "all are right", "none has a positive"]
CASES += ["nothing found", "nothing found at all", "no queries"]


@pytest.mark.parametrize("name", CASES)
def test_the_curve_equals_a_slow_loop(name):
    found, expected = precision_recall(*case(name)), slow_curve(*case(name))
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("name", CASES[:5])
def test_the_curve_equals_that_of_scikit_learn(name):
    """Theirs divides by the right ones, ours by those that have a positive."""
    confidence, right, answerable = case(name)
    found = precision_recall(confidence, right, answerable)
    share = right.sum() / answerable.sum()
    if right.any():
        precision, recall, thresholds = precision_recall_curve(right, confidence)
        np.testing.assert_allclose(found["threshold"], thresholds[::-1])
        np.testing.assert_allclose(found["precision"], precision[-2::-1])
        np.testing.assert_allclose(found["recall"], share * recall[-2::-1])
        expected = share * average_precision_score(right, confidence)
    else:
        expected = 0  # scikit-learn warns
    assert average_precision(found) == pytest.approx(expected)


def test_the_highest_recall_at_a_precision():
    right = np.array([True, True, False, True, True])
    curve = precision_recall(np.array([0.9, 0.8, 0.7, 0.6, 0.5]), right, np.ones(5, bool))
    assert recall_at_precision(curve) == pytest.approx(2 / 5)
    assert recall_at_precision(curve, 0.75) == pytest.approx(4 / 5)
    assert recall_at_precision(curve[2:]) == 0 == recall_at_precision(curve[:0])


def test_the_threshold_that_answers_the_most():
    right = np.array([True, False, True, True, False])
    curve = precision_recall(np.array([0.9, 0.8, 0.7, 0.6, 0.5]), right, np.ones(5, bool))
    chosen = threshold_for(curve, 0.7)  # between, at 0.8, it falls short
    assert (chosen["threshold"], chosen["precision"]) == (0.6, 0.75)
    with pytest.raises(ValueError, match=r"precision of 0\.8: the best is 0\.667, .* 75\.0%"):
        threshold_for(curve[2:4].assign(precision=[0.5, 2 / 3], answered=[0.6, 0.75]), 0.8)
    with pytest.raises(ValueError, match="no query found anything"):
        threshold_for(curve[:0], 0.5)
