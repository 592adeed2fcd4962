"""What all aggregators share: a feature map (B, s, h, w) becomes a descriptor of unit length."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Aggregator(nn.Module):
    """Pools feature maps (B, s, h, w) to descriptors (B, dim) of unit length.

    A subclass sets `dim` and writes `pool`; the rest is for those that need it.
    """

    dim: int  # D, the descriptor's length
    takes_token = False  # `pool` takes the backbone's class token (B, s) as a second argument
    needs_features = False  # `initialise` has to see maps of training images before training
    version = 1  # of the formula: descriptors stored under another one are made anew

    def pool(self, maps: Tensor) -> Tensor:
        """The descriptor before its length is made 1: (B, s, h, w) -> (B, dim)."""
        raise NotImplementedError

    def initialise(self, maps: Tensor) -> None:
        """Set first weights from the maps (N, s, h, w) of training images."""

    def forward(self, maps: Tensor, *token: Tensor) -> Tensor:
        return F.normalize(at_least_float32(self.pool(maps, *token)), dim=1)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, even under autocast, or as it is if that is more: float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def check_counts(least: int = 1, **counts: int) -> None:
    """Raise ValueError for the first of these that is not an integer of at least `least`."""
    for name, value in counts.items():
        if type(value) is not int or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
