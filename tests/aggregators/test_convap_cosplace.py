"""Conv-AP and CosPlace's head against loops written from their formulas."""

import math

import pytest
import torch
from torch import Tensor

from dinomix.aggregators import ConvAP, CosPlaceHead
from tests.aggregators.test_aggregators import scrambled


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
    length = math.sqrt(sum(v * v for v in out))
    return [v / length for v in out]


@pytest.mark.parametrize("grid", [(4, 6), (7, 5), (1, 1)])
@pytest.mark.parametrize("pool", [(2, 2), (1, 3)])
def test_convap_equals_its_formula(grid, pool):
    head = scrambled(ConvAP(3, out_channels=4, pool_rows=pool[0], pool_columns=pool[1]))
    maps = torch.randn(2, 3, *grid, dtype=torch.float64)
    out = head(maps)
    assert out.shape == (2, head.dim) == (2, 4 * pool[0] * pool[1])
    expected = [convap_slowly(image_maps, head, *pool) for image_maps in maps]
    torch.testing.assert_close(out, torch.tensor(expected).double())


def test_parameters_of_the_papers_convap():
    head = ConvAP(2048)
    assert sum(p.numel() for p in head.parameters()) == 1_049_088
    assert head.dim == 2048


def cosplace_slowly(image_maps: Tensor, head: CosPlaceHead, p: float) -> list[float]:
    xs = image_maps.flatten(1).T.tolist()
    xs = [[v / math.sqrt(sum(u * u for u in x)) for v in x] for x in xs]
    pooled = [
        (sum(max(v, 1e-6) ** p for v in channel) / len(xs)) ** (1 / p)
        for channel in zip(*xs, strict=True)
    ]
    out = [
        sum(w * v for w, v in zip(row, pooled, strict=True)) + bias
        for row, bias in zip(head.proj.weight.tolist(), head.proj.bias.tolist(), strict=True)
    ]
    length = math.sqrt(sum(v * v for v in out))
    return [v / length for v in out]


@pytest.mark.parametrize("p", [1.0, 3.0])
def test_cosplace_equals_its_formula(p):
    head = scrambled(CosPlaceHead(4, out_channels=5))
    head.gem.p.data.fill_(p)
    maps = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    expected = [cosplace_slowly(image_maps, head, p) for image_maps in maps]
    torch.testing.assert_close(head(maps), torch.tensor(expected).double())


def test_parameters_of_the_papers_cosplace():
    """A ResNet-50's 2048 channels to as many: one linear layer, and GeM's exponent, at first 3."""
    head = CosPlaceHead(2048, out_channels=2048)
    assert sum(p.numel() for p in head.parameters()) == 2048 * 2048 + 2048 + 1
    assert (head.dim, head.gem.p.item()) == (2048, 3.0)
