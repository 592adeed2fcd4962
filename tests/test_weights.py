"""Every layout of weights, the strictness, and damaged files."""

import re
from pathlib import Path

import pytest
import timm
import torch
from conftest import SHARED
from safetensors.torch import save_file
from torch import Tensor, nn

from dinomix import weights
from dinomix.backbones import TOY, build_backbone
from dinomix.model import ModelConfig, build_model, save_model
from dinomix.weights import load_backbone_weights, load_strict, read_tensors, to_timm_layout

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
    extra = {"norm.weight": 64, "norm.bias": 64, "head.weight": 10, "fc_norm.bias": 64}
    return {**tensors, **{key: torch.randn(size) for key, size in extra.items()}}


def assert_same(a: nn.Module, b: nn.Module) -> None:
    assert a.state_dict().keys() == b.state_dict().keys()
    assert all(torch.equal(t, b.state_dict()[key]) for key, t in a.state_dict().items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "layout",
    [
        lambda trunk: published(trunk),
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
    source, target = toy(1), toy(2)
    path = tmp_path / f"weights{suffix}"
    tensors = layout(source.trunk)
    if suffix == ".pth":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    load_backbone_weights(target, path)
    assert_same(source, target)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_a_whole_cnn_in_timms_layout(tmp_path, name):
    """EfficientNet names its blocks `blocks.{stage}.{block}`, much like DINOv2's chunks."""
    whole = timm.create_model(name)
    save_file(whole.state_dict(), tmp_path / "cnn.safetensors")
    backbone = build_backbone(f"timm/{name}", image_size=64, stage=2, trained_blocks=1)
    load_backbone_weights(backbone, tmp_path / "cnn.safetensors")
    loaded = backbone.trunk.state_dict()
    assert all(torch.equal(t, whole.state_dict()[key]) for key, t in loaded.items())


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_tensors_in_a_wrapper(tmp_path, wrapper):
    torch.save({wrapper: toy(1).trunk.state_dict(), "epoch": 3}, tmp_path / "a.pth")
    load_backbone_weights(target := toy(2), tmp_path / "a.pth")
    assert_same(toy(1), target)


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


def test_giants_layout_fits_name_by_name():
    """DINOv2-g's published names and shapes: SwiGLU is w12 and w3 of 2 * 4096 hidden channels."""
    with torch.device("meta"):
        backbone = build_backbone("dinov2_vitg14")
        shapes = {
            "norm1.weight": 1536,
            "norm1.bias": 1536,
            "norm2.weight": 1536,
            "norm2.bias": 1536,
        }
        shapes |= {"attn.qkv.weight": (4608, 1536), "attn.qkv.bias": 4608, "ls1.gamma": 1536}
        shapes |= {"attn.proj.weight": (1536, 1536), "attn.proj.bias": 1536, "ls2.gamma": 1536}
        shapes |= {"mlp.w12.weight": (8192, 1536), "mlp.w12.bias": 8192}
        shapes |= {"mlp.w3.weight": (1536, 4096), "mlp.w3.bias": 1536}
        tensors = {
            f"blocks.{i}.{key}": torch.empty(s) for i in range(40) for key, s in shapes.items()
        }
        tensors |= {"cls_token": torch.empty(1, 1, 1536), "pos_embed": torch.empty(1, 1370, 1536)}
        tensors["patch_embed.proj.weight"] = torch.empty(1536, 3, 14, 14)
        tensors["patch_embed.proj.bias"] = torch.empty(1536)
        assert "blocks.3.mlp.fc1.bias" in to_timm_layout(tensors)
        load_strict(backbone.trunk, to_timm_layout(tensors), "does not fit")


def test_registers_are_converted_as_timm_does():
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

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
    theirs = checkpoint_filter_fn(dict(tensors), network)
    assert ours.keys() - {"mask_token"} == theirs.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)


def test_every_key_that_does_not_fit_is_named(tmp_path):
    tensors = toy().trunk.state_dict()
    del tensors["cls_token"], tensors["blocks.3.ls1.gamma"]
    tensors |= {"blocks.12.ls1.gamma": torch.ones(64), "extra": torch.ones(1)}
    tensors["pos_embed"] = torch.zeros(1, 1370, 64)
    torch.save(tensors, tmp_path / "a.pth")
    target = toy(2)
    with pytest.raises(ValueError, match=re.escape("a.pth does not fit toy_vits14:")) as error:
        load_backbone_weights(target, tmp_path / "a.pth")
    assert set(map(str.strip, str(error.value).splitlines()[1:])) == {
        "missing cls_token",
        "missing blocks.3.ls1.gamma",
        "unexpected blocks.12.ls1.gamma",
        "unexpected extra",
        "pos_embed is (1, 1370, 64), expected (1, 65, 64)",
    }
    assert_same(target, toy(2))  # nothing was copied


def test_another_size_does_not_fit(tmp_path):
    save_file(toy().trunk.state_dict(), tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match=r"cls_token is \(1, 1, 64\), expected \(1, 1, 128\)"):
        load_backbone_weights(build_backbone("toy_vitb14"), tmp_path / "small.safetensors")


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
    backbone = build_backbone("timm/resnet18", image_size=64)

    def unreachable(*_, **__) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(RuntimeError, match=r"no route to host.*give the path of a downloaded file"):
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
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / name))):
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


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


def test_objects_are_not_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="no PyTorch file of tensors alone"):
        load_backbone_weights(toy(), tmp_path / "evil.pth")
    assert not Path("evil").exists()


@pytest.mark.parametrize("content", [[torch.ones(2)], {"epoch": 3}, torch.ones(2)])
def test_files_of_other_things(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth holds no dictionary of named tensors"):
        load_backbone_weights(toy(), tmp_path / "other.pth")
