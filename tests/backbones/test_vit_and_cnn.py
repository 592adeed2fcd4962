"""The surgery: positions, tokens to maps, what is frozen, and every promised error."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import SwiGLUPacked, resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dinomix.backbones import DINOV2, MapBackbone, ViTBackbone, build_backbone, normalization
from dinomix.backbones.vit import resize_positions
from dinomix.images import as_size


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


def saved_bytes(net: nn.Module, images: Tensor) -> int:
    """Bytes of activations that autograd keeps for the backward pass of `net`."""
    parameters = {p.untyped_storage().data_ptr() for p in net.parameters()}
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        if tensor.untyped_storage().data_ptr() not in parameters:
            total += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        net(images)
    return total


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
    assert before.shape == (1, 1 + 8 * 8, 64)
    assert torch.equal(backbone.trunk.pos_embed, before)


# The whole transformer, against one written in plain torch


def dinov2_slowly(tensors: dict[str, Tensor], images: Tensor, heads: int, swiglu: bool) -> Tensor:
    """DINOv2's tokens before the last norm, one image and one head at a time: (B, 1 + n, s)."""
    weight, bias = tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"]
    patch, dim = weight.shape[-1], weight.shape[0]
    h, w = images.shape[2] // patch, images.shape[3] // patch
    positions = tensors["pos_embed"][0]
    m = math.isqrt(len(positions) - 1)
    if (h, w) != (m, m):
        resized = hub_resize_slowly(positions[1:].reshape(m, m, dim), h, w)
        positions = torch.cat([positions[:1], resized.reshape(-1, dim)])
    out = []
    for image in images:
        rows = [tensors["cls_token"][0, 0]]
        for i in range(h):
            for j in range(w):
                square = image[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
                rows.append(weight.flatten(1) @ square.flatten() + bias)
        x = torch.stack(rows) + positions
        for block in range(3):
            part = {
                key.removeprefix(f"blocks.{block}."): tensor
                for key, tensor in tensors.items()
                if key.startswith(f"blocks.{block}.")
            }

            def linear(x: Tensor, name: str, part: dict[str, Tensor] = part) -> Tensor:
                return x @ part[f"{name}.weight"].T + part[f"{name}.bias"]

            def norm(x: Tensor, name: str, part: dict[str, Tensor] = part) -> Tensor:
                centred = x - x.mean(1, keepdim=True)
                scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
                return scaled * part[f"{name}.weight"] + part[f"{name}.bias"]

            queries, keys, values = linear(norm(x, "norm1"), "attn.qkv").split(dim, dim=1)
            size, mixed = dim // heads, []
            for head in range(heads):
                one = slice(head * size, (head + 1) * size)
                attention = (queries[:, one] @ keys[:, one].T / size**0.5).softmax(dim=1)
                mixed.append(attention @ values[:, one])
            x = x + part["ls1.gamma"] * linear(torch.cat(mixed, dim=1), "attn.proj")
            hidden = linear(norm(x, "norm2"), "mlp.fc1")
            if swiglu:
                gate, value = hidden.chunk(2, dim=1)
                hidden = gate * torch.sigmoid(gate) * value
            else:
                hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
            x = x + part["ls2.gamma"] * linear(hidden, "mlp.fc2")
        out.append(x)
    return torch.stack(out)


@pytest.mark.parametrize("swiglu", [False, True])
@pytest.mark.parametrize("size", [(56, 56), (42, 70)])
def test_maps_equal_those_of_a_plain_dinov2(size, swiglu):
    changes = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if swiglu else {}
    backbone = tiny_backbone(**changes).double()
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    h, w = size[0] // 14, size[1] // 14
    tokens = dinov2_slowly(backbone.trunk.state_dict(), images, heads=2, swiglu=swiglu)
    maps = backbone(images)
    assert maps.shape == (2, 16, h, w)
    tolerance = 1e-10 if size == (56, 56) else 1e-5  # positions are resized in float32
    for b in range(2):
        for i in range(h):
            for j in range(w):
                token = tokens[b, 1 + i * w + j]  # 1: the class token is dropped
                torch.testing.assert_close(maps[b, :, i, j], token, atol=tolerance, rtol=0)


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


@pytest.mark.parametrize(("name", "dim"), [("toy_vits14", 64), ("toy_vitb14", 128)])
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


def test_gradients_off_means_off():
    with torch.no_grad():
        assert not tiny_backbone("all")(torch.randn(1, 3, 56, 56)).requires_grad


# CNNs and other networks


@pytest.mark.parametrize(
    ("stage", "shape"),
    [(None, (512, 2, 3)), (3, (256, 4, 6)), (1, (64, 16, 23)), (0, (64, 32, 45))],
)
def test_cnn_stages(stage, shape):
    backbone = build_backbone(
        "timm/resnet18", image_size=(64, 90), stage=stage, trained_blocks=0
    ).eval()
    assert (backbone.out_channels, *backbone.grid) == shape
    reference = timm.create_model("resnet18", features_only=True).eval()
    reference.load_state_dict(backbone.trunk.state_dict(), strict=False)
    images = torch.randn(2, 3, 64, 90)
    with torch.no_grad():
        torch.testing.assert_close(
            backbone(images), reference(images)[4 if stage is None else stage]
        )


def test_lite0_at_stride_16_has_no_later_stage():
    backbone = build_backbone(
        "timm/tf_efficientnet_lite0", image_size=64, stage=3, trained_blocks=0
    )
    assert (backbone.out_channels, backbone.grid) == (112, (4, 4))
    prefixes = {".".join(key.split(".")[:2]) for key in backbone.trunk.state_dict()}
    assert prefixes == {f"blocks.{i}" for i in range(5)} | {
        f"{part}.{tensor}"
        for part in ("conv_stem", "bn1")
        for tensor in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        if part == "bn1" or tensor == "weight"
    }


@pytest.mark.parametrize(
    ("name", "stage", "trained_blocks", "expected"),
    [
        ("timm/resnet18", None, 2, {"layer3", "layer4"}),
        ("timm/resnet18", 3, 1, {"layer3"}),
        ("timm/resnet18", 3, 0, set()),
        ("timm/tf_efficientnet_lite0", 3, 1, {"blocks.3", "blocks.4"}),
        ("timm/tf_efficientnet_lite0", 4, 1, {"blocks.5", "blocks.6"}),
        ("timm/convnext_atto", None, 3, {"stages.1", "stages.2", "stages.3"}),
    ],
)
def test_trained_stages_of_a_cnn(name, stage, trained_blocks, expected):
    backbone = build_backbone(name, image_size=64, stage=stage, trained_blocks=trained_blocks)
    learning = {
        key.removeprefix("trunk.") for key, p in backbone.named_parameters() if p.requires_grad
    }
    assert {part for part in expected if any(key.startswith(part + ".") for key in learning)} == (
        expected
    )
    assert all(key.startswith(tuple(f"{part}." for part in expected)) for key in learning)
    assert backbone(torch.randn(2, 3, 64, 64)).requires_grad == bool(expected)


def test_frozen_stages_keep_their_statistics_and_no_activations():
    images = torch.randn(2, 3, 64, 64)
    kept = []
    for count in (0, 1, 2, "all"):
        backbone = build_backbone("timm/resnet18", image_size=64, trained_blocks=count).train()
        before = {key: t.clone() for key, t in backbone.trunk.named_buffers()}
        kept.append(saved_bytes(backbone, images))
        moved = {
            key.split(".")[0]
            for key, t in backbone.trunk.named_buffers()
            if not torch.equal(t, before[key])
        }
        stages = ["bn1", "layer1", "layer2", "layer3", "layer4"]
        assert moved == set(stages if count == "all" else stages[len(stages) - count :])
    assert kept[0] == 0 < kept[1] < kept[2] < kept[3]
    assert kept[3] > 3 * kept[2]  # early stages, of large maps, weigh most


def test_images_that_ask_for_gradients_do_not_wake_frozen_layers():
    images = torch.randn(1, 3, 56, 56, requires_grad=True)
    assert not build_backbone("timm/resnet18", image_size=56, trained_blocks=0)(
        images
    ).requires_grad
    assert not tiny_backbone(0)(images).requires_grad


def test_a_network_of_fixed_size_is_built_for_the_image_size():
    backbone = build_backbone(
        "timm/swin_tiny_patch4_window7_224", image_size=(64, 128), trained_blocks=1
    )
    assert isinstance(backbone, MapBackbone)
    assert (backbone.out_channels, backbone.grid) == (768, (2, 4))
    assert {m.training for m in backbone.trunk.layers[3].modules()} == {True}
    assert {m.training for m in backbone.trunk.layers[2].modules()} == {False}


@pytest.mark.parametrize(("stage", "shape"), [(3, (128, 7, 7)), (None, (192, 4, 4))])
def test_toy_resnet(stage, shape):
    backbone = build_backbone("toy_resnet", image_size=112, stage=stage, trained_blocks=2).eval()
    assert (backbone.out_channels, *backbone.grid) == shape
    learning = {key.split(".")[1] for key, p in backbone.named_parameters() if p.requires_grad}
    assert learning == ({"layer2", "layer3"} if stage else {"layer3", "layer4"})
    cut = {key.split(".")[0] for key in backbone.cut_keys}
    assert cut == ({"layer4", "fc"} if stage else {"fc"})


def test_toy_resnet_is_a_thinner_resnet18():
    """The same tensors but for the deep stem, which has three convolutions for one of 7 x 7."""
    thin = build_backbone("toy_resnet", image_size=112).trunk.state_dict()
    whole = build_backbone("timm/resnet18", image_size=112).trunk.state_dict()
    assert {k for k in thin if k[:5] != "conv1"} == {k for k in whole if k[:5] != "conv1"}
    halves = {thin[f"layer{i}.0.conv1.weight"].shape[0] * 2 for i in (1, 2, 3)}
    assert halves == {whole[f"layer{i}.0.conv1.weight"].shape[0] for i in (1, 2, 3)}
    assert sum(tensor.numel() for tensor in thin.values()) < 2e6


# Names, sizes and errors


def test_normalization():
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert normalization("dinov2_vitb14") == normalization("toy_vits14") == imagenet
    assert normalization("toy_resnet") == imagenet
    half = (0.5, 0.5, 0.5)
    assert normalization("timm/tf_efficientnet_lite0") == (half, half)


def test_names_of_dinov2():
    assert set(DINOV2) >= {f"dinov2_vit{size}14" for size in "sblg"}
    assert all(timm.is_model(name) for name in DINOV2.values())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dinov2_vitb", "dinov2_vitb14"),
        ("toy_vit14", "toy_vitb14"),
        ("timm/resnet5", "timm/resnet50"),
        ("resnet50", "timm/resnet50"),
        ("???", "Backbones are dinov2_vits14"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(name, hint):
    with pytest.raises(ValueError, match="unknown backbone") as error:
        build_backbone(name)
    assert repr(name) in str(error.value)
    assert hint in str(error.value)
    with pytest.raises(ValueError, match="unknown backbone"):
        normalization(name)


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((230, 224), "224x224, 238x224"),
        ((225, 100), "224x98, 224x112, 238x98, 238x112"),
        ((8, 14), "14x14"),
    ],
)
def test_a_size_off_the_patches_names_the_nearest(size, nearest):
    with pytest.raises(ValueError, match=f"not {size[0]}x{size[1]}: the nearest are {nearest}$"):
        build_backbone("toy_vits14", image_size=size)
    with pytest.raises(ValueError, match=f"not {size[0]}x{size[1]}"):
        build_backbone("toy_vits14")(torch.randn(1, 3, *size))


