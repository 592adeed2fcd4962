"""DINO-Mix's feature mixer, which is also MixVPR's aggregator."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinomix.aggregators.base import Aggregator


class FeatureMixer(Aggregator):
    """DINO-Mix's feature mixer (paper, Eq. 2-6).

    Residual layers mix the positions of each channel's map; then one projection reduces the
    channels, another one the positions. The weights fix the grid.

    Args:
        in_channels: s.
        grid: (h, w) of the maps; others raise ValueError.
        mix_depth: L, how many mixing layers; may be 0.
        out_channels: d.
        out_rows: r; the descriptor has d * r entries, entry c * r + i being row i of channel c.
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
        positions = self.grid[0] * self.grid[1]  # n
        self.mix = nn.Sequential(*(MixLayer(positions) for _ in range(mix_depth)))
        self.channel_proj = nn.Linear(in_channels, out_channels)
        self.row_proj = nn.Linear(positions, out_rows)

    def pool(self, maps: Tensor) -> Tensor:
        h, w = maps.shape[-2:]
        if (h, w) != self.grid:
            raise ValueError(
                f"the mixer's weights fit maps of {self.grid[0]}x{self.grid[1]}, not {h}x{w}: "
                "build the model with the image_size of these images, or resize them"
            )
        x = self.mix(maps.flatten(2))  # (B, s, n), n = h*w
        # row_proj(channel_proj(x)), Eq. 4-6. The paper reduces the channels first. Both are linear,
        # so the order only decides the cost: this way the larger one has n / r times fewer columns.
        channels, rows = self.channel_proj, self.row_proj
        x = F.linear(x, rows.weight)  # (B, s, r)
        x = F.linear(x.transpose(1, 2), channels.weight).transpose(1, 2)  # (B, d, r)
        x = x + torch.outer(channels.bias, rows.weight.sum(1)) + rows.bias
        return x.flatten(1)  # (B, d*r)

    @torch.no_grad()
    def initialise(self, maps: Tensor) -> None:
        """Start from what the maps (N, s, h, w) of training images hold, not from random signs.

        Channels are projected on their principal axes, centred and whitened; if d > s, on random
        mixtures of them all, which keep inner products. Rows are means over r blocks of the map: a
        mean bears another viewpoint, which random weights on positions do not. Mixing layers start
        as the identity. ValueError: the grid has no r blocks.
        """
        (d, s), (rows, n) = self.channel_proj.weight.shape, self.row_proj.weight.shape
        h, w = self.grid
        blocks = [(rows // k, k) for k in range(1, w + 1) if rows % k == 0 and rows // k <= h]
        if not blocks:
            raise ValueError(
                f"a map of {h}x{w} has no {rows} blocks to start from: choose other out_rows, or "
                "initialise=False"
            )
        # As square as can be, else rather more rows: cameras turn sideways.
        down_across = min(blocks, key=lambda sides: abs(sides[0] - sides[1]))
        x = maps.flatten(2).transpose(1, 2).flatten(0, 1)  # (N*n, s)
        x = x.cpu().double()  # Apple's MPS has no float64
        variances, axes = torch.linalg.eigh(torch.cov(x.T))  # rising; (s,), (s, s)
        axes = axes / variances.clamp(min=1e-6 * variances[-1]).sqrt()
        axes = axes.flip(1).T  # (s, s)
        # Channels that start alike, as 0, would learn alike, and so stay copies of one.
        axes = axes[:d] if d <= s else nn.init.orthogonal_(axes.new_empty(d, s)) @ axes  # (d, s)
        self.channel_proj.weight.copy_(axes)
        self.channel_proj.bias.copy_(-(axes @ x.mean(dim=0)))
        each = torch.eye(n).unflatten(1, (1, h, w))  # (n, 1, h, w): one position a map
        self.row_proj.weight.copy_(F.adaptive_avg_pool2d(each, down_across).flatten(1).T)
        self.row_proj.bias.zero_()
        for layer in self.mix:
            layer.mix[3].weight.zero_()


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
