"""Published checkpoints, made up in their layouts, against their authors' code written out."""

from collections import Counter, OrderedDict
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

import dinomix
from dinomix.exchange.published import load_published
from tests.backbones.slowly import tokens_slowly
from tests.test_weights import dinov2_shapes


def mixer_shapes(channels: int, n: int, depth: int, d: int, r: int) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for layer in range(depth):
        shapes |= {f"aggregator.mix.{layer}.mix.0.{part}": (n,) for part in ("weight", "bias")}
        for linear in (1, 3):
            shapes[f"aggregator.mix.{layer}.mix.{linear}.weight"] = (n, n)
            shapes[f"aggregator.mix.{layer}.mix.{linear}.bias"] = (n,)
    return shapes | {
        "aggregator.channel_proj.weight": (d, channels),
        "aggregator.channel_proj.bias": (d,),
        "aggregator.row_proj.weight": (r, n),
        "aggregator.row_proj.bias": (r,),
    }


def dino_mix_shapes(
    size: str = "s", n: int = 256, depth: int = 2, d: int = 8, r: int = 4
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' release; DINOv2-g has SwiGLU instead of an MLP."""
    vit = dinov2_shapes(f"dinov2_vit{size}14")
    vit = {f"backbone.dino_model.{k}": shape for k, shape in vit.items() if k[:5] != "norm."}
    return vit | mixer_shapes(vit["backbone.dino_model.cls_token"][2], n, depth, d, r)


def mixvpr_shapes(n: int = 400, depth: int = 4, d: int = 1024, r: int = 4) -> dict:
    """Names and shapes of MixVPR's release: torchvision's ResNet-50 up to layer3."""
    with torch.device("meta"):
        resnet = torchvision.models.resnet50(weights=None)
    cnn = {
        f"backbone.model.{key}": tuple(tensor.shape)
        for key, tensor in resnet.state_dict().items()
        if not key.startswith(("layer4", "fc"))
    }
    return cnn | mixer_shapes(1024, n, depth, d, r)


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors that all matter and let numbers neither grow nor vanish."""
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for key, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if key.endswith("num_batches_tracked"):
            tensors[key] = torch.tensor(7)
        elif key.endswith("running_var"):
            tensors[key] = 1 + 0.1 * noise.abs()
        elif len(shape) == 1:
            is_scale = key.endswith(("weight", "gamma"))
            tensors[key] = is_scale + 0.1 * noise
        else:
            tokens = key.endswith(("token", "pos_embed"))
            tensors[key] = noise if tokens else noise / noise[0].numel() ** 0.5
    return tensors


def load_shapes(path: Path, shapes: dict[str, tuple[int, ...]]) -> dinomix.PlaceModel:
    """Load such tensors into a model, both without memory: a file of them would be refused."""
    kind = {"num_batches_tracked": torch.int64}
    tensors = {
        key: torch.zeros(shape, dtype=kind.get(key.split(".")[-1]), device="meta")
        for key, shape in shapes.items()
    }
    with (
        torch.device("meta"),
        mock.patch("dinomix.exchange.published.read_tensors", return_value=tensors),
    ):
        return load_published(path)


def mixed(tensors: dict[str, Tensor], maps: Tensor) -> Tensor:
    """The mixer as the paper and both releases have it: channels first, then rows."""
    part = {k.removeprefix("aggregator."): t for k, t in tensors.items()}
    x = maps.flatten(2)  # (B, s, n)
    n = x.shape[2]
    for layer in range(sum(k.endswith("mix.0.weight") for k in part)):
        one = {k.removeprefix(f"mix.{layer}.mix."): t for k, t in part.items()}
        y = F.layer_norm(x, (n,), one["0.weight"], one["0.bias"], 1e-5)
        y = F.relu(F.linear(y, one["1.weight"], one["1.bias"]))
        x = x + F.linear(y, one["3.weight"], one["3.bias"])
    x = F.linear(x.permute(0, 2, 1), part["channel_proj.weight"], part["channel_proj.bias"])
    x = F.linear(x.permute(0, 2, 1), part["row_proj.weight"], part["row_proj.bias"])
    return F.normalize(x.flatten(1), p=2, dim=-1)  # (B, d*r)


def dino_mix(tensors: dict[str, Tensor], images: Tensor, heads: int, offset: float) -> Tensor:
    """The authors' forward on DINOv2's hub code; `offset` is the 0.1 with which it resizes."""
    vit = {k.removeprefix("backbone.dino_model."): t for k, t in tensors.items()}
    h, w, s = images.shape[2] // 14, images.shape[3] // 14, vit["cls_token"].shape[2]
    places = vit["pos_embed"][:, 1:].reshape(1, 37, 37, s).permute(0, 3, 1, 2)
    factors = ((h + offset) / 37, (w + offset) / 37)
    places = F.interpolate(
        places, scale_factor=factors, mode="bicubic", recompute_scale_factor=not offset
    )
    places = places.permute(0, 2, 3, 1).reshape(h * w, s)
    x = tokens_slowly(vit, images, heads, torch.cat([vit["pos_embed"][0, :1], places]))
    return mixed(tensors, x[:, 1:].permute(0, 2, 1).reshape(len(x), s, h, w))


def lightning_file(tensors: dict[str, Tensor]) -> dict:
    """What Lightning puts around a model's tensors."""
    return {
        "epoch": 11,
        "global_step": 8592,
        "pytorch-lightning_version": "1.9.0",
        "state_dict": OrderedDict(tensors),
        "callbacks": {"ModelCheckpoint{'monitor': 'R1'}": {"best_model_score": torch.tensor(0.9)}},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.005, "params": [0, 1]}]}],
        "lr_schedulers": [{"milestones": Counter({5: 1, 10: 1}), "gamma": 0.3}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"backbone_arch": "dinov2_vits14", "milestones": [5, 10], "lr": 0.005},
    }


