"""`torch.hub.load` of a checkout, as somebody does who has not installed dinomix."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dinomix.exchange import published
from dinomix.model import PRESETS, ModelConfig, build_model, save_model

ROOT = Path(__file__).parents[2]
TINY = {"backbone": "timm/test_resnet", "image_size": 64, "out_channels": 8, "out_rows": 2}


def load(name: str, *args, **options) -> torch.nn.Module:
    return torch.hub.load(str(ROOT), name, *args, source="local", **options)


def test_the_entry_points(monkeypatch):
    """torch.hub lists whatever can be called and does not begin with an underscore."""
    names = runpy.run_path(str(ROOT / "hubconf.py"))
    listed = [name for name, value in names.items() if callable(value) and name[0] != "_"]
    assert listed == ["dino_mix", "dino_mix_toy", "published"]
    assert all(names[name].__doc__ for name in listed)
    monkeypatch.setattr(published, "load_published", lambda path: f"the model in {path}")
    assert load("published", "release.ckpt") == "the model in release.ckpt"


def test_a_random_model_of_a_changed_config():
    model = load("dino_mix", **TINY)
    assert model.config == ModelConfig(**TINY)
    assert not model.training
    with torch.device("meta"):
        assert load("dino_mix").config == PRESETS["dino_mix"]
    with pytest.raises(ValueError, match=r"has no fields \['depth'\]"):
        load("dino_mix", depth=3)


def test_the_toy_model_comes_with_its_backbones_weights():
    model = load("dino_mix_toy")
    expected = build_model(PRESETS["dino_mix_toy"], "hub").backbone.state_dict()
    own = model.backbone.state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in own.items())
    assert model(torch.randn(2, 3, 112, 112)).shape == (2, 512)
    assert load("dino_mix_toy", pretrained=None, image_size=56).config.size == (56, 56)


def test_trained_models(tmp_path):
    model = build_model(ModelConfig(**TINY)).eval()
    model.save_pretrained(tmp_path / "folder")
    save_model(model, tmp_path / "file.safetensors")
    images = torch.randn(2, 3, 64, 64)
    for pretrained in (tmp_path / "folder", str(tmp_path / "file.safetensors")):
        assert torch.equal(load("dino_mix", pretrained=pretrained)(images), model(images))
    with pytest.raises(ValueError, match=r"config of its own: leave out \{'mix_depth': 1\}"):
        load("dino_mix", pretrained=tmp_path / "folder", mix_depth=1)


def test_a_bare_checkout_is_enough(tmp_path):
    """The package comes from the checkout, and nothing is imported but the listed dependencies."""
    shutil.copytree(ROOT / "dinomix", tmp_path / "dinomix", ignore=lambda *_: ["__pycache__"])
    shutil.copy(ROOT / "hubconf.py", tmp_path)
    others = ["pandas", "scipy", "faiss", "accelerate", "matplotlib", "utm", "dask", "onnx"]
    code = (
        "import sys, torch\n"
        "model = torch.hub.load(sys.argv[1], 'dino_mix_toy', source='local', image_size=28)\n"
        "import dinomix\n"
        "assert model(torch.zeros(1, 3, 28, 28)).shape == (1, 512)\n"
        f"print(dinomix.__file__, sorted(set({others}) & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "dinomix" / "__init__.py"), "[]"]
