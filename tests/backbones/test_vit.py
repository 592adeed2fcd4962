"""Vision transformers: positions, tokens to maps, what is frozen."""

import math

import pytest
import torch
import torch.nn.functional as F
from timm.layers import SwiGLUPacked, resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dinomix.backbones import ViTBackbone, build_backbone
from dinomix.backbones.vit import resize_positions
from tests.backbones.slowly import saved_bytes, tokens_slowly


def tiny_vit(**changes) -> VisionTransformer:
    """A transformer of DINOv2's kind whose parameters all matter, on a 4 x 4 grid."""
    settings = {"embed_dim": 16, "depth": 3, "num_heads": 2, "init_values": 1.0, "num_classes": 0}
    network = VisionTransformer(56, 14, **{**settings, **changes})
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return network


def tiny_backbone(
    trained_blocks: int | str = 1, train_tokens: bool = False, **changes
) -> ViTBackbone:
    return ViTBackbone("tiny", tiny_vit(**changes), (56, 56), trained_blocks, train_tokens)


# Positional embedding


def cubic(t: float, a: float = -0.75) -> float:
    """Keys' kernel, with the parameter that PyTorch uses."""
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def hub_resize_slowly(grid: Tensor, h: int, w: int) -> Tensor:
    """(M, M, s) sampled by DINOv2's scale factors, (side + 0.1) / M, entry by entry."""
    m = grid.shape[0]
    out = torch.zeros(h, w, grid.shape[2], dtype=torch.float64)
    for i in range(h):
        for j in range(w):
            y = (i + 0.5) * m / (h + 0.1) - 0.5
            x = (j + 0.5) * m / (w + 0.1) - 0.5
            for k in range(math.floor(y) - 1, math.floor(y) + 3):
                for n in range(math.floor(x) - 1, math.floor(x) + 3):
                    value = grid[min(max(k, 0), m - 1), min(max(n, 0), m - 1)].double()
                    out[i, j] += cubic(y - k) * cubic(x - n) * value
    return out


@pytest.mark.parametrize("grid", [(16, 16), (3, 5), (9, 4), (37, 12)])
def test_positions_are_resized_as_in_the_hub_code(grid):
    embedding = torch.randn(1, 1 + 37 * 37, 2)
    expected = hub_resize_slowly(embedding[0, 1:].reshape(37, 37, 2), *grid)
    resized = resize_positions(embedding, grid, prefix=1)
    torch.testing.assert_close(resized[0, 1:].double(), expected.reshape(-1, 2), atol=1e-4, rtol=0)
    assert torch.equal(resized[:, :1], embedding[:, :1])


def test_timm_resizes_positions_to_other_values():
    embedding = torch.randn(1, 1 + 37 * 37, 8)
    ours = resize_positions(embedding, (16, 16), prefix=1)
    theirs = resample_abs_pos_embed(embedding, [16, 16], num_prefix_tokens=1)
    assert F.cosine_similarity(ours[:, 1:], theirs[:, 1:], dim=2).mean() < 0.98


def test_register_models_resize_antialiased_as_their_hub_code_does():
    """The hub builds `_reg` models with interpolate_offset=0 and interpolate_antialias=True."""
    embedding = torch.randn(1, 49, 8)
    resized = resize_positions(embedding, (3, 5), antialias=True)
    theirs = resample_abs_pos_embed(embedding, [3, 5], num_prefix_tokens=0)
    torch.testing.assert_close(resized, theirs)

    changes = {"reg_tokens": 2, "no_embed_class": True}
    with torch.no_grad():
        native = tiny_vit(**changes, dynamic_img_size=True)
        maps = tiny_backbone(**changes)(images := torch.randn(2, 3, 42, 70))
        expected = native.forward_intermediates(images, indices=1, intermediates_only=True)[0]
    torch.testing.assert_close(maps, expected)


def test_positions_of_the_same_grid_are_left_alone():
    embedding = torch.randn(1, 1 + 64, 4)
    assert resize_positions(embedding, (8, 8), prefix=1) is embedding


