"""Conv-AP."""

import torch.nn.functional as F
from torch import Tensor, nn

from dinomix.aggregators.base import Aggregator, check_counts


class ConvAP(Aggregator):
    """Fewer channels, averaged over each cell of a coarse grid (Ali-bey et al. 2022, GSV-Cities).

    The paper reduces the channels first. Both steps are linear, so averaging first gives the same
    descriptor from far fewer multiplications.

    Args:
        out_channels: d.
        pool_rows, pool_columns: the coarse grid; the descriptor has d entries for each cell, entry
            c * cells + i being cell i (row by row) of channel c.

    Raises:
        ValueError: for a side of the coarse grid below 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int = 512, pool_rows: int = 2, pool_columns: int = 2
    ) -> None:
        super().__init__()
        check_counts(pool_rows=pool_rows, pool_columns=pool_columns)
        self.cells = (pool_rows, pool_columns)
        self.dim = out_channels * pool_rows * pool_columns
        self.channel_proj = nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def pool(self, maps: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(maps, self.cells)  # (B, s, pool_rows, pool_columns)
        x = self.channel_proj(x)  # (B, d, pool_rows, pool_columns)
        return x.flatten(1)
