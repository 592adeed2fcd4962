"""Every layout of weights, the strictness, and damaged files."""

import re
import warnings
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import eva, vision_transformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dinomix import weights
from dinomix.backbones import DINOV2, DINOV3, TOY, RopeViTBackbone, ViTBackbone, build_backbone
from dinomix.model import ModelConfig, build_model, save_model
from dinomix.plumbing.tensorfiles import WRAPPERS, read_tensors
from dinomix.weights import load_backbone_weights, to_timm_layout
from tests.conftest import SHARED

TOY_CONFIG = ModelConfig(backbone="toy_vits14", image_size=28, out_channels=4)


def toy(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_backbone("toy_vits14", image_size=112)


def published(trunk: nn.Module) -> dict[str, Tensor]:
    """The tensors of a toy trunk as DINOv2's release would hold them."""
    return {
        **trunk.state_dict(),
        "mask_token": torch.zeros(1, trunk.embed_dim),
        "norm.weight": torch.ones(trunk.embed_dim),
        "norm.bias": torch.zeros(trunk.embed_dim),
    }


def chunked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As DINOv2's training saves them: blocks.{chunk}.{block}, here in chunks of five."""
    number = re.compile(r"^blocks\.(\d+)\.")
    return {
        number.sub(lambda match: f"blocks.{int(match[1]) // 5}.{match[1]}.", key): tensor
        for key, tensor in tensors.items()
    }


def with_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's layout with the parts that the surgery cuts."""
    extra = {"norm.weight": 96, "norm.bias": 96, "head.weight": 10, "fc_norm.bias": 96}
    return {**tensors, **{key: torch.randn(size) for key, size in extra.items()}}


@contextmanager
def warnings_of(path: Path):
    """What is said of a file."""
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield told
    told += [re.sub(rf"^{re.escape(str(path))}:? ", "", str(each.message)) for each in caught]


def assert_same(a: nn.Module, b: nn.Module) -> None:
    assert a.state_dict().keys() == b.state_dict().keys()
    assert all(torch.equal(t, b.state_dict()[key]) for key, t in a.state_dict().items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "layout",
    [
        published,
        lambda trunk: chunked(published(trunk)),
        lambda trunk: chunked(trunk.state_dict()),
        lambda trunk: with_head(trunk.state_dict()),
        lambda trunk: trunk.state_dict(),
        lambda trunk: (
            {f"backbone.trunk.{key}": t for key, t in trunk.state_dict().items()}
            | {"aggregator.row_proj.bias": torch.zeros(4)}
        ),
    ],
    ids=["published", "chunked", "chunked, no mask token", "timm", "bare", "dinomix"],
)
def test_layouts(tmp_path, layout, suffix):
    source, path = toy(1), tmp_path / f"weights{suffix}"
    tensors = layout(source.trunk)
    torch.save(tensors, path) if suffix == ".pth" else save_file(tensors, path)
    load_backbone_weights(target := toy(2), path)
    assert_same(source, target)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_tensors_in_a_wrapper(tmp_path, wrapper):
    inside = {"epoch": 3, "net": 5, wrapper: toy(1).trunk.state_dict()}
    for content in (inside, {"state_dict": inside}):
        torch.save(content, tmp_path / "a.pth")
        with warnings_of(tmp_path / "a.pth") as told:
            load_backbone_weights(target := toy(2), tmp_path / "a.pth")
        assert told == ([] if wrapper == "state_dict" else [f"has {wrapper}: {wrapper} is read"])
        assert_same(toy(1), target)


def test_of_student_and_teacher_the_teacher_is_taken_without_its_heads(tmp_path):
    """As DINO's and DINOv2's pre-training save both."""
    nets = {
        name: {f"backbone.{k}": t for k, t in toy(seed).trunk.state_dict().items()}
        | {"dino_head.mlp.0.weight": torch.zeros(2)}
        for name, seed in (("student", 3), ("teacher", 1))
    }
    torch.save(nets, tmp_path / "a.pth")
    with warnings_of(tmp_path / "a.pth") as told:
        load_backbone_weights(target := toy(2), tmp_path / "a.pth")
    assert_same(toy(1), target)
    assert told[0] == "has teacher, student: teacher is read"
    assert told[1].endswith("tensors are read without their prefix 'backbone.', 1 left out")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "backbone.", "module._orig_mod.model.backbone."]
)
@pytest.mark.parametrize("layout", [published, lambda trunk: chunked(published(trunk))])
def test_prefixes_are_cut_and_said(tmp_path, prefix, layout):
    tensors = {f"{prefix}{key}": tensor for key, tensor in layout(toy(1).trunk).items()}
    torch.save(tensors, tmp_path / "a.pth")
    with warnings_of(tmp_path / "a.pth") as told:
        load_backbone_weights(target := toy(2), tmp_path / "a.pth")
    assert_same(toy(1), target)
    assert len(told) == 1 and f"prefix {prefix!r}, 0 left out" in told[0]


