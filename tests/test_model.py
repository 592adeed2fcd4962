"""The config's promises, the whole model, and its file."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import dinomix
from dinomix.aggregators import AGGREGATORS
from dinomix.images import as_size
from dinomix.model import PRESETS, ModelConfig, build_model, load_model, save_model
from dinomix.plumbing.files import config_hash
from tests.aggregators.test_aggregators import SMALL as SMALL_OPTIONS

SMALL = ModelConfig(backbone="toy_vits14", image_size=(42, 56), out_channels=16, out_rows=2)


def randomised(config: ModelConfig = SMALL) -> torch.nn.Module:
    """A model in which every parameter matters, LayerScale's too."""
    torch.manual_seed(0)
    model = build_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter) + (parameter.ndim == 1) * 0.5)
    return model.eval()


def with_aggregator(name: str) -> ModelConfig:
    options = SMALL_OPTIONS.get(name, {})
    return dataclasses.replace(SMALL, aggregator=name, image_size=56, aggregator_options=options)


# Config


def test_defaults_are_the_papers_best():
    assert PRESETS["dino_mix"] == ModelConfig(
        backbone="dinov2_vitb14",
        trained_blocks=3,
        train_tokens=False,
        aggregator="mix",
        mix_depth=2,
        out_channels=1024,
        out_rows=4,
        image_size=224,
        stage=None,
    )


WRONG = {
    "backbone": ["dinov2_vitz14", None],
    "trained_blocks": [-1, "3", "none", 2.0, True],
    "train_tokens": [1],
    "aggregator": ["vlad", ["mix"]],
    "mix_depth": [-1, "2"],
    "out_channels": [0, 64.0],
    "out_rows": [0, None],
    "image_size": ["224", "native", 0, (224,), (224, 224.0)],
    "stage": [-1, "last"],
    "final_norm": [1],
    "moving_statistics": ["no"],
    "aggregator_options": [5, "gem", {"clusters": "4"}],
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, vs in WRONG.items() for v in vs])
def test_a_wrong_value_is_named(field, value):
    with pytest.raises(ValueError, match=re.escape(repr(value))) as error:
        ModelConfig(**{field: value})
    assert field in str(error.value)


def test_configs_are_frozen_and_a_square_has_one_form():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SMALL.backbone = "toy_vitb14"
    assert ModelConfig(image_size=(224, 224)) == ModelConfig(image_size=[224, 224]) == ModelConfig()
    assert hash(ModelConfig(image_size=[224, 224])) == hash(ModelConfig())
    assert (ModelConfig().size, SMALL.size) == ((224, 224), (42, 56))


@pytest.mark.parametrize("config", [*PRESETS.values(), SMALL, ModelConfig(trained_blocks="all")])
def test_config_survives_json(config):
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_numbers_of_numpy_give_the_same_config():
    one, other = (
        ModelConfig(aggregator="netvlad", mix_depth=depth, image_size=size, aggregator_options=own)
        for depth, size, own in (
            (np.int64(1), np.array([28, 42]), {"clusters": np.int32(8)}),
            (1, (28, 42), {"clusters": 8}),
        )
    )
    assert one == other and hash(one) == hash(other)
    assert config_hash(one.to_dict()) == config_hash(other.to_dict())
    assert as_size(np.int64(28)) == (28, 28)


def test_unknown_keys_of_a_config_are_named():
    with pytest.raises(ValueError, match=r"\['depth', 'lr'\]; did you mean 'mix_depth'"):
        ModelConfig.from_dict({"depth": 2, "mix_depth": 2, "lr": 0.1})


def test_build_model_wants_a_config():
    with pytest.raises(ValueError, match="must be a ModelConfig"):
        build_model({"backbone": "toy_vits14"})


# Model


