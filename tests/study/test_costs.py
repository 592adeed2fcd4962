"""Costs: counted by hand, measured beside what is known, and every promised error."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from dinomix.aggregators import AGGREGATORS
from dinomix.data import PlaceDataset, TestSet
from dinomix.evaluation import evaluate
from dinomix.model import ModelConfig, build_model, outline
from dinomix.study import costs as module
from dinomix.study.costs import costs, price, search_ms
from dinomix.study.results import overall
from tests.conftest import write_places

TOY = ModelConfig(backbone="toy_vits14", image_size=(70, 42), out_channels=8, out_rows=2)


def vit_flops_slowly(config: ModelConfig, dim: int, heads: int, blocks: int) -> int:
    """Multiplications and additions of a DINOv2 with a mixer, product by product."""

    def product(rows: int, inner: int, columns: int) -> int:
        return 2 * rows * inner * columns

    height, width = config.size
    patches = (height // 14) * (width // 14)
    tokens = 1 + patches
    total = product(patches, 3 * 14 * 14, dim)
    for _ in range(blocks):
        for _ in ("queries", "keys", "values"):
            total += product(tokens, dim, dim)
        for _ in range(heads):
            total += product(tokens, dim // heads, tokens)  # queries by keys
            total += product(tokens, tokens, dim // heads)  # attention by values
        total += product(tokens, dim, dim)
        total += product(tokens, dim, 4 * dim) + product(tokens, 4 * dim, dim)
    for _ in range(config.mix_depth):
        total += 2 * product(dim, patches, patches)
    total += product(dim, patches, config.out_rows)  # rows first, which costs less
    total += product(config.out_rows, dim, config.out_channels)
    return total


def test_flops_equal_a_count_by_hand():
    small, base = (ModelConfig(backbone=name) for name in ("dinov2_vits14", "dinov2_vitb14"))
    for config, dim, heads in [(TOY, 96, 3), (small, 384, 6), (base, 768, 12)]:
        counted = module._flops(outline(config).eval())
        assert counted == vit_flops_slowly(config, dim, heads, blocks=12)


def test_flops_of_a_cnn_equal_a_count_by_hand():
    cut = {"backbone": "toy_resnet", "stage": 1, "trained_blocks": 1}
    config = ModelConfig(**cut, image_size=112, aggregator="gem")

    def conv(side: int, kernel: int, inside: int, outside: int) -> int:
        return 2 * side**2 * kernel**2 * inside * outside

    stem = conv(56, 3, 3, 16) + conv(56, 3, 16, 16) + conv(56, 3, 16, 32)
    assert module._flops(outline(config).eval()) == stem + 4 * conv(28, 3, 32, 32)


def test_costs_of_a_model(monkeypatch):
    monkeypatch.setattr(module, "_memory_of_a_new_process", lambda config, batch_size: 7.0)
    row = costs(TOY, device="cpu", batch_size=2, repeats=1)
    model = build_model(TOY)
    assert row["parameters"] == sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 0 < row["trained_parameters"] == trained < row["parameters"]
    named = ("backbone", "aggregator", "dim", "image_size", "memory_mib", "device", "batch_size")
    assert [row[n] for n in named] == ["toy_vits14", "mix", 16, "70 x 42", 7.0, "cpu", 2]
    assert row["flops"] == vit_flops_slowly(TOY, 96, 3, 12)  # of one image, whatever the batch
    assert row["latency_ms"] > 0


def test_time_is_the_median_after_warming_up():
    lengths = iter([0.05] * module.WARM_UP + [0.001, 0.002, 0.05])
    seconds = module._median_seconds(lambda: time.sleep(next(lengths)), torch.device("cpu"), 3)
    assert 0.002 <= seconds < 0.02
    assert next(lengths, None) is None


def test_latency_is_of_one_image(monkeypatch):
    monkeypatch.setattr(module, "_memory_of_a_new_process", lambda *_: 0.0)
    monkeypatch.setattr(module, "_median_seconds", lambda *_: 0.6)
    assert costs(TOY, device="cpu", batch_size=4)["latency_ms"] == pytest.approx(150)


@pytest.mark.parametrize("aggregator", list(AGGREGATORS))
def test_every_aggregator_runs_with_arbitrary_weights(aggregator):
    config = ModelConfig(backbone="toy_vits14", aggregator=aggregator, image_size=126)
    forward = module._ready(outline(config).eval(), torch.device("cpu"), 2)
    assert forward().isfinite().all()
    assert not forward().requires_grad


def test_memory_of_a_process_of_its_own():
    """At least weights and images; an earlier peak in this process must not count."""
    earlier = torch.ones(64 * module.MIB)  # 256 MiB
    del earlier
    cut = {"backbone": "toy_resnet", "stage": 1, "trained_blocks": 0}
    config = ModelConfig(**cut, image_size=448, aggregator="gem")
    images = 8 * 3 * 448**2 * 4 / module.MIB
    # the stem's last convolution: what it reads and what it writes are there at the same time
    stem = 8 * (16 + 32) * 224**2 * 4 / module.MIB
    measured = module._memory_of_a_new_process(config, batch_size=8)
    assert images + stem < measured < 3 * (images + stem)


def test_a_process_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(module.sys, "executable", "false")
    with pytest.raises(RuntimeError, match="cannot measure the memory of ModelConfig"):
        module._memory_of_a_new_process(TOY, 1)


def test_search_is_timed_on_unit_descriptors(monkeypatch):
    assert 0 < search_ms(16, database=100, queries=10, repeats=1) < 1000
    asked = []
    monkeypatch.setattr(module, "search", lambda *arrays: asked.append(arrays) or time.sleep(0.01))
    per_query = search_ms(6, database=30, queries=5, repeats=2)
    assert 2 <= per_query < 20  # 10 ms for five
    assert len(asked) == module.WARM_UP + 2
    for array, rows in zip(asked[0], (30, 5), strict=True):
        assert array.shape == (rows, 6) and array.dtype == "float32"
        assert all(math.isclose(row @ row, 1, rel_tol=1e-5) for row in array)


@pytest.mark.parametrize("number", [0, -1, 1.0, True])
def test_numbers_below_one(number):
    complaint = f"must be an integer of at least 1, not {number}"
    for name in ("batch_size", "repeats"):
        with pytest.raises(ValueError, match=f"{name} {complaint}"):
            costs(TOY, **{name: number})
    for name in ("dim", "database", "queries", "repeats"):
        with pytest.raises(ValueError, match=f"{name} {complaint}"):
            search_ms(**{"dim": 4, name: number})
    with pytest.raises(ValueError, match="trained_blocks of toy_vits14"):  # fits no model
        costs(ModelConfig(backbone="toy_vits14", trained_blocks=13, image_size=112))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(replace(TOY, image_size=28)).eval()  # 16 numbers


def test_price_of_smaller_descriptors(model, test_root, tmp_path):
    places, test = PlaceDataset(write_places(tmp_path / "places")), TestSet(test_root)
    found = price(model, places.paths, test, [4, 8], repeats=1, progress=False)
    whole = overall(evaluate(model, test, [1], progress=False))
    assert found["recall"].iloc[0] == pytest.approx(whole["recall"].item())  # as it is
    np.testing.assert_allclose(found["lost"], found["recall"].iloc[0] - found["recall"])
    sizes = found.set_index(["method", "dim"])["bytes"]
    assert len(sizes) == sizes.index.nunique() == 20 and (found["search_ms"] > 0).all()
    expected = {("as it is", 16): 64, ("int8", 16): 16, ("binary", 16): 2, ("PCA", 8): 32}
    expected |= {("whitening, int8", 4): 4, ("PCA, binary, compared again", 8): 1}
    assert {key: sizes[key] for key in expected} == expected
    # the few images of this test set are all compared again: nothing is lost by the bits
    recalls = found.set_index(["method", "dim"])["recall"]
    for name, dim in (("PCA", 4), ("whitening", 8)):
        assert recalls[f"{name}, binary, compared again", dim] == recalls[name, dim]


def test_price_learns_from_training_images_alone(model, test_root, tmp_path, monkeypatch):
    places, test = PlaceDataset(write_places(tmp_path / "places")), TestSet(test_root)
    fitted, coded = [], []
    fit, build = module.Projection.fit, module.ApproximateIndex.build
    monkeypatch.setattr(module.Projection, "fit", lambda *args: fitted.append(args) or fit(*args))
    monkeypatch.setattr(
        module.ApproximateIndex,
        "build",
        lambda *args, learn_from: coded.append(learn_from) or build(*args, learn_from=learn_from),
    )
    price(model, places.paths, test, [4], repeats=1, progress=False)
    learned = module.describe(model, places.paths, progress=False)
    ((sample, dim),) = fitted
    np.testing.assert_allclose(sample, learned, atol=1e-6)
    assert dim == 4 and len(coded) == 12 and all(len(part) == len(learned) for part in coded)


@pytest.mark.parametrize(
    ("words", "dims", "options"),
    [
        (r"of 17 entries at least, and not \(8, 16\)", [4, 17], {}),
        (r"more than 8 training .* not \(8, 16\)", [8], {}),
        ("dims is -3", [4, -3], {}),
        ("candidates must be an integer", [], {"candidates": 0}),
        ("k must be an integer", [], {"k": 0}),
        ("repeats must be an integer", [], {"repeats": 0}),
    ],
)
def test_what_cannot_be_priced(model, test_root, words, dims, options):
    test = TestSet(test_root)
    with pytest.raises(ValueError, match=words):
        price(model, test.queries[:8], test, dims, **{"repeats": 1, "progress": False} | options)
