"""What training images may be changed by; evaluation never is."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2


class MotionBlur(v2.Transform):
    """The camera moved while the shutter was open: the mean along a straight line.

    Args:
        longest: of the lines, as a share of the image's width; lengths are drawn evenly.
        steepest: angle to the horizontal in degrees, drawn evenly to both sides. Cars and heads
            turn sideways, so blur is mostly horizontal.
    """

    def __init__(self, longest: float = 0.15, steepest: float = 20.0) -> None:
        super().__init__()
        self.longest, self.steepest = longest, steepest

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        length, slope = torch.rand(2).tolist()
        return {"share": length * self.longest, "degrees": (2 * slope - 1) * self.steepest}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        kernel = line_kernel(params["share"] * inpt.shape[-1], params["degrees"])
        side = kernel.shape[-1]
        maps = F.pad(inpt[None].float(), [side // 2] * 4, mode="replicate")  # (1, 3, H', W')
        blurred = F.conv2d(maps, kernel.expand(3, 1, side, side), groups=3)[0]
        if not inpt.is_floating_point():
            blurred = blurred.round()
        return blurred.to(inpt.dtype)


def line_kernel(length: float, degrees: float) -> Tensor:
    """A line through the middle of a square with an odd side, blurred by as much as it is thin.

    Returns:
        float32 (side, side), sum 1; side is 1 where the line is shorter than a pixel.
    """
    half = math.ceil(max(length - 1, 0) / 2)
    at = torch.arange(-half, half + 1, dtype=torch.float32)
    y, x = torch.meshgrid(at, at, indexing="ij")
    angle = math.radians(degrees)
    along = x * math.cos(angle) + y * math.sin(angle)
    aside = y * math.cos(angle) - x * math.sin(angle)
    weights = (1 - aside.abs()).clamp(min=0) * ((length + 1) / 2 - along.abs()).clamp(0, 1)
    return weights / weights.sum()


def _randaugment() -> list[v2.Transform]:
    """RandAugment with three operations (the authors' training code)."""
    return [v2.RandAugment(num_ops=3, interpolation=InterpolationMode.BILINEAR)]


def _robust() -> list[v2.Transform]:
    """Photometric changes, darkness with a sensor's noise, motion blur: each now and then."""
    dark = [v2.ColorJitter(brightness=(0.2, 0.7)), v2.ToDtype(torch.float32, scale=True)]
    return [
        v2.RandomApply([v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.02)]),
        v2.RandomApply([MotionBlur()]),
        v2.RandomApply([*dark, v2.GaussianNoise(sigma=0.05)], p=0.3),
        v2.ToDtype(torch.float32, scale=True),  # those without noise, too: a batch has one dtype
    ]


# Name -> the transforms of a uint8 image (3, H, W), to uint8 or to float32 in [0, 1].
AUGMENTATIONS: dict[str, Callable[[], list[v2.Transform]]] = {
    "none": list,
    "randaugment": _randaugment,
    "robust": _robust,
}