def test_the_papers_model_has_the_published_tensors():
    """The authors' file: 189 tensors, 87,631,620 parameters. Ours lacks only the mask token."""
    with torch.device("meta"):
        model = build_model(PRESETS["dino_mix"])
    tensors = model.state_dict()
    renamed = {key.replace("backbone.trunk.", "backbone.dino_model.") for key in tensors}
    block = {
        *(f"{part}.{kind}" for part in ("norm1", "norm2") for kind in ("weight", "bias")),
        *(f"attn.{part}.{kind}" for part in ("qkv", "proj") for kind in ("weight", "bias")),
        *(f"mlp.{part}.{kind}" for part in ("fc1", "fc2") for kind in ("weight", "bias")),
        *("ls1.gamma", "ls2.gamma"),
    }
    dino = {
        "cls_token",
        "pos_embed",
        "mask_token",
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
    }
    dino |= {f"blocks.{i}.{part}" for i in range(12) for part in block}
    authors = {f"backbone.dino_model.{key}" for key in dino}
    authors |= {
        f"aggregator.{part}.{kind}"
        for part in (
            *(f"mix.{layer}.mix.{i}" for layer in (0, 1) for i in (0, 1, 3)),
            "channel_proj",
            "row_proj",
        )
        for kind in ("weight", "bias")
    }
    assert len(authors) == 189
    assert authors - renamed == {"backbone.dino_model.mask_token"}
    assert renamed <= authors
    mask_token = 768
    assert sum(t.numel() for t in tensors.values()) + mask_token == 87_631_620
    assert tensors["backbone.trunk.pos_embed"].shape == (1, 1370, 768)
    assert model.dim == 4096


@pytest.mark.parametrize(
    ("config", "dim"),
    [
        (SMALL, 32),
        (dataclasses.replace(SMALL, aggregator="gem", trained_blocks="all"), 96),
        (dataclasses.replace(SMALL, mix_depth=0, trained_blocks=0), 32),
        (dataclasses.replace(SMALL, backbone="timm/resnet18", image_size=64, stage=3), 32),
    ],
)
def test_descriptors(config, dim):
    model = build_model(config)
    images = torch.randn(3, 3, *config.size)
    out = model(images)
    assert model.dim == dim
    assert out.shape == (3, dim)
    torch.testing.assert_close(out.norm(dim=1), torch.ones(3))
    out[:, 0].sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


# Entries of each preset's descriptor, the parameters of its aggregator, the blocks that train.
CNN_STAGES = ("layer3", "layer4")
PRESET_SIZES = {
    "dino_mix": (4096, 1_052_676, ("9", "10", "11")),
    "dino_mix_authors": (4096, 1_052_676, ("cls_token", "pos_embed", "8", "9", "10", "11")),
    "dino_mix_toy": (512, 29_572, ("9", "10", "11")),
    "gem_resnet50": (2048, 1, CNN_STAGES),
    "gem_dinov2": (768, 1, ("9", "10", "11")),
    "netvlad_resnet50": (64 * 1024, 131_136, ("layer3",)),
    "netvlad_dinov2": (64 * 768, 98_368, ("9", "10", "11")),
    "convap_resnet50": (2048, 1_049_088, CNN_STAGES),
    "convap_dinov2": (2048, 393_728, ("9", "10", "11")),
    "cosplace_resnet50": (2048, 4_196_353, CNN_STAGES),
    "cosplace_dinov2": (768, 590_593, ("9", "10", "11")),
    "mixvpr_resnet50": (4096, 2_337_604, ("layer3",)),
    "salad": (8448, 1_411_009, ("8", "9", "10", "11", "norm")),
    "boq_resnet50": (16_384, 15_301_152, ("layer2", "layer3")),
    "boq": (12_288, 8_626_080, ("10", "11")),
}


@pytest.mark.parametrize("name", PRESETS)
def test_sizes_of_the_presets(name):
    dim, parameters, trained = PRESET_SIZES[name]
    with torch.device("meta"):
        model = build_model(PRESETS[name])
    assert model.dim == dim
    assert sum(p.numel() for p in model.aggregator.parameters()) == parameters
    learning = [key for key, p in model.backbone.trunk.named_parameters() if p.requires_grad]
    blocks = [key.removeprefix("blocks.").split(".")[0] for key in learning]
    assert tuple(dict.fromkeys(blocks)) == trained


