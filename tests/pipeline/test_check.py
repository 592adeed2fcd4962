"""The dry run: what is missing is named, what is there passes, what is shared counts once."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from dinomix.datasets import benchmarks
from dinomix.datasets.benchmarks import Benchmark
from dinomix.model import ModelConfig, build_model, save_model
from dinomix.pipeline import check as module
from dinomix.pipeline.check import check
from dinomix.pipeline.notebooks import load_profile
from tests.conftest import write_places, write_testset
from tests.exchange.test_published import mixvpr_shapes, random_tensors

SETS = {"train_folder": "places", "val_folder": "city", "test_folders": ["city"]}
SIZES = {"image_size": 28, "mix_depth": 1, "out_channels": 8, "out_rows": 2, "images_per_place": 4}
PARAMETERS = {
    **{"required": {}, "backbone": "toy_vits14", "weights": "hub", "trained_blocks": 1},
    **{"preset": "toy", "train_changes": {"places_per_batch": 4}, "seeds": [0, 1]},
    **(SETS | SIZES),
}


@pytest.fixture
def data(tmp_path):
    """Everything that `PARAMETERS` need."""
    root = tmp_path / "data"
    write_places(root / "places")
    for split in ("val", "test"):
        write_testset(root / "city", split=split, conditions=("day", "night"))
    return root


def checked(tmp_path: Path, data: Path, **changes) -> dict[str, SimpleNamespace]:
    """The check of a profile of one notebook, by what."""
    folder = tmp_path / "notebooks"
    values = PARAMETERS | changes
    source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    cell = new_code_cell(source, metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[cell])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python"}
    (folder / "profiles").mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / "03_b.ipynb")
    (folder / "profiles" / "p.yaml").write_text("common: {}\nnotebooks: {03_b: }")
    table = check("p", data, notebooks=folder)
    assert list(table) == ["what", "found", "needed", "ok"] and table["what"].is_unique
    assert json.loads(table.to_json(orient="records"))[0]["what"] == "packages"
    return {row.what: row for row in table.itertuples()}


def failing(found: dict) -> list[str]:
    return [row.what for row in found.values() if not row.ok]


def test_what_is_there_passes_and_nothing_is_written(tmp_path, data):
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    found = checked(tmp_path, data)
    assert not failing(found)
    assert found["places"].found == "1 cities, 6 places, 24 images"
    for split in ("val", "test"):
        assert found[f"city, {split}"].found == "5 database images, 10 queries"
    assert found["weights of toy_vits14"].found == "in the package"
    assert found["models"].found == "2 to train, unless they are there, and 0 without training"
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


@pytest.mark.parametrize("profile", ["smoke", "demo", "toy"])
def test_toy_profiles_pass_on_a_fresh_checkout(tmp_path, profile):
    table = check(profile, tmp_path / "data")
    assert table["ok"].all(), table[~table["ok"]]
    assert "a notebook renders it" in " ".join(table["found"])
    assert not (tmp_path / "data").exists()


def test_paper_profile_names_all_that_is_missing(tmp_path):
    found = {row.what: row for row in check("paper", tmp_path).itertuples()}
    for what in ("gsv-cities", "pitts30k-val", "tokyo247", "nordland", "sfxl-testv1-small"):
        assert what in failing(found)
    assert "23 cities" in found["gsv-cities"].needed
    assert found["pitts250k-test"].needed == "83,952 database images, 8,280 queries"
    assert found["tokyo247"].found == f"no folder {tmp_path / 'tokyo247'}"
    assert "dinomix prepare tokyo247" in found["required: tokyo247/images/test"].needed
    assert "dinov2_vitb14_pretrain.pth" in found["weights of dinov2_vitb14"].found
    assert found["crossview-224/train"].ok
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------- data sets


def test_missing_images_and_places_are_told(tmp_path, data):
    gone = next((data / "places" / "Images" / "Madeup").iterdir())
    gone.unlink()
    found = checked(tmp_path, data, required={"other/file": "what it is"})
    assert failing(found) == ["places", "required: other/file"]
    assert gone.name in found["places"].found
    assert found["required: other/file"].needed == "what it is"
    shutil.rmtree(data / "places")
    assert checked(tmp_path, data)["places"].found == f"no folder {data / 'places'}"
    (data / "places").mkdir()
    assert "not in the GSV-Cities layout" in checked(tmp_path, data)["places"].found


def test_places_must_fill_a_batch_and_gsv_cities_have_all_its_cities(tmp_path, data):
    found = checked(tmp_path, data, train_changes={"places_per_batch": 7})
    assert failing(found) == ["places"] and "batch of 7" in found["places"].needed
    assert "7" in found["places"].found
    write_places(data / "places", places=3, city="Zenith")  # enough, but not in one city
    by_city = {"places_per_batch": 7, "shuffle": "city"}
    found = checked(tmp_path, data, train_changes=by_city)
    assert failing(found) == ["places"] and "6 places of the largest" in found["places"].found
    shutil.rmtree(data / "places")
    write_places(data / "gsv-cities")
    found = checked(tmp_path, data, train_folder="gsv-cities")
    assert failing(found) == ["gsv-cities"]
    assert "23 cities" in found["gsv-cities"].needed and "1 cities" in found["gsv-cities"].found


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"images_per_place": 1}, "images_per_place is 1; .*loss needs two images of a place"),
        ({"train_changes": {"places_per_batch": 1}}, "per_batch is 1; the loss needs two places"),
    ],
)
def test_what_cannot_learn_is_told(tmp_path, data, changes, complaint):
    """Also of a city that is yet to be rendered."""
    for city in ({}, {"city": {}, "city_folder": "toycity", "train_folder": "toycity/train"}):
        with pytest.raises(ValueError, match=complaint):
            checked(tmp_path, data, **changes, **city)


def test_test_sets_that_are_missing_or_broken_are_told(tmp_path, data):
    database = data / "city" / "images" / "test" / "database"
    first = next(database.iterdir())
    first.rename(database / "nameless.jpg")
    found = checked(tmp_path, data, test_folders=["city", "elsewhere", ["city", "drive"]])
    assert failing(found) == ["city, test", "elsewhere, test", "city, drive"]
    assert "nameless.jpg" in found["city, test"].found
    assert found["elsewhere, test"].found == f"no folder {data / 'elsewhere'}"


def test_benchmarks_must_have_their_counts(tmp_path, data, monkeypatch):
    made = Benchmark("made", "made-up", "test", 5, 10, "-", "-", "-", "-")
    small = Benchmark("made-large", "city", "test", 12, 10, "-", "-", "-", "-")
    known = {"made": made, "made-large": small}
    for place in (benchmarks, module):
        monkeypatch.setattr(place, "BENCHMARKS", known)
    shutil.copytree(data / "city", data / "made-up")
    found = checked(tmp_path, data, test_folders=["made", "city"])
    assert found["made"].ok
    assert failing(found) == ["made-large"]  # the published set of that folder and split
    assert found["made-large"].needed == "12 database images, 10 queries"
    assert "gives 5 and 10" in found["made-large"].found


def test_a_toy_city_is_known_by_its_manifest(tmp_path):
    root = tmp_path / "toycity-smoke"
    for name, expected in (
        ("train/Images/a.jpg", "images without toycity.json, which are not a toy city's"),
        ("toycity.started.json", "partly rendered"),
        ("toycity.json", "rendered"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
        found = {row.what: row for row in check("smoke", tmp_path).itertuples()}
        assert found["toycity-smoke"].found.startswith(expected)
        assert found["toycity-smoke"].ok == ("rendered" in expected)
        assert "not in the GSV-Cities layout" in found["toycity-smoke/train"].found


def test_the_toy_citys_package_is_not_needed():
    code = (
        "import sys; from dinomix.pipeline.check import check\n"
        "check('smoke', '/nowhere'); sys.exit('toycity' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------- weights


TOY = ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file(tmp_path, data, suffix):
    path = data / f"weights/w{suffix}"
    found = checked(tmp_path, data, weights=f"weights/w{suffix}")
    assert failing(found) == ["weights of toy_vits14"]
    assert f"no weights at {path}" in found["weights of toy_vits14"].found
    model = build_model(TOY)
    path.parent.mkdir()
    if suffix == ".pth":
        torch.save(model.backbone.trunk.state_dict(), path)
    else:
        save_model(model, path)
    found = checked(tmp_path, data, weights=f"weights/w{suffix}")
    assert not failing(found) and found["weights of toy_vits14"].found == str(path)
    path.write_bytes(path.read_bytes()[:1000])
    found = checked(tmp_path, data, weights=f"weights/w{suffix}")
    assert "is damaged" in found["weights of toy_vits14"].found


def test_published_checkpoints_need_no_weights_of_a_backbone(tmp_path, data):
    path = data / "checkpoints" / "mine.pth"
    path.parent.mkdir()
    torch.save(random_tensors(mixvpr_shapes(n=4, depth=1, d=8, r=2)), path)
    apart = {"train_folder": "nowhere", "val_folder": "nowhere"}  # nothing learns
    found = checked(tmp_path, data, lineup="published", methods=None, **apart)
    assert set(found) == {"packages", "city, test", "GPU", "models"}
    assert "1 without training" in found["models"].found


def test_weights_of_another_backbone_are_told_tensor_by_tensor(tmp_path, data):
    other = ModelConfig(backbone="toy_vitb14", image_size=28, out_channels=8)
    save_model(build_model(other), data / "w.safetensors")
    row = checked(tmp_path, data, weights="w.safetensors")["weights of toy_vits14"]
    assert not row.ok and "does not fit toy_vits14" in row.found
    assert "cls_token is (1, 1, 192), expected (1, 1, 96)" in row.found


def test_hub_weights_must_be_in_the_cache(tmp_path, data, monkeypatch):
    name = "timm/test_resnet.r160_in1k"
    asked, cached = [], {(name, "model.safetensors"): "/a/file"}

    def lookup(repository, file):
        asked.append(repository)
        return cached.get((repository, file))

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lookup)
    changes = {"backbone": name, "image_size": 64}
    assert checked(tmp_path, data, **changes)[f"weights of {name}"].ok
    cached.clear()
    row = checked(tmp_path, data, **changes)[f"weights of {name}"]
    assert not row.ok and set(asked) == {name}
    assert "timm.create_model('test_resnet.r160_in1k', pretrained=True)" in row.needed


# ------------------------------------------------------------------------------- the machine


@pytest.mark.parametrize(("cuda", "ok"), [(False, False), (True, True)])
def test_large_backbones_want_a_gpu(tmp_path, data, monkeypatch, cuda, ok):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    properties = SimpleNamespace(total_memory=80 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    row = checked(tmp_path, data, backbone="dinov2_vits14")["GPU"]
    assert row.ok == ok and "dinov2_vits14" in row.needed
    assert row.found == ("A GPU, 80.0 GB" if cuda else "none")


def test_packages_of_other_versions_are_told(tmp_path, data, monkeypatch):
    real = module.version
    monkeypatch.setattr(module, "version", lambda name: "0.1" if name == "timm" else real(name))
    row = checked(tmp_path, data)["packages"]
    assert not row.ok and row.found.startswith("timm 0.1, not ")


# ------------------------------------------------------------------------------- the models


@pytest.mark.parametrize("step", load_profile("smoke"), ids=lambda step: step.name)
def test_parameters_are_what_the_cell_makes(step):
    (cell,) = (
        c for c in nbformat.read(step.path, 4).cells if "parameters" in c.metadata.get("tags", [])
    )
    expected: dict = {}
    exec(cell.source, {"__builtins__": {}}, expected)
    assert step.values == expected | step.parameters and step.values["profile"] == "smoke"


@pytest.mark.parametrize(
    "wrong",
    [
        *({"seeds": 0}, {"shapes": [16, 2]}, {"train_changes": []}, {"methods": "BoQ"}),
        *({"seeds": ["a"]}, {"windows": 3}, {"depths": []}),
    ],
    ids=str,
)
def test_bad_parameters_are_told_without_data(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"it should be like|there is no method"):
        check("toy", tmp_path, overrides=wrong)


def test_models_that_notebooks_share_are_counted_once(tmp_path):
    """As many as the executed smoke profile leaves in its folder of runs."""
    found = {row.what: row.found for row in check("smoke", tmp_path).itertuples()}
    # 3 methods with two seeds; one more depth, shape and augmentation; two backbones, one of them
    # with two numbers of trained blocks; and the base model on map tiles.
    runs = 3 * 2 + 1 + 1 + 1 + (1 + 2) + 1
    assert found["models"] == f"{runs} to train, unless they are there, and 1 without training"


def test_a_notebook_that_only_shows_trains_nothing(tmp_path):
    """The demo trains one model, and its notebook 10 would show those of the whole line-up."""
    found = {row.what: row.found for row in check("demo", tmp_path).itertuples()}
    assert found["models"] == "1 to train, unless they are there, and 1 without training"
    assert "toycity, test" in found and "weights of toy_resnet" not in found
