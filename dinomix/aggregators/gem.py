"""GeM pooling."""

import torch
from torch import Tensor, nn

from dinomix.aggregators.base import Aggregator, at_least_float32


class GeM(Aggregator):
    """Generalised mean of each channel over the positions (Radenovic et al. 2018), p learned.

    Args:
        p: first exponent; 1 is the average, infinity the maximum.
        eps: smaller values, negative ones too, count as this much.
    """

    def __init__(self, in_channels: int, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.dim = in_channels
        self.p = nn.Parameter(torch.tensor([float(p)]))
        self.eps = eps

    def pool(self, maps: Tensor) -> Tensor:
        x = at_least_float32(maps).clamp(min=self.eps)  # a power would overflow in half precision
        p = at_least_float32(self.p)
        return x.pow(p).mean(dim=(2, 3)).pow(1 / p)  # (B, s)
