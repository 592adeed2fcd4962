"""Conv-AP and CosPlace's head against loops written from their formulas."""

import math

import pytest
import torch
from torch import Tensor

from dinomix.aggregators import ConvAP, CosPlaceHead
from tests.aggregators.slowly import assert_equal, linear, local_descriptors, scrambled, unit


def cells(side: int, count: int) -> list[range]:
    """Where adaptive pooling's cells lie: they may overlap, and leave nothing out."""
    return [
        range(math.floor(i * side / count), math.ceil((i + 1) * side / count)) for i in range(count)
    ]


def convap_slowly(image_maps: Tensor, head: ConvAP, rows: int, columns: int) -> list[float]:
    """As in the paper: first fewer channels at each position (s, h, w), then averages."""
    weight = head.channel_proj.weight.flatten(1).tolist()
    x = image_maps.tolist()
    height, width = len(x[0]), len(x[0][0])
    out = []
    for d, bias in enumerate(head.channel_proj.bias.tolist()):
        reduced = [
            [sum(weight[d][s] * x[s][i][j] for s in range(len(x))) + bias for j in range(width)]
            for i in range(height)
        ]
        for at_rows in cells(height, rows):
            for at_columns in cells(width, columns):
                values = [reduced[i][j] for i in at_rows for j in at_columns]
                out.append(sum(values) / len(values))
    return unit(out)


@pytest.mark.parametrize("grid", [(4, 6), (7, 5), (1, 1)])
@pytest.mark.parametrize("pool", [(2, 2), (1, 3)])
def test_convap_equals_its_formula(grid, pool):
    head = scrambled(ConvAP(3, out_channels=4, pool_rows=pool[0], pool_columns=pool[1]))
    maps = torch.randn(2, 3, *grid, dtype=torch.float64)
    out = head(maps)
    assert out.shape == (2, head.dim) == (2, 4 * pool[0] * pool[1])
    assert_equal(out, [convap_slowly(image_maps, head, *pool) for image_maps in maps])


def cosplace_slowly(image_maps: Tensor, head: CosPlaceHead, p: float) -> list[float]:
    xs = local_descriptors(image_maps)
    pooled = [
        (sum(max(v, 1e-6) ** p for v in channel) / len(xs)) ** (1 / p)
        for channel in zip(*xs, strict=True)
    ]
    return unit(linear(head.proj, pooled))


@pytest.mark.parametrize("p", [1.0, 3.0])
def test_cosplace_equals_its_formula(p):
    assert CosPlaceHead(4).gem.p.item() == 3  # at first
    head = scrambled(CosPlaceHead(4, out_channels=5))
    head.gem.p.data.fill_(p)
    maps = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    assert_equal(head(maps), [cosplace_slowly(image_maps, head, p) for image_maps in maps])
