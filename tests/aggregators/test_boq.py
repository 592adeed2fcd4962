"""BoQ against attention written out from its formula."""

import math

import pytest
import torch
from torch import Tensor, nn

from dinomix.aggregators import BoQ
from tests.aggregators.slowly import assert_equal, scrambled, unit


def norm_slowly(x: Tensor, norm: nn.LayerNorm) -> Tensor:  # (n, c)
    rows = []
    for row in x.tolist():
        mean = sum(row) / len(row)
        variance = sum((v - mean) ** 2 for v in row) / len(row)
        rows.append([(v - mean) / math.sqrt(variance + 1e-5) for v in row])
    return torch.tensor(rows, dtype=torch.float64) * norm.weight + norm.bias


def attention_slowly(queries: Tensor, x: Tensor, layer: nn.MultiheadAttention, heads: int):
    """(q, c) attends to (n, c), one head and one query after the other."""
    width = x.shape[1] // heads
    q, k, v = (
        source @ weight.T + bias
        for source, weight, bias in zip(
            (queries, x, x), layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), strict=True
        )
    )
    out = torch.zeros_like(q)
    for head in range(heads):
        at = slice(head * width, (head + 1) * width)
        for i in range(len(q)):
            powers = [math.exp((q[i, at] @ row).item() / math.sqrt(width)) for row in k[:, at]]
            for j, power in enumerate(powers):
                out[i, at] += power / sum(powers) * v[j, at]
    return out @ layer.out_proj.weight.T + layer.out_proj.bias


def conv_slowly(image_maps: Tensor, conv: nn.Conv2d) -> Tensor:
    """3x3, with zeros around (s, h, w): one row a position, (n, c)."""
    _, height, width = image_maps.shape
    rows = []
    for i in range(height):
        for j in range(width):
            row = conv.bias.clone()
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if 0 <= i + di < height and 0 <= j + dj < width:
                        weight = conv.weight[:, :, di + 1, dj + 1]
                        row = row + weight @ image_maps[:, i + di, j + dj]
            rows.append(row)
    return torch.stack(rows)


def boq_slowly(image_maps: Tensor, boq: BoQ, heads: int) -> list[float]:
    x = norm_slowly(conv_slowly(image_maps, boq.channel_proj), boq.norm)
    answers = []
    for block in boq.blocks:
        layer = block.encoder
        x = norm_slowly(x + attention_slowly(x, x, layer.self_attn, heads), layer.norm1)
        hidden = (x @ layer.linear1.weight.T + layer.linear1.bias).clamp(min=0)
        x = norm_slowly(x + hidden @ layer.linear2.weight.T + layer.linear2.bias, layer.norm2)
        q = block.queries[0]
        q = norm_slowly(q + attention_slowly(q, q, block.self_attention, heads), block.norm_queries)
        answers.append(
            norm_slowly(attention_slowly(q, x, block.cross_attention, heads), block.norm_answer)
        )
    answers = torch.cat(answers)  # (layers*queries, c)
    return unit(
        (weights @ answers[:, i] + bias).item()
        for i in range(answers.shape[1])
        for weights, bias in zip(boq.row_proj.weight, boq.row_proj.bias, strict=True)
    )


@pytest.mark.parametrize(("channels", "heads"), [(32, 1), (128, 2)])
@pytest.mark.parametrize("training", [True, False])
def test_boq_equals_its_formulas(channels, heads, training):
    """Also in evaluation, where PyTorch has a faster transformer layer of its own."""
    boq = BoQ(5, channels, queries=3, layers=2, row_dim=4)
    boq = scrambled(boq).train(training)
    for parameter in boq.parameters():
        parameter.data *= 0.2  # softmax should not be all or nothing
    maps = torch.randn(2, 5, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        out = boq(maps)
        assert out.shape == (2, boq.dim) == (2, channels * 4)
        assert_equal(out, [boq_slowly(image_maps, boq, heads) for image_maps in maps])


@pytest.mark.parametrize(
    ("channels", "heads"), [(16, 1), (96, 1), (128, 2), (384, 6), (512, 8), (520, 8)]
)
def test_a_head_for_each_64_channels(channels, heads):
    block = BoQ(3, channels, layers=1).blocks[0]
    attentions = (block.encoder.self_attn, block.self_attention, block.cross_attention)
    assert [attention.num_heads for attention in attentions] == [heads] * 3


def test_channels_that_heads_cannot_share():
    with pytest.raises(ValueError, match=r"out 200 channels among 3 heads.* a multiple of 64"):
        BoQ(3, channels=200)
