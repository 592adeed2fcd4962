"""Patch features against the backbone's own, similarities against slow loops."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from dinomix.attention.patches import WIDTH, block_maps, marked, match, middle_of, patch_at
from dinomix.model import ModelConfig, build_model


def vit():
    config = ModelConfig(backbone="toy_vits14", image_size=28, trained_blocks=2, out_channels=8)
    return build_model(config, weights="hub")


def test_a_map_for_each_block_of_a_transformer():
    model = vit()
    images = torch.randn(2, 3, 28, 42)
    maps = block_maps(model, images)
    assert len(maps) == model.backbone.num_blocks
    assert {tuple(block.shape) for block in maps} == {(2, model.backbone.out_channels, 2, 3)}
    with torch.no_grad():
        torch.testing.assert_close(maps[-1], model.backbone(images))
        frozen = model.backbone.frozen_features(images)[:, 1:]  # without the class token
    torch.testing.assert_close(maps[-3].flatten(2).transpose(1, 2), frozen)
    assert not any(block._forward_hooks for block in model.backbone.trunk.blocks)


def test_one_map_of_any_other_backbone():
    config = ModelConfig(backbone="timm/resnet10t", image_size=64, stage=3, out_channels=8)
    model = build_model(config)
    (maps,) = block_maps(model, torch.randn(1, 3, 64, 64))
    assert maps.shape[-2:] == model.backbone.grid
    with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\)"):
        block_maps(model, torch.randn(3, 64, 64))


def test_heat_is_the_cosine_of_patch_features():
    maps = torch.randn(2, 5, 3, 4)
    heat = match(maps, (0.4, 0.8))
    assert heat.shape == (3, 4)
    asked = maps[0, :, 1, 3].tolist()
    for row in range(3):
        for column in range(4):
            other = maps[1, :, row, column].tolist()
            dot = sum(a * b for a, b in zip(asked, other, strict=True))
            expected = dot / math.hypot(*asked) / math.hypot(*other)
            assert heat[row, column] == pytest.approx(expected, abs=1e-6)
    same = torch.randn(1, 16, 4, 4).expand(2, -1, -1, -1)
    assert match(same, (0.9, 0.1)).argmax() == 12  # row 3, column 0: a patch matches itself best


def test_spots_and_patches():
    for grid in ((1, 1), (8, 8), (7, 23)):
        for row in range(grid[0]):
            for column in range(grid[1]):
                assert patch_at(middle_of((row, column), grid), grid) == (row, column)
    assert patch_at((1.0, -0.01), (8, 8)) == (7, 0)  # a click on the very edge


def test_the_marked_patch_is_framed_and_heat_colours_the_image():
    image = Image.new("RGB", (50, 100), (90, 90, 90))
    plain = np.asarray(marked(image, (1, 2), (4, 4)))
    assert plain.shape == (2 * WIDTH, WIDTH, 3)
    rows, columns = np.nonzero((plain != 90).any(axis=2))
    assert rows.min() >= WIDTH / 2 and rows.max() < WIDTH  # the second of four rows
    assert columns.min() == WIDTH / 2 and columns.max() < 3 * WIDTH / 4
    heat = np.zeros((4, 4))
    heat[3, 0] = 1
    warm = np.asarray(marked(image, (1, 2), (4, 4), heat))
    assert warm[-1, 0, 0] > warm[-1, 0, 2]  # red where the heat is
    assert warm[0, -1, 2] > warm[0, -1, 0]  # blue where it is not