@pytest.mark.parametrize("size", ["224", 0, -14, 224.0, (224,), (224, 0), (14, "14"), True, None])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match="image_size must be"):
        as_size(size)


@pytest.mark.parametrize("count", [-1, 13, "three", 1.0, True, None])
def test_trained_blocks_out_of_range(count):
    with pytest.raises(ValueError, match="trained_blocks of toy_vits14 must be 0 to 12 or 'all'"):
        build_backbone("toy_vits14", trained_blocks=count)


def test_errors_of_stages():
    with pytest.raises(ValueError, match="stage of timm/resnet18 must be 0 to 4, not 5"):
        build_backbone("timm/resnet18", stage=5)
    with pytest.raises(ValueError, match=r"trained_blocks of timm/resnet18 must be 0 to 2"):
        build_backbone("timm/resnet18", stage=2, trained_blocks=3)
    with pytest.raises(ValueError, match="toy_vits14 has no stages"):
        build_backbone("toy_vits14", stage=3)
    with pytest.raises(ValueError, match="train_tokens is for plain transformers"):
        build_backbone("timm/resnet18", train_tokens=True)


def test_a_network_that_does_not_part_into_stages_is_refused():
    """HRNet's branches run side by side; releases of timm differ in how far they get with it."""
    with pytest.raises(ValueError, match=r"hrnet_w18_small") as error:
        build_backbone("timm/hrnet_w18_small", image_size=64)
    assert any(
        part in str(error.value) for part in ("gives no feature map", "has no separate stages")
    )


def test_a_size_that_a_network_cannot_take():
    with pytest.raises(ValueError, match="timm/convnext_atto cannot take images of 16x24"):
        build_backbone("timm/convnext_atto", image_size=(16, 24))
