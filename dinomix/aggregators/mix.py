"""Aggregators: a feature map (B, s, h, w) becomes one descriptor an image, (B, D), of unit length.

To add one: a module that maps (B, s, h, w) to (B, dim), ends in `unit_length`, has the attribute
`dim`, and takes by name whichever settings of `build_aggregator` it needs; then a line in
`AGGREGATORS`. `dinomix.ModelConfig(aggregator=...)` knows it from then on.
"""

import inspect

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FeatureMixer(nn.Module):
    """DINO-Mix's feature mixer (paper, Eq. 2-6).

    Residual layers mix the positions of each channel's map; then one projection reduces the
    channels, another one the positions. The weights fix the grid.

    Args:
        in_channels: s, channels of the map.
        grid: (h, w), rows and columns of the map.
        mix_depth: L, how many mixing layers; may be 0.
        out_channels: d.
        out_rows: r; the descriptor has d * r entries, entry c * r + i being row i of channel c.

    Raises:
        ValueError: (forward) for a map of another grid.
    """

    def __init__(
        self,
        in_channels: int,
        grid: tuple[int, int],
        mix_depth: int = 2,
        out_channels: int = 1024,
        out_rows: int = 4,
    ) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.dim = out_channels * out_rows
        positions = self.grid[0] * self.grid[1]
        self.mix = nn.Sequential(*(MixLayer(positions) for _ in range(mix_depth)))
        self.channel_proj = nn.Linear(in_channels, out_channels)
        self.row_proj = nn.Linear(positions, out_rows)

    def forward(self, maps: Tensor) -> Tensor:
        if tuple(maps.shape[-2:]) != self.grid:
            raise ValueError(
                f"the mixer's weights fit maps of {_by(self.grid)}, not {_by(maps.shape[-2:])}: "
                "build the model with the image_size of these images, or resize them"
            )
        x = maps.flatten(2)  # (B, s, n), n = h*w
        x = self.mix(x)
        x = self.channel_proj(x.transpose(1, 2))  # (B, n, d)
        x = self.row_proj(x.transpose(1, 2))  # (B, d, r)
        return unit_length(x.flatten(1))  # (B, d*r)


class MixLayer(nn.Module):
    """X + W2 relu(W1 LN(X)) over the last axis, the positions (paper, Eq. 2): (B, s, n) kept."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.LayerNorm(positions),
            nn.Linear(positions, positions),
            nn.ReLU(),
            nn.Linear(positions, positions),
        )
        for linear in (self.mix[1], self.mix[3]):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(x)


class GeM(nn.Module):
    """Generalised mean of each channel over the positions (Radenovic et al. 2018), p learned.

    Args:
        in_channels: s, also the descriptor's length; any grid fits.
        p: first exponent; 1 is the average, infinity the maximum.
        eps: smaller values, negative ones too, count as this much.
    """

    def __init__(self, in_channels: int, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.dim = in_channels
        self.p = nn.Parameter(torch.tensor([float(p)]))
        self.eps = eps

    def forward(self, maps: Tensor) -> Tensor:
        x = _at_least_float32(maps).clamp(min=self.eps)  # a power would overflow in half precision
        p = _at_least_float32(self.p)
        x = x.pow(p).mean(dim=(2, 3)).pow(1 / p)  # (B, s)
        return unit_length(x)


AGGREGATORS: dict[str, type[nn.Module]] = {"mix": FeatureMixer, "gem": GeM}


def build_aggregator(
    name: str,
    in_channels: int,
    grid: tuple[int, int],
    *,
    mix_depth: int = 2,
    out_channels: int = 1024,
    out_rows: int = 4,
) -> nn.Module:
    """Build the aggregator `name` for maps of `in_channels` and `grid`, with the settings it takes.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in AGGREGATORS:
        raise ValueError(f"unknown aggregator {name!r}: choose one of {', '.join(AGGREGATORS)}")
    settings = {
        "in_channels": in_channels,
        "grid": grid,
        "mix_depth": mix_depth,
        "out_channels": out_channels,
        "out_rows": out_rows,
    }
    taken = inspect.signature(AGGREGATORS[name]).parameters
    return AGGREGATORS[name](**{key: settings[key] for key in taken if key in settings})


def unit_length(x: Tensor) -> Tensor:
    """L2-normalise the rows of (B, D), in float32 or better even under autocast."""
    return F.normalize(_at_least_float32(x), dim=1)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _by(grid: tuple[int, ...]) -> str:
    return "x".join(map(str, grid))