# DINO-Mix


def test_descriptors_equal_the_authors_code(tmp_path):
    tensors = random_tensors(dino_mix_shapes())
    torch.save(lightning_file(tensors), tmp_path / "dinov2_vits14_mix.ckpt")
    model = dinomix.load_published(tmp_path / "dinov2_vits14_mix.ckpt")
    assert not model.training
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        descriptors = model(images)
        expected = dino_mix(tensors, images, heads=6, offset=0.1)
        elsewhere = dino_mix(tensors, images, heads=6, offset=0)
    assert descriptors.shape == (2, 32)
    torch.testing.assert_close(descriptors, expected, atol=1e-5, rtol=0)
    # Positions resized to the size, without the hub code's 0.1, would not do.
    assert (elsewhere - expected).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:.*meta")
@pytest.mark.parametrize(
    ("size", "n", "depth", "d", "r", "side"),
    [
        ("s", 256, 2, 1024, 4, 224),
        ("b", 529, 0, 32, 4, 322),
        ("l", 256, 7, 64, 2, 224),
        ("g", 256, 2, 1024, 4, 224),
    ],
)
def test_shapes_tell_the_config(tmp_path, size, n, depth, d, r, side):
    model = load_shapes(tmp_path / "a.ckpt", dino_mix_shapes(size, n, depth, d, r))
    assert model.config == dinomix.ModelConfig(
        backbone=f"dinov2_vit{size}14",
        mix_depth=depth,
        out_channels=d,
        out_rows=r,
        image_size=side,
    )
    assert model.dim == d * r


@pytest.mark.filterwarnings("ignore:.*meta")
def test_the_release_has_189_tensors(tmp_path):
    shapes = dino_mix_shapes("b", d=1024, r=4)
    assert len(shapes) == 189
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 87_631_620
    model = load_shapes(tmp_path / "dinov2_vitb14_mix.ckpt", shapes)
    assert model.config == dinomix.PRESETS["dino_mix"]
    assert sum(p.numel() for p in model.parameters()) == 87_631_620 - 768  # the mask token


# MixVPR


