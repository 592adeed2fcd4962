"""The whole chain on real photographs and really pretrained weights, where there are any."""

import pytest

import dinomix
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
    """The reference stands in the README beside the weights."""
    config = dinomix.ModelConfig(
        backbone="timm/tf_efficientnet_lite0", stage=3, trained_blocks=0, aggregator="gem"
    )
    assert recalls(dinomix.build_model(config, WEIGHTS)) == pytest.approx([56.2, 72.4, 79.3])


def test_training_on_real_places_raises_recall_on_others(tmp_path):
    """What the README shows for own data."""
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