@pytest.mark.parametrize("name", AGGREGATORS)
def test_each_aggregator_on_a_backbone(name):
    model = build_model(with_aggregator(name))
    images = torch.randn(3, 3, 56, 56)
    out = model(images)
    assert out.shape == (3, model.dim)
    torch.testing.assert_close(out.norm(dim=1), torch.ones(3))
    model.eval()
    torch.testing.assert_close(model.finish(model.backbone.frozen_features(images)), model(images))


def test_salad_takes_the_backbones_class_token():
    model = build_model(with_aggregator("salad")).eval()
    images = torch.randn(2, 3, 56, 56)
    expected = model.aggregator(model.backbone(images), model.backbone.tokens(images)[:, 0])
    assert torch.equal(model(images), expected)
    with pytest.raises(ValueError, match=r"timm/resnet18 has none: choose a vision"):
        build_model(dataclasses.replace(model.config, backbone="timm/resnet18"))


def test_options_of_an_aggregator_are_kept_in_one_order():
    one, other = (
        ModelConfig(aggregator="convap", aggregator_options=options)
        for options in ({"pool_rows": 1, "pool_columns": 3}, {"pool_columns": 3, "pool_rows": 1})
    )
    assert one == other
    assert hash(one) == hash(other)
    assert one.to_dict()["aggregator_options"] == {"pool_rows": 1, "pool_columns": 3}
    with pytest.raises(ValueError, match=r"'convap' has no options \['clusters'\]"):
        ModelConfig(aggregator="convap", aggregator_options={"clusters": 8})


def test_descriptors_do_not_depend_on_the_batch():
    model = randomised()
    images = torch.randn(7, 3, 42, 56)
    with torch.no_grad():
        together = model(images)
        apart = torch.cat([model(image[None]) for image in images])
    assert (together[0] - together[1]).abs().max() > 1e-3  # they do tell images apart
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)


def test_the_same_seed_gives_the_same_model():
    images = torch.randn(2, 3, 42, 56)
    assert torch.equal(randomised()(images), randomised()(images))
    models = []
    for _ in range(2):
        torch.manual_seed(1)
        models.append(build_model(SMALL).state_dict())
    assert all(torch.equal(t, models[1][key]) for key, t in models[0].items())


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ((1, 3, 56, 56), "3x4, not 4x4: .*image_size"),
        ((1, 3, 50, 56), "multiples of 14 pixels, not 50x56"),
        *((s, re.escape(f"(B, 3, H, W), not {s}")) for s in [(3, 42, 56), (1, 1, 42, 56)]),
    ],
)
def test_images_of_another_shape_are_refused(shape, complaint):
    with pytest.raises(ValueError, match=complaint):
        build_model(SMALL)(torch.randn(shape))
    gem = build_model(dataclasses.replace(SMALL, aggregator="gem"))
    assert gem(torch.randn(1, 3, 56, 56)).shape == (1, 96)


def test_repr_sums_the_model_up():
    model = build_model(SMALL)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    text = repr(model)
    assert text.startswith(
        "PlaceModel(toy_vits14 + mix: 42x56 px -> 32 entries; trains 3 of 12 blocks"
    )
    assert f"{trained:,} of " in text
    assert "\n" not in text


# The file


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        dataclasses.replace(SMALL, backbone="timm/resnet18", image_size=64),
        *map(with_aggregator, AGGREGATORS),
    ],
)
def test_a_saved_model_gives_the_same_bits(tmp_path, config):
    model, images = build_model(config), torch.randn(3, 3, *config.size)
    model(images)  # moves batch-norm statistics, if there are any
    model.eval().aggregator.initialise(model.backbone(images))
    for parameter in model.aggregator.parameters():
        parameter.data += 0.1 * torch.rand_like(parameter)
    loaded = load_model(save_model(model, tmp_path / "runs" / "model.safetensors"))
    assert loaded.config == config
    assert not loaded.training
    assert torch.equal(loaded(images), model(images))
    requires = [p.requires_grad for p in model.parameters()]
    assert [p.requires_grad for p in loaded.parameters()] == requires