def test_descriptors_equal_mixvpr(tmp_path):
    tensors = random_tensors(mixvpr_shapes(n=16, depth=2, d=8, r=2))
    torch.save(tensors, tmp_path / "resnet50_MixVPR.ckpt")
    model = dinomix.load_published(tmp_path / "resnet50_MixVPR.ckpt")
    assert not model.training
    assert model.config.image_size == 64
    resnet = torchvision.models.resnet50(weights=None).eval()
    own = {k.removeprefix("backbone.model."): t for k, t in tensors.items() if "backbone" in k}
    missing, unexpected = resnet.load_state_dict(own, strict=False)
    assert not unexpected
    assert all(key.startswith(("layer4.", "fc.")) for key in missing)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(images))))
        expected = mixed(tensors, resnet.layer3(resnet.layer2(resnet.layer1(x))))
        torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:.*meta")
@pytest.mark.parametrize(("d", "r"), [(1024, 4), (256, 2), (64, 2)])
def test_mixvprs_three_releases(tmp_path, d, r):
    model = load_shapes(tmp_path / "a.ckpt", mixvpr_shapes(d=d, r=r))
    assert model.dim == d * r
    assert (model.config.image_size, model.backbone.grid) == (320, (20, 20))
    preset = dinomix.PRESETS["mixvpr_resnet50"].to_dict()
    assert model.config.to_dict() == {**preset, "out_channels": d, "out_rows": r}


# What does not fit


DINO, MIX, RESNET = "backbone.dino_model.", "aggregator.", "backbone.model."


