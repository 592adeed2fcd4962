"""Crops of photos for pretraining: which part they show, as other light and lenses see it.

A box is (left, top, width, height) in shares of the photo.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dinomix.backbones import TOY, normalization


def random_boxes(within: Tensor, area: tuple[float, float]) -> Tensor:
    """A box (left, top, width, height) inside each of `within` (B, 4), of a share of its area."""
    share = torch.empty(len(within)).uniform_(*area)
    aspect = torch.empty(len(within)).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()
    sides = torch.stack([(share * aspect).sqrt(), (share / aspect).sqrt()], dim=1).clamp(max=1)
    corner = torch.rand(len(within), 2) * (1 - sides)
    return torch.cat([within[:, :2] + corner * within[:, 2:], sides * within[:, 2:]], dim=1)


def patch_centres(grid: int, boxes: Tensor) -> Tensor:
    """Centres of the grid x grid patches of each box, row by row: (B, grid*grid, 2) as x, y."""
    ticks = (torch.arange(grid) + 0.5) / grid
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    centres = torch.stack([x, y], dim=-1).flatten(0, 1)  # (grid*grid, 2)
    return boxes[:, None, :2] + centres * boxes[:, None, 2:]


def view(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop, resize, disturb and normalise: (B, 3, H, W) in 0..1 -> (B, 3, size, size)."""
    centres = patch_centres(size, boxes).unflatten(1, (size, size))  # (B, size, size, 2)
    crops = F.grid_sample(images, 2 * centres - 1, padding_mode="border", align_corners=False)
    crops = disturb(crops)
    mean, std = (torch.tensor(v)[:, None, None] for v in normalization(TOY[0]))
    return (crops - mean) / std


def disturb(images: Tensor) -> Tensor:
    """Other light, other camera: gamma, gain, white balance, saturation, grey, blur and noise."""

    def draw(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.empty(len(images), channels, 1, 1).uniform_(low, high)

    images = images.clamp(1e-3, 1) ** draw(-0.5, 0.5).exp()
    images = images * draw(-0.5, 0.4).exp() * draw(-0.15, 0.15, 3).exp()
    grey = images.mean(dim=1, keepdim=True)
    saturation = draw(0.2, 1.5) * (torch.rand(len(images), 1, 1, 1) > 0.15)
    images = grey + saturation * (images - grey)
    contrast_centre = images.mean(dim=(1, 2, 3), keepdim=True)
    images = contrast_centre + draw(0.6, 1.3) * (images - contrast_centre)
    blurred = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    blur = draw(-1, 1).clamp(min=0)  # none in half of the cases
    images = images + blur * (blurred - images)
    return (images + torch.randn_like(images) * draw(0, 0.04)).clamp(0, 1)
