import pytest
import torch
from torch import nn

from dinomix.backbones import build_backbone
from dinomix.study.probes import anatomy, freezing_costs, resize_disagreement, saved_activations


def test_anatomy_of_dinov2_without_allocating_it():
    row = anatomy("dinov2_vitb14", 224)
    assert (row["blocks"], row["channels"], row["grid"]) == (12, 768, "16 x 16")
    # blocks and embeddings, without the final norm (2 * 768) and the mask token
    block = 4 * 768 + 768 * 3 * 768 + 3 * 768 + 768**2 + 768 + 8 * 768**2 + 5 * 768 + 2 * 768
    embedding = 768 * 3 * 14 * 14 + 768 + 768 + 1370 * 768
    assert row["parameters"] == 12 * block + embedding


def test_saved_bytes_of_a_layer_whose_needs_are_known():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 16, bias=False), nn.Linear(16, 4, bias=False)

        def forward(self, x):
            return self.second(self.first(x))

    _, kept = saved_activations(Two(), torch.ones(5, 8))
    assert kept == 4 * (5 * 8 + 5 * 16)  # each layer keeps its input, float32


def test_freezing_costs_less_than_trained_tokens():
    table = freezing_costs("toy_vits14", [0, 1, 12], 56, batch_size=2, repeats=1)
    kept = table.pivot(index="trained_blocks", columns="scheme", values="activations")
    frozen, authors = kept["frozen prefix"], kept["tokens trained (authors)"]
    assert frozen[0] == 0 and authors[0] > 0
    assert 0 < frozen[1] < authors[1] / 2
    assert frozen[1] < frozen[12]
    assert (table["step"] > 0).all()


def test_resizing_differs_unless_the_grid_is_native():
    torch.manual_seed(0)
    net = build_backbone("toy_vits14", image_size=(112, 112))
    nn.init.normal_(net.trunk.pos_embed, std=0.5)
    images = torch.randn(2, 3, 112, 112)
    assert resize_disagreement(net, images, 112) == pytest.approx(1, abs=1e-6)
    assert resize_disagreement(net, images, 56) < 0.999
    rotary = build_backbone("dinov3_vits16", image_size=32, trained_blocks=0)
    with pytest.raises(ValueError, match="dinov3_vits16 has no position embedding"):
        resize_disagreement(rotary, images, 32)
