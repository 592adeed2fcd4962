"""SALAD against loops written from its formulas; its transport plan's marginals."""

import math

import pytest
import torch
from torch import Tensor, nn

from dinomix.aggregators import SALAD
from tests.aggregators.slowly import assert_equal, linear, scrambled, unit
from tests.aggregators.test_aggregators import SMALL


def mlp_slowly(mlp: nn.Sequential, x: list[float]) -> list[float]:
    first, last = (layer for layer in mlp if isinstance(layer, nn.Linear))
    return linear(last, [max(0.0, v) for v in linear(first, x)])


def sinkhorn_slowly(
    scores: list[list[float]], dustbin: float, iterations: int
) -> list[list[float]]:
    """The plan (n, m + 1) from scores (n, m): first each cluster's mass, then each token's."""
    n, m = len(scores), len(scores[0])
    plan = [[math.exp(v) for v in (*row, dustbin)] for row in scores]
    takes = [1.0] * m + [n - m]
    for _ in range(iterations):
        totals = [sum(row[k] for row in plan) for k in range(m + 1)]
        plan = [[row[k] * takes[k] / totals[k] for k in range(m + 1)] for row in plan]
        plan = [[v / sum(row) for v in row] for row in plan]
    return plan


def salad_slowly(image_maps: Tensor, token: Tensor, salad: SALAD, iterations: int) -> list[float]:
    xs = image_maps.flatten(1).T.tolist()
    scores = [mlp_slowly(salad.score, x) for x in xs]
    plan = sinkhorn_slowly(scores, salad.dustbin.item(), iterations)
    reduced = [mlp_slowly(salad.reduce, x) for x in xs]
    token = unit(mlp_slowly(salad.reduce_token, token.tolist()))
    m, channels = len(scores[0]), len(reduced[0])
    out = token + [0.0] * (m * channels)
    for k in range(m):
        sums = (
            sum(p[k] * f[i] for p, f in zip(plan, reduced, strict=True)) for i in range(channels)
        )
        for i, value in enumerate(unit(sums)):
            out[len(token) + i * m + k] = value  # channel by channel
    return unit(out)


@pytest.mark.parametrize("iterations", [1, 3])
def test_salad_equals_its_formulas(iterations):
    salad = SALAD(6, **SMALL["salad"], dropout=0.0, iterations=iterations)
    salad = scrambled(salad)
    maps = torch.randn(2, 6, 2, 4, dtype=torch.float64)
    tokens = torch.randn(2, 6, dtype=torch.float64)
    out = salad(maps, tokens)
    assert out.shape == (2, salad.dim) == (2, 4 + 5 * 3)
    images = zip(maps, tokens, strict=True)
    assert_equal(out, [salad_slowly(*image, salad, iterations) for image in images])


def test_marginals_of_the_plan():
    salad = SALAD(6, **SMALL["salad"]).double()
    scores = 3 * torch.randn(2, 12, 5, dtype=torch.float64)
    kept = salad._transport(scores).sum(dim=2)  # what each token does not give to the dustbin
    assert kept.min() > 0
    assert kept.max() < 1
    salad.iterations = 500
    plan = salad._transport(scores)
    torch.testing.assert_close(plan.sum(dim=1), torch.ones(2, 5).double())
    torch.testing.assert_close(12 - plan.sum(dim=(1, 2)), torch.full((2,), 12.0 - 5).double())


def test_large_scores_do_not_overflow():
    scores = 1e4 * torch.randn(2, 12, 5)
    assert SALAD(6, **SMALL["salad"])._transport(scores).isfinite().all()


def test_a_constant_score_of_the_dustbin_cancels():
    """So does any constant added to a cluster's scores: the marginals leave no room for it."""
    salad = SALAD(6, **SMALL["salad"]).double()
    scores = torch.randn(2, 12, 5, dtype=torch.float64)
    before = salad._transport(scores)
    salad.dustbin.data.fill_(-4.0)
    torch.testing.assert_close(salad._transport(scores), before)
    torch.testing.assert_close(salad._transport(scores + torch.arange(5)), before)


def test_the_class_token_counts_and_dropout_in_training_alone():
    salad = SALAD(6, **SMALL["salad"])
    maps, token = torch.randn(1, 6, 3, 3), torch.randn(1, 6)
    assert not torch.equal(salad(maps, token), salad(maps, token))
    salad.eval()
    one, again, other = (salad(maps, t) for t in (token, token, torch.randn(1, 6)))
    assert torch.equal(one, again)
    assert (one[:, :4] - other[:, :4]).abs().max() > 1e-3
    torch.testing.assert_close(one[:, 4:], other[:, 4:])


@pytest.mark.parametrize("grid", [(1, 5), (2, 2)])
def test_maps_of_too_few_positions(grid):
    with pytest.raises(ValueError, match=rf"5 clusters .* {grid[0]}x{grid[1]} .*take fewer"):
        SALAD(6, **SMALL["salad"])(torch.randn(1, 6, *grid), torch.randn(1, 6))