def test_a_prefixed_cnn_whose_blocks_name_their_tensors_alike(tmp_path):
    whole = timm.create_model("resnet18")  # conv1.weight, layer1.0.conv1.weight, ...
    torch.save({f"module.{k}": t for k, t in whole.state_dict().items()}, tmp_path / "a.pth")
    backbone = build_backbone("timm/resnet18", image_size=64, stage=2, trained_blocks=1)
    with pytest.warns(UserWarning, match=r"'module\.', 0 left out"):
        load_backbone_weights(backbone, tmp_path / "a.pth")
    loaded = backbone.trunk.state_dict()
    assert all(torch.equal(t, whole.state_dict()[key]) for key, t in loaded.items())


@pytest.mark.parametrize(
    "rename",
    [
        lambda key, i: ("online.", "ema.")[i] + key,  # two networks: which one?
        lambda key, i: "my" + key,  # no prefix ends within a word
        lambda key, i: f"encoder.{i}.{key.replace('.', '_')}",
    ],
)
def test_what_fits_nothing_is_told_in_ten_lines(tmp_path, rename):
    keys = toy().trunk.state_dict()
    torch.save({rename(k, i): t for k, t in keys.items() for i in (0, 1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth does not fit toy_vits14") as error:
        load_backbone_weights(toy(), tmp_path / "a.pth")
    lines = str(error.value).splitlines()
    assert len(lines) == 10 and f" tensors, names begin with {rename('', 0)[:3]}" in lines[-1]


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_a_whole_cnn_in_timms_layout(tmp_path, name):
    """EfficientNet names its blocks `blocks.{stage}.{block}`, much like DINOv2's chunks."""
    whole = timm.create_model(name)
    save_file(whole.state_dict(), tmp_path / "cnn.safetensors")
    backbone = build_backbone(f"timm/{name}", image_size=64, stage=2, trained_blocks=1)
    load_backbone_weights(backbone, tmp_path / "cnn.safetensors")
    loaded = backbone.trunk.state_dict()
    assert all(torch.equal(t, whole.state_dict()[key]) for key, t in loaded.items())


def test_a_cnn_without_counts_of_batches(tmp_path):
    """`num_batches_tracked` came to BatchNorms with PyTorch 0.4.1, and changes no map."""
    whole = timm.create_model("resnet18")
    tensors = {k: t for k, t in whole.state_dict().items() if "num_batches" not in k}
    assert len(tensors) == len(whole.state_dict()) - 20
    torch.save(tensors, tmp_path / "old.pth")
    backbone = build_backbone("timm/resnet18", image_size=64, trained_blocks=0)
    load_backbone_weights(backbone, tmp_path / "old.pth")
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(backbone(images), whole.eval().forward_features(images))
    del tensors["bn1.running_mean"]  # this one counts
    torch.save(tensors, tmp_path / "old.pth")
    with pytest.raises(ValueError, match=r"missing bn1\.running_mean$"):
        load_backbone_weights(backbone, tmp_path / "old.pth")


def test_the_last_norm_comes_from_the_file(tmp_path):
    tensors = published(toy(1).trunk) | {"norm.bias": torch.arange(96.0)}
    torch.save(tensors, tmp_path / "a.pth")
    target = build_backbone("toy_vits14", image_size=112, final_norm=True)
    load_backbone_weights(target, tmp_path / "a.pth")
    assert torch.equal(target.trunk.norm.bias, torch.arange(96.0))
    with pytest.raises(
        ValueError, match=r"final_norm=False cuts that off\):\n  missing norm.weight"
    ):
        load_backbone_weights(target, "hub")  # the toys have none


def test_the_backbone_of_a_saved_model(tmp_path):
    source = build_model(TOY_CONFIG)
    path = save_model(source, tmp_path / "model.safetensors")
    gem = ModelConfig(backbone="toy_vits14", aggregator="gem", image_size=112)
    assert_same(source.backbone.trunk, build_model(gem, weights=path).backbone.trunk)


def test_halves_are_loaded_as_the_models_dtype(tmp_path):
    source, target = toy(1), toy(2)
    save_file(
        {k: t.half() for k, t in source.trunk.state_dict().items()}, tmp_path / "a.safetensors"
    )
    load_backbone_weights(target, tmp_path / "a.safetensors")
    weight = target.trunk.patch_embed.proj.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, source.trunk.patch_embed.proj.weight.half().float())


DEPTHS = {384: 12, 768: 12, 1024: 24, 1280: 32, 1536: 40, 4096: 40}


def released_shapes(channels: int, patch: int, mlp: dict[str, tuple[int, ...]]) -> dict:
    """Names and shapes that DINOv2's and DINOv3's files share, with those of a block's MLP."""
    block = {
        **{f"norm{i}.{part}": (channels,) for i in (1, 2) for part in ("weight", "bias")},
        **{f"ls{i}.gamma": (channels,) for i in (1, 2)},
        "attn.qkv.weight": (3 * channels, channels),
        "attn.proj.weight": (channels, channels),
        "attn.proj.bias": (channels,),
        **{f"mlp.{name}.weight": shape for name, shape in mlp.items()},
        **{f"mlp.{name}.bias": shape[:1] for name, shape in mlp.items()},
    }
    return {
        "cls_token": (1, 1, channels),
        "mask_token": (1, channels),
        "patch_embed.proj.weight": (channels, 3, patch, patch),
        "patch_embed.proj.bias": (channels,),
        "norm.weight": (channels,),
        "norm.bias": (channels,),
        **{f"blocks.{i}.{key}": s for i in range(DEPTHS[channels]) for key, s in block.items()},
    }


def dinov2_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes in DINOv2's files; giant's SwiGLU is w12 and w3 of 2 * 4096 channels."""
    channels = {"s": 384, "b": 768, "l": 1024, "g": 1536}[name[10]]
    mlp = {"fc1": (4 * channels, channels), "fc2": (channels, 4 * channels)}
    shapes = released_shapes(
        channels, 14, {"w12": (8192, 1536), "w3": (1536, 4096)} if channels == 1536 else mlp
    )
    shapes |= {f"blocks.{i}.attn.qkv.bias": (3 * channels,) for i in range(DEPTHS[channels])}
    shapes["pos_embed"] = (1, 1 + 37 * 37, channels)
    return shapes | ({"register_tokens": (1, 4, channels)} if name.endswith("_reg") else {})


def dinov3_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes in DINOv3's files: SwiGLU in plus and 7B, which has no bias of qkv."""
    channels = {"s": 384, "b": 768, "l": 1024, "h": 1280, "7": 4096}[name[10]]
    hidden = {"s": 1536, "h": 5120, "7": 8192}.get(name[10], 0)
    swiglu = {"w1": (hidden, channels), "w2": (hidden, channels), "w3": (channels, hidden)}
    mlp = {"fc1": (4 * channels, channels), "fc2": (channels, 4 * channels)}
    is_7b = channels == 4096
    shapes = released_shapes(channels, 16, swiglu if "plus" in name or is_7b else mlp)
    for i in range(0 if is_7b else DEPTHS[channels]):
        shapes |= {f"blocks.{i}.attn.qkv.{part}": (3 * channels,) for part in ("bias", "bias_mask")}
    if is_7b:
        shapes |= {f"local_cls_norm.{part}": (channels,) for part in ("weight", "bias")}
    periods = 32 if is_7b else 16
    return {**shapes, "storage_tokens": (1, 4, channels), "rope_embed.periods": (periods,)}


@pytest.mark.parametrize("name", [*DINOV2, *DINOV3])
def test_every_release_fits_name_by_name(name):
    with torch.device("meta"):
        wanted = build_backbone(name, image_size=112).trunk.state_dict()
        shapes = dinov2_shapes(name) if name in DINOV2 else dinov3_shapes(name)
        converted = to_timm_layout({key: torch.empty(shape) for key, shape in shapes.items()})
    kept = {key: tensor.shape for key, tensor in converted.items() if key in wanted}
    assert kept == {key: tensor.shape for key, tensor in wanted.items()}
    left = {re.sub(r"^blocks\.\d+\.", "", key) for key in converted.keys() - kept.keys()}
    needless = {"norm.weight", "norm.bias", "mask_token"}
    if name in DINOV3:
        needless |= {"rope.periods"}
        needless |= (
            {"local_cls_norm.weight", "local_cls_norm.bias"}
            if name == "dinov3_vit7b16"
            else {f"attn.{part}_bias" for part in "qkv"}
        )
    assert left == needless


def test_registers_are_converted_as_timm_does():
    network = VisionTransformer(
        56, 14, embed_dim=8, depth=1, num_heads=1, num_classes=0, reg_tokens=4, no_embed_class=True
    )
    tensors = network.state_dict() | {
        "register_tokens": torch.randn(1, 4, 8),
        "pos_embed": torch.randn(1, 17, 8),
        "cls_token": torch.randn(1, 1, 8),
        "mask_token": torch.zeros(1, 8),
    }
    del tensors["reg_token"]
    ours = to_timm_layout(dict(tensors))
    theirs = vision_transformer.checkpoint_filter_fn(dict(tensors), network)
    assert ours.keys() - {"mask_token"} == theirs.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)


def test_a_file_with_registers(tmp_path):
    def backbone(seed: int) -> ViTBackbone:
        torch.manual_seed(seed)
        network = VisionTransformer(56, 14, **SMALL, reg_tokens=4, no_embed_class=True)
        nn.init.normal_(network.cls_token)
        return ViTBackbone("tiny", network, (56, 56), 1, False)

    source = backbone(1)
    tensors = published(source.trunk)
    tensors["register_tokens"] = tensors.pop("reg_token")
    first = torch.randn(1, 1, 32)  # in the file, the class token's position is still its own
    tensors["cls_token"] = tensors["cls_token"] - first
    tensors["pos_embed"] = torch.cat([first, tensors["pos_embed"]], dim=1)
    torch.save(tensors, tmp_path / "reg.pth")
    target = backbone(2)
    load_backbone_weights(target, tmp_path / "reg.pth")
    images = torch.randn(1, 3, 42, 70)
    torch.testing.assert_close(target(images), source(images))


# DINOv3's release

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0, "init_values": 1.0}
PLUS = "vit_small_plus_patch16_dinov3"


