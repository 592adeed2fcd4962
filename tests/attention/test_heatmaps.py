"""Heat against gradients and attention worked out by hand; models stay as they were."""

import inspect
import math

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer
from torch import Tensor, nn

from dinomix.aggregators import AGGREGATORS
from dinomix.aggregators.base import Aggregator
from dinomix.attention.heatmaps import (
    energy_attention,
    match_attention,
    overlay,
    rollout,
    upsample,
)
from dinomix.backbones import ViTBackbone
from dinomix.model import ModelConfig, PlaceModel, build_model

VIT = {"backbone": "toy_vits14", "image_size": 56}
CNN = {"backbone": "timm/resnet10t", "image_size": 64, "stage": 3}
SMALL = {"out_channels": 4, "out_rows": 2}


def model_of(**settings) -> PlaceModel:
    """A model whose parameters all matter; the same for equal architectures."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(**{**VIT, **SMALL, **settings}))
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):  # LayerScale starts so small that no block would matter
            parameter.data.fill_(0.5)
    return model


class Linear(Aggregator):
    """The sum over positions of the map times a fixed pattern: the gradient is the pattern."""

    def __init__(self, pattern: Tensor) -> None:  # (D, s, h, w)
        super().__init__()
        self.dim = len(pattern)
        self.pattern = nn.Parameter(pattern)

    def pool(self, maps: Tensor) -> Tensor:
        return torch.einsum("bshw,dshw->bd", maps, self.pattern)


def heat_slowly(maps: Tensor, gradients: Tensor) -> np.ndarray:
    """Grad-CAM of one image's maps (s, h, w), in Python numbers."""
    channels, height, width = maps.shape
    weights = [sum(gradients[c].flatten().tolist()) / (height * width) for c in range(channels)]
    return np.array(
        [
            [
                max(0.0, sum(weights[c] * maps[c, i, j].item() for c in range(channels)))
                for j in range(width)
            ]
            for i in range(height)
        ]
    )


# Grad-CAM


