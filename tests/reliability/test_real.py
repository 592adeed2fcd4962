"""The whole chain on real photographs and really pretrained weights, where there are any."""

import pytest

import dinomix
from dinomix.images import eval_transform
from dinomix.training import initialise
from tests.conftest import SHARED

WEIGHTS = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"
PHOTOS = SHARED / "realplaces"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (WEIGHTS.exists() and PHOTOS.exists()), reason="no real photographs and weights here"
    ),
]


def recalls(model) -> list[float]:
    test = dinomix.TestSet(PHOTOS / "sped_test")
    return dinomix.evaluate(model, test, progress=False)["recall"].round(1).tolist()


def test_zero_shot_gem_gives_the_reference_numbers():
    """The reference stands in docs/own-data.md, and in a README beside the weights."""
    config = dinomix.ModelConfig(
        backbone="timm/tf_efficientnet_lite0", stage=3, trained_blocks=0, aggregator="gem"
    )
    assert recalls(dinomix.build_model(config, WEIGHTS)) == pytest.approx([56.2, 72.4, 79.3])


def test_training_on_real_places_raises_recall_on_others(tmp_path):
    """What docs/own-data.md shows."""
    config = dinomix.ModelConfig(
        backbone="timm/tf_efficientnet_lite0",
        stage=3,
        trained_blocks=2,
        out_channels=128,
        out_rows=4,
        image_size=224,
    )
    places, val = dinomix.PlaceDataset(PHOTOS / "gsv_layout", images_per_place=2).hold_out(0.2)
    recipe = dinomix.TrainConfig.preset("toy", epochs=16, lr=1e-3, augment="randaugment")
    run = dinomix.train(config, places, val, recipe, weights=WEIGHTS, out=tmp_path, progress=False)
    before, after = recalls(dinomix.build_model(config, WEIGHTS)), recalls(run.load())
    print(f"R@1, 5, 10 before training {before}, after {after}")
    assert sum(after) > sum(before) + 10  # single recalls have a standard error of 3 points


def test_a_mixer_that_starts_from_the_photos_beats_gem_before_training():
    """At home and away: on cameras of the same kind, and along a corridor indoors."""
    backbone = {"backbone": "timm/tf_efficientnet_lite0", "stage": 3, "trained_blocks": 0}
    config = dinomix.ModelConfig(**backbone, out_channels=112, out_rows=16)
    gem = dinomix.build_model(dinomix.ModelConfig(**backbone, aggregator="gem"), WEIGHTS)
    mixer = dinomix.build_model(config, WEIGHTS)
    places = dinomix.PlaceDataset(PHOTOS / "gsv_layout", images_per_place=2)
    initialise(mixer, places.with_transform(eval_transform(224)))
    corridor = PHOTOS / "other" / "corridor"
    away = dinomix.layouts.read_frames(corridor / "database", corridor / "queries", tolerance=2)
    found = {}
    for name, model in (("GeM", gem), ("mixer", mixer)):
        elsewhere = dinomix.evaluate(model, away, progress=False)["recall"].round(1).tolist()
        found[name] = [recalls(model)[0], elsewhere[0]]
    print(f"R@1 at home and in the corridor, nothing trained: {found}")
    assert all(ours > its + 10 for ours, its in zip(found["mixer"], found["GeM"], strict=True))