def rope_backbone(seed: int, like: str = PLUS) -> RopeViTBackbone:
    torch.manual_seed(seed)
    network = timm.create_model(like, **SMALL)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return RopeViTBackbone("dinov3_vits16plus", network, (64, 64), 1, False)


def dinov3_published(trunk: nn.Module, bias: float = 0.0) -> dict[str, Tensor]:
    """The tensors of a trunk as DINOv3's files hold them; `bias` fills what it has no bias for."""
    names = {"fc1_g": "w1", "fc1_x": "w2", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    names |= {"reg_token": "storage_tokens"}
    if "blocks.0.mlp.fc1_g.weight" in trunk.state_dict():
        names["mlp.fc2"] = "mlp.w3"
    tensors = {}
    for key, tensor in trunk.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        tensors[key] = tensor
    for i in range(2):
        bias_of = {part: tensors.pop(f"blocks.{i}.attn.{part}_bias", None) for part in "qv"}
        q, v = (torch.full((32,), bias) if t is None else t for t in bias_of.values())
        tensors[f"blocks.{i}.attn.qkv.bias"] = torch.cat([q, torch.randn(32), v])
        mask = torch.ones(96)
        mask[32:64] = 0
        tensors[f"blocks.{i}.attn.qkv.bias_mask"] = mask
    tensors["rope_embed.periods"] = (100 ** (torch.arange(4) / 4)).bfloat16()
    tensors |= {f"{norm}.weight": torch.ones(32) for norm in ("norm", "local_cls_norm")}
    return {**tensors, "mask_token": torch.zeros(1, 32)}


@pytest.mark.parametrize(
    "like", [PLUS, "vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb"]
)
def test_dinov3s_release(tmp_path, like):
    source, target = rope_backbone(1, like), rope_backbone(2, like)
    tensors = dinov3_published(source.trunk)
    torch.save(tensors, tmp_path / "dinov3.pth")
    load_backbone_weights(target, tmp_path / "dinov3.pth")
    assert_same(source, target)
    theirs = eva.checkpoint_filter_fn(dict(tensors), timm.create_model(like, **SMALL))
    assert theirs.keys() - target.cut_keys == target.trunk.state_dict().keys()
    assert all(torch.equal(t, theirs[key]) for key, t in target.trunk.state_dict().items())
    save_file(source.trunk.state_dict(), tmp_path / "timm.safetensors")
    load_backbone_weights(again := rope_backbone(3, like), tmp_path / "timm.safetensors")
    assert_same(source, again)


def test_biases_of_zero_fit_a_network_that_has_them(tmp_path):
    plain = rope_backbone(1, "vit_small_patch16_dinov3")
    torch.save(dinov3_published(plain.trunk), tmp_path / "dinov3.pth")
    biased = rope_backbone(2, "vit_small_patch16_dinov3_qkvb")
    load_backbone_weights(biased, tmp_path / "dinov3.pth")
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(biased(images), plain(images))


def test_what_cannot_be_left_out_of_dinov3_is_named(tmp_path):
    source = rope_backbone(1)
    tensors = dinov3_published(source.trunk, bias=0.1)
    del tensors["blocks.1.attn.qkv.bias_mask"]  # the keys' bias counts
    tensors["rope_embed.periods"] = 10_000 ** (torch.arange(4) / 4)
    torch.save(tensors, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=re.escape("other.pth does not fit")) as error:
        load_backbone_weights(rope_backbone(2), tmp_path / "other.pth")
    assert set(map(str.strip, str(error.value).splitlines()[1:])) == {
        "unexpected rope.periods",
        "unexpected blocks.1.attn.k_bias",
        *(f"unexpected blocks.{i}.attn.{part}_bias" for i in (0, 1) for part in "qv"),
    }


# What does not fit


def test_every_key_that_does_not_fit_is_named(tmp_path):
    tensors = toy().trunk.state_dict()
    del tensors["cls_token"], tensors["blocks.3.ls1.gamma"]
    tensors |= {"blocks.12.ls1.gamma": torch.ones(96), "extra": torch.ones(1)}
    tensors["pos_embed"] = torch.zeros(1, 1370, 96)
    torch.save(tensors, tmp_path / "a.pth")
    target = toy(2)
    with pytest.raises(ValueError, match=re.escape("a.pth does not fit toy_vits14:")) as error:
        load_backbone_weights(target, tmp_path / "a.pth")
    assert set(map(str.strip, str(error.value).splitlines()[1:])) == {
        "missing cls_token",
        "missing blocks.3.ls1.gamma",
        "unexpected blocks.12.ls1.gamma",
        "unexpected extra",
        "pos_embed is (1, 1370, 96), expected (1, 65, 96)",
    }
    assert_same(target, toy(2))  # nothing was copied


def test_none_leaves_the_weights():
    backbone = toy(3)
    load_backbone_weights(backbone, None)
    assert_same(backbone, toy(3))


# The hub and the package's own weights


def test_hub_for_toys_is_the_file_in_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "TOY_WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="make weights") as error:
        load_backbone_weights(toy(), "hub")
    assert str(tmp_path / "toy_vits14.safetensors") in str(error.value)
    save_file(toy(1).trunk.state_dict(), tmp_path / "toy_vits14.safetensors")
    load_backbone_weights(target := toy(2), "hub")
    assert_same(toy(1), target)


@pytest.mark.parametrize("name", list(TOY))
def test_the_shipped_weights(name):
    if not (weights.TOY_WEIGHTS / f"{name}.safetensors").exists():
        pytest.skip("not pre-trained yet")
    backbone = build_backbone(name, image_size=112)
    random = [parameter.clone() for parameter in backbone.trunk.parameters()]
    load_backbone_weights(backbone, "hub")
    pretrained = list(backbone.trunk.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(random, pretrained, strict=True))
    assert backbone(torch.randn(1, 3, 112, 112)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("timm/vit_tiny_patch16_224", {"image_size": 64}),
        ("timm/resnet18", {"image_size": 64, "stage": 2, "trained_blocks": 1}),
        ("timm/swin_tiny_patch4_window7_224", {"image_size": 64}),
    ],
)
def test_hub_asks_timm_and_cuts(monkeypatch, name, options):
    backbone = build_backbone(name, **options)
    networks, create = [], timm.create_model

    def pretend(model: str, pretrained: bool = False, **kwargs) -> nn.Module:
        assert pretrained
        networks.append(create(model, **kwargs))
        return networks[0]

    monkeypatch.setattr(timm, "create_model", pretend)
    load_backbone_weights(backbone, "hub")
    loaded, whole = backbone.trunk.state_dict(), networks[0].state_dict()
    assert all(torch.equal(t, whole[key]) for key, t in loaded.items())
    assert backbone.cut_keys == whole.keys() - loaded.keys() != set()


