"""CosPlace's head."""

import torch.nn.functional as F
from torch import Tensor, nn

from dinomix.aggregators.base import Aggregator, at_least_float32
from dinomix.aggregators.gem import GeM


class CosPlaceHead(Aggregator):
    """Local descriptors of unit length, GeM, one linear layer (Berton et al. 2022)."""

    def __init__(self, in_channels: int, out_channels: int = 512, p: float = 3.0) -> None:
        super().__init__()
        self.dim = out_channels
        self.gem = GeM(in_channels, p)
        self.proj = nn.Linear(in_channels, out_channels)

    def pool(self, maps: Tensor) -> Tensor:
        x = F.normalize(at_least_float32(maps), dim=1)
        x = self.gem.pool(x)  # (B, s)
        return self.proj(x.to(self.proj.weight.dtype))  # (B, out_channels)
