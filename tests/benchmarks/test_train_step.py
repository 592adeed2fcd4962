"""The benchmark of training steps: who is compared with whom."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import train_step
from train_step import AUTHORS, AUTHORS_HALF, SCHEMES


def test_half_precision_is_compared_with_the_authors_half_precision():
    with_gpu, without = set(SCHEMES), set(SCHEMES) - {AUTHORS_HALF}
    assert train_step.reference_of("frozen prefix", with_gpu) == AUTHORS
    assert train_step.reference_of("frozen prefix, fused SGD, bf16", with_gpu) == AUTHORS_HALF
    assert train_step.reference_of("frozen prefix, fused SGD, bf16", without) == AUTHORS
    for name in (AUTHORS, AUTHORS_HALF):
        assert train_step.reference_of(name, with_gpu) == name


def test_table_of_schemes(monkeypatch):
    monkeypatch.setattr(train_step, "pick_device", lambda: train_step.torch.device("cpu"))
    for name in [name for name, options in SCHEMES.items() if options.get("compile")]:
        monkeypatch.delitem(SCHEMES, name)
    table = train_step.compare("toy_vits14", places=2, size=28, repeats=1).set_index("scheme")
    assert list(table.index) == [name for name in SCHEMES if name != AUTHORS_HALF]
    assert (table["reference"] == AUTHORS).all()
    assert table.loc[AUTHORS, ["speed", "of reference"]].tolist() == [1, 1]
    assert 0 < table.loc["frozen prefix", "of reference"] < 0.6
    speeds = table["images/s"] / table.loc[AUTHORS, "images/s"]
    assert table["speed"].tolist() == pytest.approx(speeds.tolist())
