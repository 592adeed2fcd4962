"""Every line-up builds, and means the same models everywhere."""

import pytest

import dinomix
from dinomix.model import outline
from dinomix.study.lineups import lineup, lineups
from dinomix.study.study import variants

BASES = {"toy": dinomix.PRESETS["dino_mix_toy"], "paper": dinomix.PRESETS["dino_mix"]}


@pytest.mark.parametrize("name", BASES)
def test_every_model_builds(name):
    found = variants(lineup(name), BASES[name], dinomix.TrainConfig())
    assert [v.method for v in found] == list(lineups()[name])
    for variant in found:
        model = outline(variant.model)
        assert ("frozen" in variant.method) == (variant.train is None)
        on_vit = "ViT" in variant.method or variant.method in ("DINO-Mix", "SALAD", "BoQ")
        assert model.backbone.has_token == on_vit
        if name == "toy" and variant.model.aggregator != "gem":
            assert model.dim == 512, variant.method


def test_lineups_name_the_same_methods():
    assert list(lineups()) == list(BASES)
    assert list(lineup("toy")) == list(lineup("paper"))


def test_methods_are_chosen_by_name():
    assert list(lineup("toy", ["GeM", "DINO-Mix"])) == ["GeM", "DINO-Mix"]
    with pytest.raises(ValueError, match=r"no methods \['Vlad'\].*'NetVLAD'"):
        lineup("toy", ["Vlad"])
    with pytest.raises(ValueError, match="no line-up 'real'; there are toy, paper"):
        lineup("real")
