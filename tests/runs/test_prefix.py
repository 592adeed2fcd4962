"""The cached prefix gives what the whole model gives, and is computed once."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

import dinomix
from dinomix import backbones
from dinomix.images import UnreadableImageError
from dinomix.runs import prefix
from dinomix.runs.prefix import prefix_features
from tests.conftest import write_places, write_testset


def features(model, paths, folder):
    return prefix_features(model, paths, folder, device=torch.device("cpu"), progress=False)


def config(**changes):
    settings = {"backbone": "toy_vits14", "image_size": 28, "out_channels": 8, "trained_blocks": 2}
    return dinomix.ModelConfig(**{**settings, **changes})


@pytest.fixture
def data(tmp_path):
    write_places(tmp_path / "places", places=6)
    write_testset(tmp_path / "city", places=3)
    places = dinomix.PlaceDataset(tmp_path / "places", images_per_place=2)
    return places, dinomix.TestSet(tmp_path / "city")


@pytest.mark.parametrize("aggregator", ["mix", "gem"])
def test_model_goes_on_from_the_features_as_from_the_images(data, tmp_path, aggregator):
    _, test = data
    model = dinomix.build_model(config(aggregator=aggregator), "hub").eval()
    frozen = features(model, test.database, tmp_path)
    plain = dinomix.describe(model, test.database, progress=False)
    cached = dinomix.describe(model, test.database, frozen=frozen, progress=False)
    np.testing.assert_allclose(cached, plain, atol=1e-6)


def test_features_are_those_of_images_normalised_one_by_one(data, tmp_path, monkeypatch):
    """Bit for bit, in the batches they are computed in."""
    monkeypatch.setattr(prefix, "BATCH", 4)
    places, _ = data
    model = dinomix.build_model(config(), "hub").eval()
    mean, std = backbones.normalization("toy_vits14")
    scale = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    images = [
        (scale(Image.open(path)) - torch.tensor(mean)[:, None, None])
        / torch.tensor(std)[:, None, None]
        for path in places.paths
    ]
    with torch.inference_mode():
        parts = torch.stack(images).split(4)
        expected = torch.cat([model.backbone.frozen_features(part) for part in parts])
    frozen = features(model, places.paths, tmp_path)
    found = torch.stack([frozen[path] for path in places.paths])
    assert torch.equal(found, expected)


def test_a_damaged_image_is_named(data, tmp_path):
    _, test = data
    test.queries[1].write_bytes(b"broken")
    with pytest.raises(UnreadableImageError, match=re.escape(str(test.queries[1]))):
        features(dinomix.build_model(config()), test.queries, tmp_path)


def test_features_are_computed_once(data, tmp_path, monkeypatch):
    _, test = data
    model = dinomix.build_model(config())
    first = features(model, test.queries, tmp_path)
    monkeypatch.setattr(prefix, "_compute", None)
    again = features(model, test.queries, tmp_path)
    for path in test.queries:
        assert torch.equal(first[path], again[path])


def test_no_random_number_depends_on_whether_features_are_there(data, tmp_path):
    model, paths = dinomix.build_model(config()), data[1].database
    before = torch.get_rng_state()
    for _ in range(2):
        features(model, paths, tmp_path)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "changes",
    [{"weights": None}, {"trained_blocks": 3}, {"backbone": "toy_vitb14"}, {"image_size": 42}, {}],
)
def test_other_features_have_another_name(data, tmp_path, changes):
    _, test = data

    def compute(weights="hub", **changes):
        model = dinomix.build_model(config(**changes), weights)
        features(model, test.queries, tmp_path / "p")

    compute()
    if not changes:  # another content
        test.queries[0].write_bytes(test.queries[0].read_bytes() + b"more")
    compute(**changes)
    assert len(list((tmp_path / "p").iterdir())) == 2


RESNET = {"backbone": "timm/resnet10t", "image_size": 64, "stage": 3}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"trained_blocks": 0}, True),
        ({"trained_blocks": "all"}, False),
        ({"train_tokens": True}, False),
        ({**RESNET, "trained_blocks": 0}, True),
        ({**RESNET, "trained_blocks": 1}, True),
        ({**RESNET, "trained_blocks": "all"}, False),
        ({**RESNET, "trained_blocks": 0, "moving_statistics": True}, False),
        ({"trained_blocks": 1, "final_norm": True}, True),
    ],
)
def test_which_backbones_have_a_prefix(changes, expected):
    assert dinomix.build_model(config(**changes)).backbone.has_prefix == expected


@pytest.mark.parametrize("name", ["resnet10t", "test_resnet", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("trained", [0, 1, 2])
def test_a_cut_cnn_computes_what_the_whole_one_does(name, trained):
    model = config(backbone=f"timm/{name}", image_size=64, trained_blocks=trained, stage=3)
    net = dinomix.build_model(model).eval().backbone
    images = torch.randn(2, 3, 64, 64)
    whole = net.trunk.forward_intermediates(
        images, indices=[3], output_fmt="NCHW", intermediates_only=True
    )[0]
    frozen = net.frozen_features(images)
    assert net.has_prefix and frozen.shape != images.shape and not frozen.requires_grad
    assert torch.equal(net.finish(frozen)[0], whole)
    assert net.finish(frozen)[0].requires_grad == bool(trained)


def test_building_draws_no_random_numbers_for_the_probe():
    """The weights after it must be those of the seed."""
    torch.manual_seed(0)
    first = dinomix.build_model(config(**RESNET, trained_blocks=1)).aggregator.state_dict()
    torch.manual_seed(0)
    second = dinomix.build_model(config(**RESNET, trained_blocks="all")).aggregator.state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_training_from_the_cache_is_training(data, tmp_path):
    """The same run with and without the cache: equal up to the rounding of other batch sizes."""
    places, val = data
    fields = {"epochs": 2, "places_per_batch": 3, "optimizer": "sgd"}
    options = {"weights": "hub", "out": tmp_path / "runs", "progress": False}
    recipes = [dinomix.TrainConfig.preset("toy", **fields, cache_prefix=c) for c in (True, False)]
    runs = [dinomix.train(config(), places, val, recipe, **options) for recipe in recipes]
    cached, plain = (run.load("last").state_dict() for run in runs)
    untrained = dinomix.build_model(config(), "hub").state_dict()
    name = "backbone.trunk.blocks.11.mlp.fc1.weight"
    assert not torch.equal(plain[name], untrained[name])
    for key, value in plain.items():
        torch.testing.assert_close(cached[key], value, atol=1e-5, rtol=1e-4)
    assert runs[0].folder != runs[1].folder


@pytest.mark.parametrize("trained", [1, "all"])
def test_a_cnn_trains_from_the_cache_where_it_has_a_prefix(data, tmp_path, trained):
    places, val = data
    recipe = dinomix.TrainConfig.preset("toy", epochs=1, places_per_batch=3)
    model = config(**RESNET, trained_blocks=trained)
    run = dinomix.train(model, places, val, recipe, out=tmp_path / "runs", progress=False)
    assert len(run.history) == 2
    assert (tmp_path / "runs" / "prefix").exists() == (trained == 1)


def test_no_cache_of_augmented_images():
    recipe = dinomix.TrainConfig.preset("toy", augment="robust")
    assert dinomix.TrainConfig.preset("toy").cache_prefix and not recipe.cache_prefix
    plain = dinomix.TrainConfig.preset("toy", augment="robust", cache_prefix=False)
    assert recipe == plain  # so they are one run
