"""Models that nobody trained for places."""

import warnings

import numpy as np
import pytest
import torch

from dinomix.localization import stand_in, zero_shot
from dinomix.model import PRESETS, build_model
from dinomix.retrieval import describe


def test_the_stand_in_is_pretrained_and_always_the_same(root):
    one, two = stand_in(), stand_in()
    path = [next(root.glob("@*"))]
    described = describe(one, path, progress=False)
    np.testing.assert_array_equal(described, describe(two, path, progress=False))
    torch.manual_seed(1)
    random = build_model(one.config)
    assert np.abs(described - describe(random, path, progress=False)).max() > 0.01


def test_presets(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"no preset 'gem_dino'; did you mean 'gem_dinov2'"):
        zero_shot("gem_dino")
    with pytest.raises(FileNotFoundError, match="no weights"):
        zero_shot("dino_mix_toy", tmp_path / "weights.pth")
    with pytest.warns(UserWarning, match="aggregator 'mix' is random"):
        one = zero_shot("dino_mix_toy")
    torch.manual_seed(5)
    with pytest.warns(UserWarning, match="is random"):
        two = zero_shot("dino_mix_toy")
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    monkeypatch.setitem(PRESETS, "tiny", stand_in().config)
    with warnings.catch_warnings(action="error"):  # nothing is random here
        assert zero_shot("tiny").config.aggregator == "gem"
