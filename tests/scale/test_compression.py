"""Smaller descriptors: PCA as scikit-learn's, what does not vary, and every promised error."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from dinomix.scale.compression import Projection

D = 24


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def descriptors(count, rank=D, seed=0):
    """Unit rows whose variance falls over `rank` directions, around a mean that is not 0."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(9).normal(size=(rank, D))
    return unit(rng.normal(size=(count, rank)) * 0.9 ** np.arange(rank) @ directions + 2)


def fitted(training, dim, whiten):
    return Projection.fit(training, dim).first(dim, whiten)


def with_nan(rows, count):
    rows[:count, 5] = np.nan
    return rows


@pytest.mark.parametrize("count", [500, 20])  # more descriptors than entries, and fewer
@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("dim", [1, 8, 19])
def test_a_projection_is_scikit_learns(count, whiten, dim):
    training, asked = descriptors(count), descriptors(40, seed=1)
    ours = fitted(training, dim, whiten)(asked)
    theirs = unit(PCA(dim, whiten=whiten, svd_solver="full").fit(training).transform(asked))
    assert ours.dtype == np.float32 and ours.shape == (40, dim)
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=2e-3)  # signs are free
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


def test_the_first_directions_are_those_of_a_smaller_projection():
    training, asked = descriptors(500), descriptors(10, seed=1)
    for whiten in (False, True):
        whole, few = Projection.fit(training, 12).first(5, whiten), fitted(training, 5, whiten)
        np.testing.assert_allclose(whole(asked), few(asked), atol=1e-5)


@pytest.mark.parametrize("count", [500, 20])
def test_directions_without_variance_stay_0(count):
    """Whitened, they would be rounding as loud as all else."""
    training, asked = descriptors(count, rank=3), descriptors(50, rank=3, seed=1)
    flat = training @ np.diag(np.arange(D) < 6).astype(np.float32)  # 6 entries: 6 directions
    asked = asked @ np.diag(np.arange(D) < 6).astype(np.float32)
    for whiten in (False, True):
        wide, narrow = (fitted(flat, dim, whiten)(asked) for dim in (15, 6))
        assert not wide[:, 6:].any()
        np.testing.assert_allclose(wide[:, :6], narrow, atol=1e-5)
    half = Projection.fit(flat.astype(np.float16), 4)(asked)  # its sums are not in half precision
    np.testing.assert_allclose(np.abs(half), np.abs(fitted(flat, 4, False)(asked)), atol=0.01)
    same = np.ones((40, D), np.float32)
    assert not fitted(same, 4, whiten=True)(same).any()  # and no NaN


def test_skipped_images_neither_teach_nor_get_a_descriptor():
    training, asked = descriptors(100), descriptors(9, seed=1)
    expected = Projection.fit(training, 4)(asked)
    lost = np.full((3, D), np.nan, np.float32)
    found = Projection.fit(np.concatenate([lost, training]), 4)(np.concatenate([asked, lost[:1]]))
    np.testing.assert_allclose(found[:-1], expected, atol=1e-6)
    assert np.isnan(found[-1]).all()


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (
            r"of 25 entries at least, and not \(100, 24\)",
            lambda: Projection.fit(descriptors(100), D + 1),
        ),
        (r"more than 10 training .* not \(10, 24\)", lambda: Projection.fit(descriptors(10), 10)),
        (r"more than 9 .* not \(8, 24\)", lambda: Projection.fit(with_nan(descriptors(10), 2), 9)),
        ("dim is 0", lambda: Projection.fit(descriptors(10), 0)),
        ("dim is 2.0", lambda: Projection.fit(descriptors(10), 2.0)),
    ],
)
def test_errors_name_what_is_wrong(words, call):
    with pytest.raises(ValueError, match=words):
        call()
