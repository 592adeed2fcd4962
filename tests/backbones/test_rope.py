"""DINOv3: rotary positions against a slow loop and against timm, other grids, what is frozen."""

import math

import pytest
import timm
import torch
from timm.models.eva import Eva
from torch import Tensor, nn

from dinomix.backbones import MapBackbone, RopeViTBackbone, build_backbone
from tests.backbones.slowly import tokens_slowly

PLAIN, SWIGLU = "vit_small_patch16_dinov3", "vit_small_plus_patch16_dinov3"
BIASED = "vit_small_patch16_dinov3_qkvb"


def tiny_eva(like: str = PLAIN, **changes) -> Eva:
    """One of timm's DINOv3 networks, made small, whose parameters all matter; a 4 x 4 grid."""
    settings = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 64, **changes}
    network = timm.create_model(like, **settings)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return network


def tiny_backbone(
    trained_blocks: int | str = 1,
    train_tokens: bool = False,
    like: str = PLAIN,
    name: str = "tiny",
    **changes,
) -> RopeViTBackbone:
    network = tiny_eva(like, **changes)
    return RopeViTBackbone(name, network, (64, 64), trained_blocks, train_tokens)


def before_norm(images: Tensor, like: str = PLAIN) -> Tensor:
    """timm's own tokens of the last block."""
    network = tiny_eva(like)
    network.norm = nn.Identity()
    return network.forward_features(images)


# The whole transformer


def dinov3_slowly(tensors: dict[str, Tensor], images: Tensor, periods: list[float]) -> Tensor:
    """DINOv3's tokens before the last norm: (B, 5 + n, s), of two heads.

    Siméoni et al. 2025 and Meta's code: the centres of the patches, from -1 to 1 along each side,
    over the periods give angles; half of a head's entries are turned against the other half.
    """
    h, w = images.shape[2] // 16, images.shape[3] // 16

    def turned(x: Tensor) -> Tensor:  # one head, (5 + n, s / 2)
        rows = [*x[:5]]  # class and registers have no position
        for i in range(h):
            for j in range(w):
                y_angles = [2 * math.pi * ((2 * i + 1) / h - 1) / period for period in periods]
                x_angles = [2 * math.pi * ((2 * j + 1) / w - 1) / period for period in periods]
                angles = torch.tensor(y_angles + x_angles, dtype=x.dtype)
                a, b = x[5 + i * w + j].chunk(2)
                cos, sin = angles.cos(), angles.sin()
                rows.append(torch.cat([a * cos - b * sin, b * cos + a * sin]))
        return torch.stack(rows)

    return tokens_slowly(tensors, images, heads=2, turned=turned, eps=1e-5)