def test_positions_are_resized_in_float32_whatever_the_model():
    embedding = torch.randn(1, 1 + 64, 4).bfloat16()
    resized = resize_positions(embedding, (5, 6), prefix=1)
    assert resized.dtype == torch.bfloat16
    exact = resize_positions(embedding.float(), (5, 6), prefix=1)
    assert torch.equal(resized, exact.bfloat16())


def test_the_stored_embedding_keeps_its_grid():
    backbone = build_backbone("toy_vits14", image_size=(70, 98))
    before = backbone.trunk.pos_embed.clone()
    backbone(torch.randn(1, 3, 70, 98))
    assert before.shape == (1, 1 + 8 * 8, 96)
    assert torch.equal(backbone.trunk.pos_embed, before)


# The whole transformer


@pytest.mark.parametrize("swiglu", [False, True])
@pytest.mark.parametrize("size", [(56, 56), (42, 70)])
def test_maps_equal_those_of_a_plain_dinov2(size, swiglu):
    changes = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if swiglu else {}
    backbone = tiny_backbone(**changes).double()
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    h, w = size[0] // 14, size[1] // 14
    tensors = backbone.trunk.state_dict()
    positions = tensors["pos_embed"][0]
    if (h, w) != (4, 4):
        resized = hub_resize_slowly(positions[1:].reshape(4, 4, 16), h, w)
        positions = torch.cat([positions[:1], resized.reshape(-1, 16)])
    tokens = tokens_slowly(tensors, images, heads=2, positions=positions)
    maps = backbone(images)
    assert maps.shape == (2, 16, h, w)
    tolerance = 1e-10 if size == (56, 56) else 1e-5  # positions are resized in float32
    for i in range(h):
        for j in range(w):
            token = tokens[:, 1 + i * w + j]  # 1: the class token is dropped
            torch.testing.assert_close(maps[:, :, i, j], token, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"reg_tokens": 2, "no_embed_class": True},
        {"reg_tokens": 2},
        {"class_token": False, "global_pool": "avg"},
        {"pre_norm": True},
        {"global_pool": "map", "class_token": False},
    ],
)
def test_other_kinds_of_prefix_tokens_agree_with_timm(changes):
    images = torch.randn(2, 3, 56, 56)
    expected = tiny_vit(**changes).forward_intermediates(
        images, indices=1, intermediates_only=True
    )[0]
    torch.testing.assert_close(tiny_backbone(**changes)(images), expected)


def test_tokens_put_class_and_registers_first():
    backbone = tiny_backbone(reg_tokens=2, no_embed_class=True)
    images = torch.randn(2, 3, 42, 56)
    tokens = backbone.tokens(images)
    assert tokens.shape == (2, 1 + 2 + 3 * 4, 16)
    maps = tokens[:, 3:].transpose(1, 2).reshape(2, 16, 3, 4)
    torch.testing.assert_close(backbone(images), maps)
    [(expected, prefix)] = tiny_vit(reg_tokens=2, no_embed_class=True).forward_intermediates(
        images := torch.randn(1, 3, 56, 56),
        indices=1,
        return_prefix_tokens=True,
        intermediates_only=True,
    )
    torch.testing.assert_close(backbone.tokens(images)[:, :3], prefix)
    torch.testing.assert_close(backbone(images), expected)


@pytest.mark.parametrize("trained_blocks", [0, 2, "all"])
def test_the_last_norm_is_kept_if_asked_for(trained_blocks):
    """On the class token and each patch, by DINOv2's epsilon; it learns if a block does."""
    kept = ViTBackbone("tiny", tiny_vit(), (56, 56), trained_blocks, False, final_norm=True)
    images = torch.randn(2, 3, 42, 56)
    maps, token = kept.eval().features(images)
    cut_maps, cut_token = tiny_backbone(trained_blocks).eval().features(images)
    weight, bias = kept.trunk.norm.weight.tolist(), kept.trunk.norm.bias.tolist()

    def normed(x: list[float]) -> list[float]:
        mean = sum(x) / len(x)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in x) / len(x) + 1e-6)
        return [w * (v - mean) / deviation + b for v, w, b in zip(x, weight, bias, strict=True)]

    for b in range(2):
        torch.testing.assert_close(token[b], torch.tensor(normed(cut_token[b].tolist())))
        for i, j in ((0, 0), (1, 3), (2, 2)):
            expected = torch.tensor(normed(cut_maps[b, :, i, j].tolist()))
            torch.testing.assert_close(maps[b, :, i, j], expected)
    torch.testing.assert_close(kept.tokens(images)[:, 0], token)
    assert kept.trunk.norm.weight.requires_grad == bool(trained_blocks)


