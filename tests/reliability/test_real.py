"""The whole chain on real photographs and really pretrained weights, where there are any."""

import pytest
import torch

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


LITE = {"backbone": "timm/tf_efficientnet_lite0", "stage": 3, "trained_blocks": 0}
SMALL = dinomix.ModelConfig(**LITE, out_channels=112, out_rows=49, image_size=224)


@pytest.fixture(scope="module")
def places():
    return dinomix.PlaceDataset(PHOTOS / "gsv_layout", images_per_place=2)


@pytest.fixture(scope="module")
def sets():
    """Other cameras of the same kind; two of other kinds, which nothing was chosen on."""
    found = {"home": dinomix.TestSet(PHOTOS / "sped_test")}
    for name, frames in (("corridor", 2), ("nordland64", 1)):
        folder = PHOTOS / "other" / name
        found[name] = dinomix.layouts.read_frames(
            folder / "database", folder / "queries", tolerance=frames
        )
    return found


def recalls(model, sets) -> dict[str, list[float]]:
    return {
        name: dinomix.evaluate(model, test, progress=False)["recall"].round(1).tolist()
        for name, test in sets.items()
    }


def test_zero_shot_gem_gives_the_reference_numbers(sets):
    """The reference stands in the README beside the weights."""
    config = dinomix.ModelConfig(**LITE, aggregator="gem")
    found = recalls(dinomix.build_model(config, WEIGHTS), {"home": sets["home"]})
    assert found["home"] == pytest.approx([56.2, 72.4, 79.3])


def test_what_knows_places_untrained(places, sets):
    """docs/own-data.md shows these beside what is trained."""

    def build(**fields):
        return dinomix.build_model(dinomix.ModelConfig(**(LITE | fields)), WEIGHTS)

    netvlad = build(aggregator="netvlad", aggregator_options={"clusters": 64})
    mixer = dinomix.build_model(SMALL, WEIGHTS)
    for model in (netvlad, mixer):
        initialise(model, places.with_transform(eval_transform(224)))
    gem = build(aggregator="gem")
    mean, std = dinomix.backbones.normalization(LITE["backbone"])
    flat = torch.nn.Sequential(gem.backbone, torch.nn.Flatten())
    flat = dinomix.wrap_model(flat, image_size=224, mean=mean, std=std, name="flattened")
    models = {"GeM": gem, "NetVLAD": netvlad, "flattened map": flat, "mixer": mixer}
    found = {name: recalls(model, sets) for name, model in models.items()}
    print("nothing trained, R@1, 5, 10:", *found.items(), sep="\n")
    for name in sets:
        assert found["mixer"][name][0] > found["GeM"][name][0] + 10


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_recipe_for_few_places_wins_at_home_and_loses_nothing_away(
    places, sets, seed, tmp_path
):
    """Against what needs no training: the map as it is at home, GeM on photos of other kinds."""
    rest, val = places.hold_out(0.2, crops=tmp_path / "crops")
    recipe = dinomix.TrainConfig.preset("small", seed=seed)
    run = dinomix.train(SMALL, rest, val, recipe, weights=WEIGHTS, out=tmp_path, progress=False)
    found = recalls(run.load(), sets)
    print(f"seed {seed}: {found}; {run.history['recall@1'].round(1).tolist()} while training")
    assert found["home"][0] > 85.2  # the flattened map, and the untrained mixer
    assert found["corridor"][0] >= 63.1 and found["nordland64"][0] >= 8.6  # GeM