@pytest.mark.parametrize("like", [PLAIN, SWIGLU, BIASED])
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_maps_equal_those_of_a_plain_dinov3(size, like):
    backbone = tiny_backbone(like=like).double()
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    h, w = size[0] // 16, size[1] // 16
    periods = [100 ** (k / 4) for k in range(4)]
    with torch.no_grad():
        tokens = dinov3_slowly(backbone.trunk.state_dict(), images, periods)
        maps, token = backbone.features(images)
    assert maps.shape == (2, 32, h, w)
    # 5: class token and registers are dropped. Positions are computed in float32.
    expected = tokens[:, 5:].transpose(1, 2).reshape(2, 32, h, w)
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(token, tokens[:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("like", [PLAIN, SWIGLU, BIASED])
@pytest.mark.parametrize("size", [(64, 64), (32, 112)])
def test_maps_agree_with_timm(size, like):
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = before_norm(images, like)
        tokens = tiny_backbone(like=like).tokens(images)
        maps = tiny_backbone(3, like=like)(images)
    torch.testing.assert_close(tokens, expected)  # class and registers first
    expected = expected[:, 5:].transpose(1, 2).unflatten(2, (size[0] // 16, size[1] // 16))
    torch.testing.assert_close(maps, expected)


def test_dinov3_by_name_has_the_periods_of_metas_files():
    """They are rounded to bfloat16 there; timm computes them in float32."""
    images = torch.randn(2, 3, 64, 80)
    named = tiny_backbone(name="dinov3_vits16").double()
    rounded = torch.tensor([100 ** (k / 4) for k in range(4)]).bfloat16().tolist()
    assert named.trunk.rope.periods.tolist() == rounded == [1.0, 3.15625, 10.0, 31.625]
    with torch.no_grad():
        tokens = dinov3_slowly(named.trunk.state_dict(), images.double(), rounded)
        torch.testing.assert_close(named.tokens(images.double()), tokens, atol=1e-5, rtol=0)
        timms = before_norm(images)
    assert (tokens - timms).abs().max() > 1e-4


def test_nothing_of_the_norm_remains_and_no_position_is_saved():
    backbone = tiny_backbone()
    assert backbone.cut_keys == {"norm.weight", "norm.bias"}
    keys = backbone.trunk.state_dict().keys()
    assert not [key for key in keys if key.startswith(("norm", "rope", "pos_embed", "head"))]


# Freezing


def test_the_frozen_blocks_tokens_are_all_that_finish_needs():
    images = torch.randn(2, 3, 48, 80)
    backbone = tiny_backbone(2)
    frozen = backbone.frozen_features(images)
    assert backbone.has_prefix
    assert backbone.has_token
    assert frozen.shape == (2, 1 + 4 + 3 * 5, 32)
    assert not frozen.requires_grad
    stored = torch.from_numpy(frozen.numpy().copy())
    maps, token = tiny_backbone(2).finish(stored, (3, 5))
    torch.testing.assert_close(maps, tiny_backbone("all")(images))
    torch.testing.assert_close(token, backbone.tokens(images)[:, 0])
    square = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(
        backbone.finish(backbone.frozen_features(square))[0], backbone(square)
    )
    # The grid tells where the tokens are: 5 x 3 is not 3 x 5.
    assert not torch.allclose(backbone.finish(stored, (5, 3))[1], token)


def test_frozen_blocks_run_without_a_graph():
    backbone = tiny_backbone(trained_blocks=2)
    seen = {}
    for i, block in enumerate(backbone.trunk.blocks):
        block.register_forward_pre_hook(
            lambda _, inputs, i=i: seen.update({i: inputs[0].requires_grad})
        )
    backbone(torch.randn(1, 3, 64, 64))
    assert seen == {0: False, 1: False, 2: True}


@pytest.mark.parametrize(
    ("trained_blocks", "train_tokens", "expected"),
    [
        (0, False, set()),
        (1, False, {"blocks.2"}),
        (1, True, {"blocks.2", "cls_token", "reg_token"}),
        (
            "all",
            False,
            {*(f"blocks.{i}" for i in range(3)), "patch_embed", "cls_token", "reg_token"},
        ),
    ],
)
def test_what_learns(trained_blocks, train_tokens, expected):
    backbone = tiny_backbone(trained_blocks, train_tokens, like=BIASED)
    learning = {
        ".".join(name.split(".")[: 2 if "blocks" in name else 1])
        for name, parameter in backbone.trunk.named_parameters()
        if parameter.requires_grad
    }
    assert learning == expected
    maps = backbone(torch.randn(2, 3, 64, 64))
    assert maps.requires_grad == bool(expected)
    if expected:
        maps.square().sum().backward()
        assert all(
            (p.grad is not None and p.grad.abs().sum() > 0) == p.requires_grad
            for p in backbone.parameters()
        )


# Names and errors


@pytest.mark.parametrize("name", ["dinov3_vits16", "timm/vit_small_patch16_dinov3"])
def test_dinov3_is_built_by_name(name):
    with torch.device("meta"):
        backbone = build_backbone(name, image_size=(224, 320))
        assert backbone(torch.empty(2, 3, 224, 320)).shape == (2, 384, 14, 20)
    assert isinstance(backbone, RopeViTBackbone)
    assert (backbone.out_channels, backbone.num_blocks, backbone.grid) == (384, 12, (14, 20))
    norms = [m for m in backbone.modules() if isinstance(m, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-5}


def test_rotary_positions_of_another_kind_are_left_to_timm():
    assert isinstance(build_backbone("timm/eva02_tiny_patch14_224"), MapBackbone)


def test_errors():
    with pytest.raises(ValueError, match="multiples of 16 pixels, not 230x64"):
        tiny_backbone()(torch.randn(1, 3, 230, 64))
    with pytest.raises(ValueError, match="trained_blocks of tiny must be 0 to 3"):
        tiny_backbone(4)
    with pytest.raises(ValueError, match="dinov3_vits16 has no stages"), torch.device("meta"):
        build_backbone("dinov3_vits16", stage=2)
