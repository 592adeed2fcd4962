"""What slow loops share: weights that all matter, and descriptors in Python numbers."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def scrambled(module: nn.Module) -> nn.Module:
    """`module` with parameters that all matter, in float64."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
    return module.double()


def unit(values: Iterable[float]) -> list[float]:
    """The same direction, of length 1."""
    values = list(values)
    length = math.sqrt(sum(v * v for v in values))
    return [v / length for v in values]


def local_descriptors(image_maps: Tensor) -> list[list[float]]:
    """One a position of (s, h, w), of unit length."""
    return [unit(row) for row in image_maps.flatten(1).T.tolist()]


def linear(layer: nn.Linear, x: list[float]) -> list[float]:
    rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [sum(w * v for w, v in zip(row, x, strict=True)) + bias for row, bias in rows]


def assert_equal(descriptors: Tensor, slow: Iterable[Iterable[float]]) -> None:
    """Descriptors (B, D) against one slow loop's numbers an image."""
    torch.testing.assert_close(descriptors, torch.tensor([list(x) for x in slow]).double())