def test_a_network_that_has_no_last_norm():
    with pytest.raises(ValueError, match="has no last norm: final_norm must be False"):
        ViTBackbone("tiny", tiny_vit(global_pool="avg", fc_norm=True), (56, 56), 1, False, True)


def test_nothing_of_norm_and_head_remains():
    backbone = build_backbone("timm/vit_tiny_patch16_224", image_size=64)
    keys = backbone.trunk.state_dict().keys()
    assert not [key for key in keys if key.startswith(("norm.", "head.", "fc_norm."))]
    assert backbone.cut_keys == {"norm.weight", "norm.bias", "head.weight", "head.bias"}


def test_layer_norms_have_dinov2s_epsilon():
    norms = [m for m in build_backbone("toy_vits14").modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 24
    assert {norm.eps for norm in norms} == {1e-6}


@pytest.mark.parametrize(
    ("name", "channels", "depth", "parameters"),
    [
        # Parameters of the published models, less mask token and last norm (2 * channels).
        ("dinov2_vits14", 384, 12, 22_056_192 - 2 * 384),
        ("dinov2_vitb14", 768, 12, 86_579_712 - 2 * 768),
        ("dinov2_vitl14", 1024, 24, 304_367_616 - 2 * 1024),
        ("dinov2_vitg14", 1536, 40, 1_136_479_232 - 2 * 1536),
        ("dinov2_vitb14_reg", 768, 12, 86_579_712 - 2 * 768 + 3 * 768),
    ],
)
def test_dinov2_sizes(name, channels, depth, parameters):
    with torch.device("meta"):
        backbone = build_backbone(name)
    assert (backbone.out_channels, backbone.num_blocks, backbone.grid) == (
        channels,
        depth,
        (16, 16),
    )
    registers = 4 * channels if name.endswith("_reg") else 0
    positions = 37 * 37 + (not registers)
    assert backbone.trunk.pos_embed.shape == (1, positions, channels)
    total = sum(p.numel() for p in backbone.parameters())
    assert total == parameters


@pytest.mark.parametrize(("name", "dim"), [("toy_vits14", 96), ("toy_vitb14", 192)])
def test_toy_backbones(name, dim):
    backbone = build_backbone(name, image_size=112)
    assert (backbone.out_channels, backbone.num_blocks, backbone.grid) == (dim, 12, (8, 8))
    assert backbone(torch.randn(2, 3, 112, 112)).shape == (2, dim, 8, 8)
    assert backbone(torch.randn(1, 3, 56, 28)).shape == (1, dim, 4, 2)  # any multiple of the patch


# Freezing of a transformer


def test_frozen_blocks_run_without_a_graph():
    backbone = tiny_backbone(trained_blocks=2)
    seen = {}
    for i, block in enumerate(backbone.trunk.blocks):
        block.register_forward_pre_hook(
            lambda _, inputs, i=i: seen.update({i: inputs[0].requires_grad})
        )
    backbone(torch.randn(2, 3, 56, 56))
    assert seen == {0: False, 1: False, 2: True}


def test_frozen_blocks_keep_no_activations():
    images = torch.randn(2, 3, 56, 56)
    kept = [saved_bytes(tiny_backbone(k), images) for k in (0, 1, 2, 3)]
    assert kept[0] == 0 < kept[1]
    # Each further block adds the same, and its input's gradient on top of the first one's.
    assert kept[3] - kept[2] == kept[2] - kept[1] >= kept[1]
    assert saved_bytes(tiny_backbone("all"), images) > kept[3]
    assert saved_bytes(tiny_backbone(1, train_tokens=True), images) > 2 * kept[1]


def trained_names(backbone: nn.Module) -> set[str]:
    """First parts of the names of parameters that learn: blocks.2, pos_embed, ..."""
    return {
        ".".join(name.split(".")[1:3]) if "blocks" in name else name.split(".")[1]
        for name, parameter in backbone.named_parameters()
        if parameter.requires_grad
    }


@pytest.mark.parametrize(
    ("trained_blocks", "expected"),
    [
        (0, set()),
        (1, {"blocks.2"}),
        (3, {"blocks.0", "blocks.1", "blocks.2"}),
        ("all", {"blocks.0", "blocks.1", "blocks.2", "patch_embed", "cls_token", "pos_embed"}),
    ],
)
def test_what_learns(trained_blocks, expected):
    backbone = tiny_backbone(trained_blocks)
    assert trained_names(backbone) == expected
    maps = backbone(torch.randn(2, 3, 56, 56))
    assert maps.requires_grad == bool(expected)
    if expected:
        maps.square().sum().backward()
        assert all(
            (p.grad is not None and p.grad.abs().sum() > 0) == p.requires_grad
            for p in backbone.parameters()
        )


def test_train_tokens_learns_tokens_through_frozen_blocks():
    backbone = tiny_backbone(1, train_tokens=True)
    assert trained_names(backbone) == {"blocks.2", "cls_token", "pos_embed"}
    images = torch.randn(2, 3, 56, 42)
    maps = backbone(images)
    torch.testing.assert_close(maps, tiny_backbone(1)(images))
    maps.square().sum().backward()
    assert backbone.trunk.cls_token.grad.abs().sum() > 0
    assert backbone.trunk.pos_embed.grad.abs().sum() > 0
    assert backbone.trunk.blocks[0].attn.qkv.weight.grad is None


def test_positions_that_learn_are_used_as_they_are_now():
    backbone = tiny_backbone("all")
    images = torch.randn(1, 3, 42, 42)
    before = backbone(images)
    with torch.no_grad():
        backbone.trunk.pos_embed.mul_(2)
    assert not torch.allclose(before, backbone(images))


def test_frozen_blocks_stay_in_evaluation_mode():
    backbone = tiny_backbone(1, proj_drop_rate=0.5, pos_drop_rate=0.5)
    backbone.train()
    assert [block.training for block in backbone.trunk.blocks] == [False, False, True]
    assert not backbone.trunk.patch_embed.training
    assert not backbone.trunk.pos_drop.training
    backbone.eval()
    assert not any(module.training for module in backbone.modules())
    assert all(m.training for m in tiny_backbone("all").train().trunk.modules())
    nothing = tiny_backbone(0, proj_drop_rate=0.5).train()
    images = torch.randn(2, 3, 56, 56)
    assert torch.equal(nothing(images), nothing(images))


def test_gradients_off_means_off_and_images_do_not_wake_frozen_blocks():
    with torch.no_grad():
        assert not tiny_backbone("all")(torch.randn(1, 3, 56, 56)).requires_grad
    assert not tiny_backbone(0)(torch.randn(1, 3, 56, 56, requires_grad=True)).requires_grad


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((230, 224), "224x224, 238x224"),
        ((225, 100), "224x98, 224x112, 238x98, 238x112"),
        ((8, 14), "14x14"),
    ],
)
def test_a_size_off_the_patches_names_the_nearest(size, nearest):
    for build in (
        lambda: build_backbone("toy_vits14", image_size=size),
        lambda: build_backbone("toy_vits14")(torch.randn(1, 3, *size)),
    ):
        with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}: the nearest are {nearest}$"):
            build()


@pytest.mark.parametrize("count", [-1, 13, "three", 1.0, True, None])
def test_trained_blocks_out_of_range(count):
    with pytest.raises(ValueError, match="must be 0 to 12 or 'all'"):
        build_backbone("toy_vits14", trained_blocks=count)
