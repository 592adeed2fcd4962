"""Every line-up builds, and means the same models everywhere."""

import pytest
import torch

import dinomix
from dinomix.study.lineups import LINEUPS, lineup
from dinomix.study.study import variants

BASES = {
    "toy": dinomix.PRESETS["dino_mix_toy"],
    "paper": dinomix.PRESETS["dino_mix"],
}


@pytest.mark.parametrize("name", LINEUPS)
def test_every_model_builds(name):
    found = variants(lineup(name), BASES[name], dinomix.TrainConfig())
    assert [v.method for v in found] == list(LINEUPS[name])
    for variant in found:
        with torch.device("meta"):
            model = dinomix.PlaceModel(variant.model)
        assert ("frozen" in variant.method) == (variant.train is None)
        on_vit = "ViT" in variant.method or variant.method in ("DINO-Mix", "SALAD", "BoQ")
        assert model.backbone.has_token == on_vit


def test_the_toy_lineup_compares_descriptors_of_one_length():
    for variant in variants(lineup("toy"), BASES["toy"], dinomix.TrainConfig()):
        if variant.model.aggregator != "gem":
            with torch.device("meta"):
                assert dinomix.PlaceModel(variant.model).dim == 512, variant.method


def test_lineups_name_the_same_methods():
    assert list(LINEUPS["toy"]) == list(LINEUPS["paper"])


def test_methods_are_chosen_by_name():
    assert list(lineup("toy", ["GeM", "DINO-Mix"])) == ["GeM", "DINO-Mix"]
    with pytest.raises(ValueError, match=r"no methods \['Vlad'\].*'NetVLAD'"):
        lineup("toy", ["Vlad"])
    with pytest.raises(ValueError, match="no line-up 'real'; there are toy, paper"):
        lineup("real")
