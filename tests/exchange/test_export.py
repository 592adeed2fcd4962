"""Exported files against the model itself, at other batch sizes than they were traced at."""

import copy
import dataclasses
import json
import sys
import zipfile
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

import dinomix
from dinomix.aggregators import AGGREGATORS
from dinomix.backbones import normalization
from dinomix.exchange import export
from dinomix.exchange.export import export_onnx, export_program
from dinomix.model import ModelConfig, build_model
from tests.test_model import SMALL, randomised, with_aggregator

CNN = ModelConfig(backbone="toy_resnet", trained_blocks=1, image_size=64, out_rows=2)


def shallow(config):
    """A toy transformer of its last two blocks: tracing takes time for each."""
    model = randomised(config)
    model.backbone.trunk.blocks = model.backbone.trunk.blocks[-2:]
    return model


@pytest.fixture(scope="module")
def model():
    """Of 42 x 56 pixels: the positional embedding is resized in the graph."""
    return shallow(SMALL)


def run_onnx(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def assert_same(run, model):
    for batch in (1, 3):
        images = torch.randn(batch, 3, *model.config.size)
        with torch.no_grad():
            expected = model(images)
        assert batch == 1 or expected.std(dim=0).max() > 1e-4  # the images are told apart
        torch.testing.assert_close(run(images), expected, atol=1e-5, rtol=0)


# torch.export


@pytest.fixture(scope="module")
def archive(model, tmp_path_factory):
    return export_program(model, tmp_path_factory.mktemp("program") / "new" / "model.pt2")


def test_the_archive_carries_its_config(model, archive):
    extra = {"dinomix.json": ""}
    program = torch.export.load(archive, extra_files=extra)
    assert_same(program.module(), model)
    told = json.loads(extra["dinomix.json"])
    assert json.loads(told["dinomix_config"]) == SMALL.to_dict()
    assert json.loads(told["input"])["shape"] == ["batch", 3, 42, 56]
    assert list(archive.parent.iterdir()) == [archive]


def test_the_model_is_left_as_it_was(tmp_path):
    model = build_model(CNN).train()
    before = copy.deepcopy(model)
    export_program(model, tmp_path / "model.pt2")
    assert model.training
    learns = [p.requires_grad for p in model.parameters()]
    assert learns == [p.requires_grad for p in before.parameters()]
    was = before.state_dict()  # batch norm's statistics among it
    assert all(torch.equal(tensor, was[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["netvlad", "boq"])
def test_program_of_what_is_special(tmp_path, name):
    """Operations under autocast, and attention."""
    model = shallow(with_aggregator(name))
    path = export_program(model, tmp_path / "model.pt2")
    assert_same(torch.export.load(path).module(), model)


# ONNX


@pytest.fixture
def traced(archive, monkeypatch):
    """Take the trace of `model` that is there: tracing takes longer than writing it."""
    monkeypatch.setattr(export, "_trace", lambda _: torch.export.load(archive))


@pytest.fixture(scope="module")
def file(model, archive, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_trace", lambda _: torch.export.load(archive))
        return export_onnx(model, tmp_path_factory.mktemp("onnx") / "new" / "model.onnx")


def test_onnx_of_a_transformer(model, file):
    assert list(file.parent.iterdir()) == [file]
    onnx.checker.check_model(file, full_check=True)
    assert_same(run_onnx(file), model)


def test_onnx_of_a_cnn(tmp_path):
    model = build_model(CNN).eval()
    assert_same(run_onnx(export_onnx(model, tmp_path / "model.onnx")), model)


def test_a_stranger_knows_what_to_put_in(model, file):
    session = onnxruntime.InferenceSession(file)
    (images,), (descriptors,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape) == ("images", ["batch", 3, 42, 56])
    assert (descriptors.name, descriptors.shape) == ("descriptors", ["batch", model.dim])
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["dinomix_config"]) == SMALL.to_dict()
    assert told["dinomix_version"] == dinomix.__version__
    wanted = json.loads(told["input"])
    assert (wanted["mean"], wanted["std"]) == tuple(map(list, normalization(SMALL.backbone)))
    assert wanted["channels"] == "RGB"
    opsets = [(one.domain, one.version) for one in onnx.load(file).opset_import]
    assert opsets == [("", export.OPSET)]


def test_weights_in_a_second_file(model, traced, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("an older model")
    assert export_onnx(model, path, external_data=True) == path
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert path.stat().st_size < (tmp_path / "model.onnx.data").stat().st_size
    assert_same(run_onnx(path), model)


def test_nobody_is_told_the_paths_of_this_machine(archive, file):
    with zipfile.ZipFile(archive) as content:
        inside = [content.read(name) for name in content.namelist()]
    for text in (*inside, file.read_bytes()):
        assert Path(dinomix.__file__).parent.as_posix().encode() not in text
        assert Path(torch.__file__).parent.as_posix().encode() not in text


# Everything, in both formats


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["toy_vits14", "toy_resnet"])
@pytest.mark.parametrize("name", AGGREGATORS)
def test_every_aggregator(tmp_path, name, backbone):
    if AGGREGATORS[name].takes_token and backbone == "toy_resnet":
        pytest.skip("there is no class token")
    config = with_aggregator(name)
    if backbone == "toy_resnet":
        model = build_model(dataclasses.replace(config, backbone=backbone, image_size=96)).eval()
    else:
        model = randomised(config)
    path = export_program(model, tmp_path / "model.pt2")
    assert_same(torch.export.load(path).module(), model)
    assert_same(run_onnx(export_onnx(model, tmp_path / "model.onnx")), model)


# What cannot be exported, and where to


@pytest.mark.parametrize(("function", "suffix"), [(export_onnx, ".onnx"), (export_program, ".pt2")])
def test_a_wrong_export_is_never_written(model, traced, tmp_path, function, suffix):
    with pytest.raises(ValueError, match=rf"\{suffix}, not as .*model\.pth"):
        function(model, tmp_path / "model.pth")
    path = tmp_path / f"model{suffix}"
    path.write_text("an older model")
    other = copy.deepcopy(model)
    other.aggregator.row_proj.weight.data[0, 0] += 0.1
    with pytest.raises(RuntimeError, match=r"differs from it by 0\.\d+.*nothing was written"):
        function(other, path)
    assert path.read_text() == "an older model"
    assert list(tmp_path.iterdir()) == [path]


def test_a_model_that_cannot_be_traced_is_named(model, tmp_path, monkeypatch):
    def forward(self, images):
        return images.flatten(1) if images.sum() > 0 else -images.flatten(1)

    monkeypatch.setattr(type(model), "forward", forward)
    with pytest.raises(RuntimeError, match=r"torch\.export cannot trace PlaceModel\(toy_vits14"):
        export_program(model, tmp_path / "model.pt2")


def test_without_the_packages(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"onnxscript.*pip install 'dinomix\[export\]'"):
        export_onnx(model, tmp_path / "model.onnx")
