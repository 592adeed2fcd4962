"""Which patch matches which: cosine similarities of patch features, block by block."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from dinomix.attention.heatmaps import (
    check_images,
    device_of,
    left_alone,
    overlay,
    tokens_after,
    upsample,
)
from dinomix.backbones import ViTBackbone
from dinomix.model import PlaceModel

WIDTH = 336  # pixels of a picture


@torch.no_grad()
def block_maps(model: PlaceModel, images: Tensor) -> list[Tensor]:
    """The patch features (B, s, h, w) of normalised images (B, 3, H, W) after each block.

    They lie on the CPU. A backbone that is no plain vision transformer gives one map, its last.
    ValueError: the tensor is no batch of RGB images.
    """
    check_images(images)
    backbone, images = model.backbone, images.to(device_of(model))
    with left_alone(model):
        if not isinstance(backbone, ViTBackbone):
            return [backbone(images).float().cpu()]
        grid = backbone.grid_of(tuple(images.shape[-2:]))
        tokens = tokens_after(backbone.trunk.blocks, backbone, images)
        return [backbone.as_map(each, grid).float().cpu() for each in tokens]


def match(maps: Tensor, spot: tuple[float, float]) -> np.ndarray:
    """Cosine of the patch at a spot of the first image with each of the second: float32 (h, w).

    `maps` (2, s, h, w) are the features of both.
    """
    row, column = patch_at(spot, tuple(maps.shape[-2:]))
    asked = maps[0][:, row, column, None, None]  # (s, 1, 1)
    return F.cosine_similarity(maps[1], asked, dim=0).numpy()


def mutual(first: Tensor, second: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The patches that are each other's nearest by cosine, of maps (s, h, w) and (s, h', w').

    Returns:
        column and row of each in the first map, and of its nearest in the second: int64 (n, 2).
    """
    ours, theirs = (F.normalize(each.flatten(1), dim=0) for each in (first, second))  # (s, h*w)
    alike = ours.T @ theirs  # (h*w, h'*w')
    there, back = alike.argmax(1).cpu().numpy(), alike.argmax(0).cpu().numpy()
    here = np.flatnonzero(back[there] == np.arange(len(there)))
    spots = np.divmod(here, first.shape[2]), np.divmod(there[here], second.shape[2])
    here, there = (np.stack([column, row], axis=1) for row, column in spots)
    return here, there


def patch_at(spot: tuple[float, float], grid: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the patch at a spot: how far down and how far right, each in 0..1."""
    down, right = spot
    rows, columns = grid
    return min(rows - 1, max(0, int(down * rows))), min(columns - 1, max(0, int(right * columns)))


def middle_of(patch: tuple[int, int], grid: tuple[int, int]) -> tuple[float, float]:
    """The spot in the middle of a patch; `patch_at` finds the patch again."""
    return (patch[0] + 0.5) / grid[0], (patch[1] + 0.5) / grid[1]


def marked(
    image: Image.Image,
    patch: tuple[int, int],
    grid: tuple[int, int],
    heat: np.ndarray | None = None,
) -> Image.Image:
    """An image with one patch framed, `WIDTH` pixels wide, under heat (h, w) if there is any."""
    size = (WIDTH, max(1, round(WIDTH * image.height / image.width)))
    image = image.resize(size, Image.Resampling.BICUBIC)
    if heat is not None:
        image = Image.fromarray(overlay(np.asarray(image), upsample(heat[None], size[::-1])[0]))
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = (
        (patch[axis] + step) * size[1 - axis] / grid[axis] - step
        for step in (0, 1)
        for axis in (1, 0)
    )
    # Two frames, visible on bright and on dark.
    draw.rectangle([left, top, right, bottom], outline="black", width=4)
    draw.rectangle([left + 1, top + 1, right - 1, bottom - 1], outline="white", width=2)
    return image