def test_the_file_carries_config_and_version(tmp_path):
    path = save_model(build_model(SMALL), tmp_path / "model.safetensors")
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    assert json.loads(header["dinomix_config"]) == SMALL.to_dict()
    assert header["dinomix_version"] == dinomix.__version__
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_model_in_place_stays_if_saving_fails(tmp_path, monkeypatch):
    path = save_model(randomised(), tmp_path / "model.safetensors")
    before = path.read_bytes()

    def fail(*_, **__) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("dinomix.model.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(build_model(SMALL), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_options_that_are_off_are_no_part_of_a_config():
    """So models from before them keep their names: SALAD's from when its norm was cut off."""
    plain = dataclasses.replace(PRESETS["salad"], final_norm=False)
    assert config_hash(plain.to_dict()) == "16a7c1dd75ee"  # recorded
    moving = dataclasses.replace(PRESETS["gem_resnet50"], moving_statistics=True)
    assert config_hash(moving.to_dict()) != config_hash(PRESETS["gem_resnet50"].to_dict())
    for config in (plain, moving, PRESETS["salad"]):
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_vggs_cut_is_in_its_config_and_old_files_keep_their_pool(tmp_path):
    vgg = ModelConfig("timm/vgg11", 1, aggregator="gem", image_size=64)
    assert ModelConfig.from_dict(vgg.to_dict()) == vgg
    other = ModelConfig.from_dict(vgg.to_dict() | {"backbone": "timm/resnet18"})
    assert other == dataclasses.replace(vgg, backbone="timm/resnet18")
    model = build_model(vgg).eval()
    new = load_model(save_model(model, tmp_path / "new.safetensors"))
    assert new.config == vgg and new.backbone.grid == (4, 4)
    fields = vgg.to_dict() | {"stage": None}  # as it was written before
    metadata = {"dinomix_config": json.dumps(fields), "dinomix_version": "0.0.1"}
    save_file(model.state_dict(), tmp_path / "old.safetensors", metadata=metadata)
    old = load_model(tmp_path / "old.safetensors")
    assert old.config.stage == 5 and old.backbone.grid == (2, 2)
    assert config_hash(old.config.to_dict()) != config_hash(vgg.to_dict()) != config_hash(fields)
    images = torch.randn(1, 3, 64, 64)
    pooled = torch.nn.functional.max_pool2d(new.backbone(images).relu(), 2)
    torch.testing.assert_close(old.backbone(images), pooled)


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"saved as \.safetensors, not as .*model\.pth"):
        save_model(build_model(SMALL), tmp_path / "model.pth")


@pytest.mark.parametrize("keep", [0, 100, 100_000])
def test_a_file_cut_short_is_refused(tmp_path, keep):
    path = save_model(build_model(SMALL), tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_model(path)


def header(version, **fields):
    return {"dinomix_config": json.dumps(SMALL.to_dict() | fields), "dinomix_version": version}


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        (None, "carries no dinomix config"),
        (header("0.0.1"), r"dinomix 0\.0\.1.*\n  missing aggregator.row_proj.bias$"),
        (header("9.0", later_field=1), r"dinomix 9\.0.*later_field"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, metadata, complaint):
    tensors = build_model(SMALL).state_dict()
    del tensors["aggregator.row_proj.bias"]
    save_file(tensors, tmp_path / "a.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=rf"a\.safetensors.*{complaint}"):
        load_model(tmp_path / "a.safetensors")


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors"):
        load_model(tmp_path / "gone.safetensors")