def test_a_hub_out_of_reach(monkeypatch):
    def unreachable(*_, **__) -> None:
        raise ConnectionError("no route to host")

    backbone = build_backbone("timm/resnet18", image_size=64)
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(RuntimeError, match=r"no route to host.*downloaded file"):
        load_backbone_weights(backbone, "hub")


@pytest.mark.parametrize("stage", [3, 4])
def test_real_weights_of_a_cnn(stage):
    path = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"
    if not path.exists():
        pytest.skip("needs the shared weights")
    name = "timm/tf_efficientnet_lite0"
    backbone = build_backbone(name, image_size=96, stage=stage).eval()
    load_backbone_weights(backbone, path)
    reference = timm.create_model("tf_efficientnet_lite0").eval()
    reference.load_state_dict(read_tensors(path))
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        maps = reference.forward_intermediates(images, [stage], intermediates_only=True)[0]
        torch.testing.assert_close(backbone(images), maps)


# Files that cannot be read


@pytest.mark.parametrize("name", ["nothing.pth", "nothing.safetensors"])
def test_a_file_that_is_not_there(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path / name}: give")):
        load_backbone_weights(toy(), tmp_path / name)


@pytest.mark.parametrize("keep", [0, 7, 5000])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_cut_short(tmp_path, suffix, keep):
    path = tmp_path / f"cut{suffix}"
    tensors = toy().trunk.state_dict()
    torch.save(tensors, path) if suffix == ".pth" else save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=re.escape(str(path)) + " is damaged"):
        load_backbone_weights(toy(), path)


def test_a_file_with_objects_says_which_and_what_to_do(tmp_path):
    content = {"state_dict": toy(1).trunk.state_dict(), "when": Fraction(1, 2), "kind": Path}
    torch.save(content, tmp_path / "rich.ckpt")
    with pytest.raises(ValueError, match="objects that are no tensors") as error:
        read_tensors(tmp_path / "rich.ckpt")
    assert "fractions.Fraction, pathlib" in str(error.value)
    # The recipe in the message makes a file that can be read.
    recipe = "\n".join(map(str.strip, str(error.value).splitlines()[-2:]))
    recipe = recipe.replace("'rich.ckpt'", "given").replace("'tensors.ckpt'", "made")
    exec(recipe, {"torch": torch, "given": tmp_path / "rich.ckpt", "made": tmp_path / "made.ckpt"})
    load_backbone_weights(target := toy(2), tmp_path / "made.ckpt")
    assert_same(toy(1), target)


@pytest.mark.parametrize("content", [[torch.ones(2)], {"epoch": 3}, {3: torch.ones(2)}])
def test_files_of_other_things(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth holds no dictionary"):
        load_backbone_weights(toy(), tmp_path / "other.pth")