@pytest.mark.parametrize(
    ("layout", "name", "shape", "problem"),
    [
        *(
            (layout, name, None, "missing {name}")
            for layout, name in (
                (partial(dino_mix_shapes, "g"), f"{DINO}blocks.39.mlp.w12.bias"),  # SwiGLU's
                (dino_mix_shapes, f"{DINO}cls_token"),
                (dino_mix_shapes, f"{DINO}mask_token"),
                (dino_mix_shapes, f"{MIX}mix.1.mix.3.bias"),
                (dino_mix_shapes, f"{MIX}channel_proj.weight"),
                (dino_mix_shapes, f"{MIX}row_proj.weight"),
                (mixvpr_shapes, f"{RESNET}bn1.running_var"),
            )
        ),
        (dino_mix_shapes, f"{DINO}norm.weight", (3,), "unexpected {name}"),
        (dino_mix_shapes, "loss_fn.margin", (3,), "unexpected {name}"),
        (mixvpr_shapes, f"{RESNET}layer4.0.conv1.weight", (3,), "unexpected {name}"),
        (dino_mix_shapes, f"{DINO}pos_embed", (1, 257, 384), "expected (1, 1370, 384)"),
        (dino_mix_shapes, f"{DINO}mask_token", (1, 385), "expected (1, 384)"),
        (dino_mix_shapes, f"{MIX}mix.0.mix.1.weight", (512, 256), "expected (256, 256)"),
        (dino_mix_shapes, f"{MIX}row_proj.bias", (1,), "expected (4,)"),
        (mixvpr_shapes, f"{RESNET}conv1.weight", (64, 3, 3, 3), "expected (64, 3, 7, 7)"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(tmp_path, layout, name, shape, problem):
    shapes = layout() | {name: shape}
    if shape is None:
        del shapes[name]
    if problem.startswith("expected"):
        problem = f"{name} is {shape}, {problem}"
    with pytest.raises(ValueError, match=r"a\.ckpt does not fit") as error:
        load_shapes(tmp_path / "a.ckpt", shapes)
    assert str(error.value).splitlines()[1:] == [f"  {problem.format(name=name)}"]


@pytest.mark.parametrize(
    ("name", "shape", "complaints"),
    [
        ("channel_proj.weight", (8, 400), ["{} is (8, 400)", "no backbone", "400 channels"]),
        ("channel_proj.weight", (384,), ["{} is (384,), expected two axes"]),
        ("row_proj.weight", (4, 255), ["{} is (4, 255)", "255 positions are no square"]),
        # for another grid: with what contradicts it
        ("row_proj.weight", (4, 529), ["{}, (4, 529)", "mix.0.mix.0.bias is (256,), expected"]),
    ],
)
def test_shapes_that_no_model_has(tmp_path, name, shape, complaints):
    shapes = {**dino_mix_shapes(), f"{MIX}{name}": shape}
    with pytest.raises(ValueError) as error:
        load_shapes(tmp_path / "a.ckpt", shapes)
    assert all(words.format(f"{MIX}{name}") in str(error.value) for words in complaints)


@pytest.mark.parametrize(
    ("shapes", "seen"),
    [
        ({"module.conv.weight": (3,), "module.conv.bias": (3,)}, "2 tensors: module.conv (2)"),
        # SALAD and others name their backbone as MixVPR does.
        ({"backbone.model.cls_token": (3,), "aggregator.score.0.bias": (1,)}, "aggregator.score"),
        ({}, "0 tensors: none"),
    ],
)
def test_another_layout(tmp_path, shapes, seen):
    with pytest.raises(ValueError, match="in no published layout") as error:
        load_shapes(tmp_path / "a.ckpt", shapes)
    assert seen in str(error.value) and "DINO-Mix (backbone.dino_model.*" in str(error.value)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "backbone.", "net.module."])
def test_a_common_prefix_is_cut_and_said(tmp_path, prefix):
    shapes = {f"{prefix}{key}": shape for key, shape in mixvpr_shapes().items()}
    with pytest.warns(UserWarning, match=f"a.ckpt: .* without their prefix '{prefix}', 0 left out"):
        model = load_shapes(tmp_path / "a.ckpt", shapes)
    assert model.config.aggregator == "mix" and model.dim == 4096
    twice = shapes | {f"ema.{key}": shape for key, shape in mixvpr_shapes().items()}
    with pytest.raises(ValueError, match=r"in no published layout.* ema\.") as error:
        load_shapes(tmp_path / "a.ckpt", twice)  # which of the two is meant?
    assert len(str(error.value).splitlines()) <= 10


def test_the_nearest_layout_is_found_behind_a_prefix(tmp_path):
    path = tmp_path / "gem.pt"  # has nothing of the mixer, whose name would tell the prefix
    torch.save({"module.backbone.trunk.cls_token": torch.zeros(1, 1, 4)}, path)
    with pytest.raises(ValueError, match=r"nearest is dinomix\. It holds 1 .*module\.backbone"):
        dinomix.load_published(path)


def test_tensors_of_our_own_go_straight_to_a_model(tmp_path):
    """What one function says that another one reads, that other one reads."""
    torch.manual_seed(0)
    config = dinomix.ModelConfig(backbone="toy_vits14", image_size=28, out_channels=4)
    model = dinomix.build_model(config)
    path = tmp_path / "own.pt"
    torch.save(model.state_dict(), path)
    for load in (dinomix.load_published, dinomix.open_model, dinomix.load_model):
        with pytest.raises(ValueError, match=r"own\.pt .*load_model\(path, config\)"):
            load(path)
    with pytest.raises(ValueError, match=r"nearest is dinomix\. It holds .* backbone\.trunk \("):
        dinomix.load_published(path)
    images = torch.randn(1, 3, 28, 28)
    assert torch.equal(dinomix.load_model(path, config)(images), model.eval()(images))
    other = dinomix.ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8)
    with pytest.raises(
        ValueError, match=r"(?s)own\.pt.*does not fit.*is \(4, 64\), expected \(8, 64\)"
    ):
        dinomix.load_model(path, other)
    torch.save({"model": {f"module.{k}": t for k, t in model.state_dict().items()}}, path)
    with pytest.warns(UserWarning) as told:
        assert torch.equal(dinomix.load_model(path, config)(images), model(images))
    assert ["model is read" in str(w.message) or "'module.'" in str(w.message) for w in told] == [
        True
    ] * 2


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.ckpt"):
        load_published(tmp_path / "no.ckpt")
