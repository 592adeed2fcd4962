"""Aggregators of other people: registered, built, trained, saved, loaded, refused."""

import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import dinomix
from dinomix.aggregators import (
    AGGREGATORS,
    BUILT_IN,
    Aggregator,
    GeM,
    own_aggregators,
    register_aggregator,
)
from dinomix.cli import app
from dinomix.study.study import Study, variants
from tests.conftest import write_places, write_testset

SMALL = {"backbone": "toy_vits14", "image_size": 28, "trained_blocks": 1}


@pytest.fixture(autouse=True)
def registry():
    yield
    for name in own_aggregators():
        del AGGREGATORS[name]


def define(name="scaled_mean"):
    """What a notebook's cell does, each time it runs."""

    @register_aggregator(name)
    class ScaledMean(Aggregator):
        def __init__(self, in_channels: int, scale: float = 1.0) -> None:
            super().__init__()
            self.dim = in_channels
            self.scale = torch.nn.Parameter(scale * torch.ones(in_channels))

        def pool(self, maps):
            return self.scale * maps.mean((2, 3))

    return ScaledMean


def test_end_to_end(tmp_path):
    cls = define()
    config = dinomix.ModelConfig(
        **SMALL, aggregator="scaled_mean", aggregator_options={"scale": 2.0}
    )
    model = dinomix.build_model(config).eval()
    assert isinstance(model.aggregator, cls) and model.dim == 96
    assert (model.aggregator.scale == 2).all()
    images = torch.randn(3, 3, 28, 28)
    torch.testing.assert_close(model(images).norm(dim=1), torch.ones(3))
    path = dinomix.save_model(model, tmp_path / "m.safetensors")
    assert torch.equal(dinomix.load_model(path)(images), model(images))

    places, val = dinomix.PlaceDataset(write_places(tmp_path / "places")).hold_out(0.34)
    recipe = dinomix.TrainConfig(epochs=1, places_per_batch=4, lr=0.1, device="cpu")
    run = dinomix.train(config, places, val, recipe, out=tmp_path / "runs", progress=False)
    assert not torch.equal(run.load().aggregator.scale, model.aggregator.scale)  # it learned


def test_saved_models_say_what_they_lack(tmp_path):
    define()
    config = dinomix.ModelConfig(**SMALL, aggregator="scaled_mean")
    with pytest.raises(ValueError, match=r"no options \['size'\]; it has \['scale'\]"):
        dinomix.ModelConfig(**SMALL, aggregator="scaled_mean", aggregator_options={"size": 1})
    path = dinomix.save_model(dinomix.build_model(config), tmp_path / "m.safetensors")
    del AGGREGATORS["scaled_mean"]
    said = r"m\.safetensors.*unknown aggregator 'scaled_mean'.*register_aggregator\('scaled_mean'\)"
    with pytest.raises(ValueError, match=said):
        dinomix.load_model(path)


def test_names_that_are_taken():
    first, second = define(), define()  # a cell may run twice
    assert first is not second and AGGREGATORS["scaled_mean"] is second
    for name, owner in {"mix": "FeatureMixer", "scaled_mean": "ScaledMean", "gem": "GeM"}.items():
        other = type("Other", (second,), {})
        with pytest.raises(ValueError, match=f"'{name}' already, .*{owner}: choose another name"):
            register_aggregator(name)(GeM if name == "gem" else other)


@pytest.mark.parametrize("name", ["", "Mean", "my mean", "2d", "a/b", "größe", None, 3])
def test_names(name):
    with pytest.raises(ValueError, match="made of a-z, 0-9 and _"):
        register_aggregator(name)


def test_classes_that_cannot_work():
    class Needy(Aggregator):
        def __init__(self, in_channels, width):
            pass

    class Vague(Aggregator):
        def __init__(self, in_channels, **options):
            pass

    for cls, complaint in [
        (torch.nn.Linear, "'x': derive the class from"),
        (lambda maps: maps, "derive the class"),
        (Needy, "Needy takes 'width'"),
        (Vague, r"Vague takes '\*\*options'"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            register_aggregator("x")(cls)
    assert set(AGGREGATORS) == BUILT_IN


def test_command_line_imports_a_module(tmp_path, monkeypatch):
    (tmp_path / "my_aggregators.py").write_text(
        "from dinomix import Aggregator, register_aggregator\n"
        "@register_aggregator('plain_mean')\n"
        "class PlainMean(Aggregator):\n"
        "    def __init__(self, in_channels: int) -> None:\n"
        "        super().__init__()\n"
        "        self.dim = in_channels\n"
        "    def pool(self, maps):\n"
        "        return maps.mean((2, 3))\n"
    )
    (tmp_path / "m.yaml").write_text("aggregator: plain_mean\n")
    arguments = ["train", "nowhere", "--hold-out", "0.5", "--config", "m.yaml"]
    monkeypatch.chdir(tmp_path)
    without = CliRunner().invoke(app, arguments)
    assert without.exit_code == 1 and "unknown aggregator 'plain_mean'" in without.stderr
    command = [sys.executable, "-m", "dinomix", "--import", "my_aggregators", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "aggregator" not in done.stderr and "nowhere" in done.stderr


@pytest.mark.slow
def test_studies_take_it_to_other_processes(tmp_path):
    define()
    write_places(tmp_path / "places")
    write_testset(tmp_path / "city", split="val")
    write_testset(tmp_path / "city", split="test")
    study = Study.under(tmp_path, "places", "city", ["city"], images_per_place=2)
    base = dinomix.ModelConfig(**SMALL, aggregator="scaled_mean")
    recipe = dinomix.TrainConfig(epochs=1, places_per_batch=4, device="cpu")
    listed = variants({"a": {}, "b": {"train": False}}, base, recipe, weights=None)
    table = study.run(listed, workers=2, progress=False)
    assert set(table["method"]) == {"a", "b"} and "R@1" in table._repr_html_()
