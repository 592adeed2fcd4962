"""What print(model) and a notebook say of a model."""

import re
import time

import pytest
import torch
from torch import nn

import dinomix
from dinomix.aggregators import AGGREGATORS, Aggregator, register_aggregator
from dinomix.plumbing.summary import facts

TINY = {"backbone": "toy_vits14", "image_size": 28, "out_channels": 4, "out_rows": 2}
VLAD = {"aggregator": "netvlad", "aggregator_options": {"clusters": 4}}


def build(**changes):
    return dinomix.build_model(dinomix.ModelConfig(**{**TINY, **changes}))


def test_facts_are_the_models():
    model = build(mix_depth=1, image_size=(28, 42))
    told = facts(model)
    count = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    learn = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(count.values())
    assert told == {
        "images": "28 x 42 px",
        "backbone": "toy_vits14, 12 blocks: 9 frozen, 3 trained",
        "map": "96 channels of 2 x 3",
        "aggregator": "mix (mix_depth 1, out_channels 4, out_rows 2)",
        "descriptor": "8 entries, 32 bytes as float32",
        "parameters": f"{total:,} (backbone {count['backbone']:,}, "
        f"aggregator {count['aggregator']:,})",
        "trained": f"{learn:,} ({100 * learn / total:.0f} %)",
    }
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 28, 42)).numpy().nbytes == 32


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"trained_blocks": "all"}, "backbone", "toy_vits14, 12 blocks, all trained"),
        ({"trained_blocks": 0, "train_tokens": True}, "backbone", "12 frozen, 0 trained, and its"),
        ({"aggregator": "gem", "trained_blocks": 0}, "aggregator", "gem"),
        (VLAD, "aggregator", "netvlad (clusters 4)"),
        ({"aggregator": "convap"}, "aggregator", "convap (out_channels 4)"),
    ],
)
def test_what_is_special(changes, field, expected):
    assert expected in facts(build(**changes))[field]


def test_print_is_a_line_a_fact_and_repr_is_one_line():
    model = build()
    lines = str(model).splitlines()
    assert lines[0] == "PlaceModel" and len(lines) == 1 + len(facts(model))
    assert f"{model}" == str(model) and "\n" not in repr(model)
    assert "toy_vits14" in repr(model)
    told = re.findall(r"<th[^>]*>(.*?)</th><td[^>]*>(.*?)</td>", model._repr_html_())
    assert dict(told) == facts(model)  # a notebook shows the same


def test_modules_inside_print_as_torch_prints_them():
    model = build(mix_depth=1)
    assert str(model.aggregator) == nn.Module.__repr__(model.aggregator)
    assert "(channel_proj): Linear" in str(model.aggregator)
    assert "(trunk)" in str(model.backbone)


def test_names_of_options_are_text_and_never_markup():
    @register_aggregator("summary_test")
    class Pool(Aggregator):
        def __init__(self, in_channels: int) -> None:
            super().__init__()
            self.dim = in_channels

        def pool(self, maps):
            return maps.mean((2, 3))

    try:
        model = build(aggregator="summary_test", trained_blocks=1)
        object.__setattr__(model.config, "backbone", "<script>")
        assert "<script>" not in model._repr_html_() and "&lt;script&gt;" in model._repr_html_()
        assert "summary_test\n" in str(model)
    finally:
        del AGGREGATORS["summary_test"]


def test_the_largest_model_is_told_at_once_without_memory():
    with torch.device("meta"):
        model = dinomix.PlaceModel(dinomix.ModelConfig(backbone="dinov2_vitg14"))
    started = time.perf_counter()
    text = str(model) + repr(model) + model._repr_html_()
    assert time.perf_counter() - started < 1
    assert "dinov2_vitg14, 40 blocks: 37 frozen, 3 trained" in text
    assert all(p.is_meta for p in model.parameters())