def test_energy_attention_equals_its_formula():
    model = model_of()
    model.aggregator = Linear(torch.randn(3, 96, 4, 4))
    images = torch.randn(2, 3, 56, 56)
    heat = energy_attention(model, images)
    assert heat.shape == (2, 4, 4) and heat.dtype == np.float32
    maps = model.backbone(images).detach()
    for i in range(2):
        pattern = model.aggregator.pattern.detach()
        # d |u|^2 / d map = sum over entries of 2 u_d pattern_d
        gradient = sum(2 * (pattern[d] * maps[i]).sum() * pattern[d] for d in range(3))
        expected = heat_slowly(maps[i], gradient)
        np.testing.assert_allclose(heat[i], expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_match_attention_equals_its_formula():
    model = model_of()
    model.aggregator = Linear(torch.randn(3, 96, 4, 4))
    queries, matches = torch.randn(2, 2, 3, 56, 56)
    heat = match_attention(model, queries, matches)
    maps = model.backbone(queries).detach()
    pattern, found = model.aggregator.pattern.detach(), model(matches).detach()
    for i in range(2):
        u = [(pattern[d] * maps[i]).sum().item() for d in range(3)]
        length = math.sqrt(sum(v * v for v in u))
        cosine = sum(u[d] * found[i, d].item() for d in range(3)) / length
        # d cos / d u_d = (match_d - cos u_d / |u|) / |u|
        slopes = [(found[i, d].item() - cosine * u[d] / length) / length for d in range(3)]
        expected = heat_slowly(maps[i], sum(slopes[d] * pattern[d] for d in range(3)))
        assert expected.max() > 0
        np.testing.assert_allclose(heat[i], expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_heat_is_where_the_feature_is_that_the_aggregator_uses():
    model = model_of()
    pattern = torch.zeros(1, 96, 4, 4)
    pattern[:, 5] = 1.0  # the sum of channel 5
    model.aggregator = Linear(pattern)

    def one_position(images: Tensor):
        maps = torch.full((len(images), 96, 4, 4), -1.0)
        maps[:, 5, 1, 2] = 100.0
        return maps, None

    model.backbone.features = one_position
    heat = energy_attention(model, torch.randn(1, 3, 56, 56))[0]
    assert np.argwhere(heat).tolist() == [[1, 2]]


@pytest.mark.parametrize("attend", [energy_attention, match_attention])
def test_heat_does_not_depend_on_what_is_trained_or_on_the_batch(attend):
    images = [torch.randn(2, 3, 56, 56)] * (1 if attend is energy_attention else 2)
    images[-1] = images[-1].flip(0)
    for block in (None, 5):
        heats = [
            attend(model_of(trained_blocks=trained), *images, block=block)
            for trained in (0, 3, 12, "all")
        ]
        assert heats[0].max() > 0
        for heat in heats[1:]:
            np.testing.assert_allclose(heat, heats[0], rtol=1e-3, atol=1e-4 * heats[0].max())
        alone = attend(model_of(), *(batch[1:] for batch in images), block=block)
        np.testing.assert_allclose(alone, heats[0][1:], rtol=1e-3, atol=1e-4 * heats[0].max())


def test_a_block_gives_its_own_tokens_and_gradients():
    model = model_of(trained_blocks="all", aggregator="gem", aggregator_options={"p": 1.0})
    model.aggregator.eps = -1e9  # plain averages
    images = torch.randn(2, 3, 56, 56)
    seen = []
    hook = model.backbone.trunk.blocks[9].register_forward_hook(lambda m, i, out: seen.append(out))
    energy = model.eval().aggregator.pool(model.backbone(images)).square().sum()
    hook.remove()
    (gradient,) = torch.autograd.grad(energy, seen[0])
    heat = energy_attention(model, images, block=9)
    for i in range(2):
        maps, slopes = (
            x[i, 1:].detach().T.reshape(96, 4, 4) for x in (seen[0], gradient)
        )  # less the class token
        expected = heat_slowly(maps, slopes)
        np.testing.assert_allclose(heat[i], expected, rtol=1e-3, atol=1e-4 * expected.max())


@pytest.mark.parametrize(
    ("backbone", "size"), [("toy_vits14", 56), ("dinov3_vits16", 64)], ids=["added", "rotary"]
)
def test_the_last_block_is_the_default(backbone, size):
    """And an earlier block's tokens go on as they do in the backbone, whatever its positions."""
    model = model_of(backbone=backbone, image_size=size)
    images = torch.randn(2, 3, size, size)
    np.testing.assert_allclose(
        energy_attention(model, images, block=11), energy_attention(model, images), rtol=1e-5
    )
    assert energy_attention(model, images, block=5).max() > 0


@pytest.mark.parametrize("aggregator", AGGREGATORS)
@pytest.mark.parametrize("settings", [VIT, {**CNN, "trained_blocks": 0}], ids=["vit", "cnn"])
def test_every_backbone_and_aggregator_has_heat(aggregator, settings):
    if AGGREGATORS[aggregator].takes_token and settings is not VIT:
        pytest.skip("needs a class token")
    clusters = "clusters" in inspect.signature(AGGREGATORS[aggregator]).parameters
    options = {"clusters": 4} if clusters else {}  # SALAD wants fewer than positions
    model = model_of(aggregator=aggregator, aggregator_options=options, **settings)
    queries, matches = torch.randn(2, 2, 3, *model.config.size)
    heats = [match_attention(model, queries, matches), energy_attention(model, queries)]
    if settings is VIT:
        heats += [match_attention(model, queries, matches, block=8)]
    for heat in heats:
        assert heat.shape == (2, *model.backbone.grid) and heat.dtype == np.float32
        assert np.isfinite(heat).all() and heat.min() >= 0
    assert heats[0].max() > 0


def test_a_target_that_no_gradient_reaches_has_no_heat_from_rounding():
    class Normalised(Linear):  # as aggregators that normalise the parts of their descriptor
        def pool(self, maps: Tensor) -> Tensor:
            return nn.functional.normalize(super().pool(maps), dim=1)

    model = model_of()
    images = torch.randn(2, 3, 56, 56)
    assert not match_attention(model, images, images).any()  # a cosine of 1 is at its top
    model.aggregator = Normalised(torch.randn(3, 96, 4, 4))
    assert not energy_attention(model, images).any()
    assert match_attention(model, images, images.flip(0)).any()


def state_of(model: PlaceModel):
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        [len(module._forward_hooks) for module in model.modules()],
        [getattr(module, "fused_attn", None) for module in model.modules()],
    )


def test_the_model_stays_as_it_was():
    model, images = model_of(trained_blocks=2).train(), torch.randn(2, 3, 56, 56)
    model.aggregator.row_proj.eval()  # a mode of its own
    model(images).sum().backward()
    before = state_of(model)
    assert any(before[1]) and not all(before[1]) and any(g is not None for g in before[2])

    def unchanged() -> bool:
        after = state_of(model)
        pairs = zip(after[2], before[2], strict=True)
        same = [a is b if b is None else torch.equal(a, b) for a, b in pairs]
        return all(same) and all(after[i] == before[i] for i in (0, 1, 3, 4))

    with torch.no_grad():  # as notebooks may well do
        for block in (None, 3):
            match_attention(model, images, images.flip(0), block)
            energy_attention(model, images, block)
    rollout(model, images)
    assert unchanged()
    for call in (
        lambda: energy_attention(model, images[..., :42]),  # the mixer fits no other grid
        lambda: energy_attention(model, images[..., :50], block=3),
        lambda: rollout(model, images[..., :50]),
    ):
        with pytest.raises(ValueError):
            call()
        assert unchanged()


def test_heat_is_that_of_evaluation_mode():
    model = model_of(**CNN, trained_blocks="all")  # batch norm would mix the images
    images = torch.randn(2, 3, 64, 64)
    expected = energy_attention(model.eval(), images)
    np.testing.assert_array_equal(energy_attention(model.train(), images), expected)
    assert model.training


def test_grad_cam_errors():
    model, images = model_of(), torch.randn(2, 3, 56, 56)
    cnn = model_of(**CNN, trained_blocks=0)
    for words, attend, *asked in (
        (r"\(3, 56, 56\)", energy_attention, model, images[0]),
        (r"\(0, 3, 56, 56\)", energy_attention, model, images[:0]),
        (r"\(2, 1, 56, 56\)", match_attention, model, images, images[:, :1]),
        ("2 queries with 1 matches", match_attention, model, images, images[:1]),
        *((f"11, not {block}", energy_attention, model, images, block) for block in (12, -1, 1.5)),
        (r"resnet10t.*not 2", energy_attention, cnn, images, 2),
    ):
        with pytest.raises(ValueError, match=words):
            attend(*asked)


# Rollout


def rollout_slowly(model: PlaceModel, image: Tensor) -> np.ndarray:
    """Attention from the weights of qkv, multiplied block by block."""
    inputs = []
    hooks = [
        block.attn.register_forward_hook(lambda m, i, out: inputs.append(i[0][0]))
        for block in model.backbone.trunk.blocks
    ]
    with torch.no_grad():
        model.backbone(image[None])
    for hook in hooks:
        hook.remove()
    n = len(inputs[0])
    flow = np.eye(n)
    for block, x in zip(model.backbone.trunk.blocks, inputs, strict=True):
        weight, bias = block.attn.qkv.weight.detach(), block.attn.qkv.bias.detach()
        q, k, _ = (x @ weight.T + bias).double().numpy().reshape(n, 3, -1).transpose(1, 0, 2)
        heads, mean = block.attn.num_heads, np.zeros((n, n))
        size = q.shape[1] // heads
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            for i in range(n):
                row = [math.exp(q[i, part] @ k[j, part] / math.sqrt(size)) for j in range(n)]
                mean[i] += np.array(row) / sum(row) / heads
        step = 0.5 * mean + 0.5 * np.eye(n)
        flow = (step / step.sum(axis=1, keepdims=True)) @ flow
    return flow[0]


@pytest.mark.parametrize("registers", [0, 2])
def test_rollout_equals_a_slow_loop(registers):
    model = model_of()
    if registers:
        network = VisionTransformer(
            56, 14, embed_dim=64, depth=3, num_heads=4, reg_tokens=registers, num_classes=0
        )
        model.backbone = ViTBackbone("tiny", network, (56, 56), 0, False)
    for block in model.backbone.trunk.blocks:
        block.attn.qkv.weight.data.normal_(std=0.3)  # attention that is far from even
    model.eval()
    images = torch.randn(2, 3, 56, 28)  # rollout asks no aggregator: any grid fits
    heat = rollout(model, images)
    assert heat.shape == (2, 4, 2) and heat.dtype == np.float32
    for i in range(2):
        expected = rollout_slowly(model, images[i])
        assert expected.sum() == pytest.approx(1)
        patches = expected[1 + registers :].reshape(4, 2)
        assert patches.std() > 0.01
        np.testing.assert_allclose(heat[i], patches, rtol=1e-3, atol=1e-6)


def test_rollout_errors():
    model, images = model_of(), torch.randn(1, 3, 56, 56)
    with pytest.raises(ValueError, match="resnet10t has no class token"):
        rollout(model_of(**CNN, trained_blocks=0), torch.randn(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"\(3, 56, 56\)"):
        rollout(model, images[0])
    settings = {"embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0}
    for words, special in (
        ("odd has no class token", {"class_token": False, "global_pool": "avg"}),
        ("odd has 4 attention layers in 2 blocks", {"block_fn": ParallelThingsBlock}),
    ):
        network = VisionTransformer(56, 14, **special, **settings)
        model.backbone = ViTBackbone("odd", network, (56, 56), 0, False)
        with pytest.raises(ValueError, match=words):
            rollout(model, images)


# Pictures and shares


def bilinear_slowly(heat: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w) -> (height, width), pixel centres to pixel centres, edges repeated."""
    h, w = heat.shape
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
            x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
            for k in {math.floor(y), math.ceil(y)}:
                for n in {math.floor(x), math.ceil(x)}:
                    out[i, j] += (1 - abs(y - k)) * (1 - abs(x - n)) * heat[k, n]
    return out


def test_upsample_equals_a_slow_loop_and_fills_0_to_1():
    heat = 5 + np.random.default_rng(0).random((2, 3, 4)).astype(np.float32)
    pictures = upsample(heat, (7, 9))
    assert pictures.shape == (2, 7, 9) and pictures.dtype == np.float32
    for picture, small in zip(pictures, heat, strict=True):
        expected = bilinear_slowly(small, 7, 9)
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        np.testing.assert_allclose(picture, expected, atol=1e-5)
    for value in (0.0, 0.1, 1e-20, 1e20):  # a constant map becomes nothing
        assert not upsample(np.full((1, 3, 3), value, np.float32), (7, 8)).any()


def test_overlay_is_as_much_brighter_as_hotter():
    image = np.random.default_rng(0).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    heat = np.array([[0.0, 1.0], [0.5, 0.5]])
    assert (overlay(image, heat, 0) == image).all()
    scale = overlay(np.zeros((1, 50, 3), np.uint8), np.linspace(0, 1, 50)[None], 1)[0]
    assert (np.diff(scale @ [0.299, 0.587, 0.114]) > 0).all()  # perceived brightness, as of JPEG
    half = overlay(image, heat)
    assert half.dtype == np.uint8
    mixed = (image[0, 1].astype(float) + scale[-1]) / 2
    assert np.abs(half[0, 1] - mixed).max() <= 1


def test_overlay_errors():
    image, heat = np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5))
    with pytest.raises(ValueError, match=r"\(4, 5, 3\) under heat \(5, 4\)"):
        overlay(image, heat.T)
    with pytest.raises(ValueError, match="float32"):
        overlay(image.astype(np.float32), heat)
    for wrong in (1.5, -0.5, np.nan):
        with pytest.raises(ValueError, match=f"{wrong} at strength"):
            overlay(image, heat + wrong)
        with pytest.raises(ValueError, match=f"strength {wrong}"):
            overlay(image, heat, wrong)
