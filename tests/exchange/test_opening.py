"""Models and test sets by path or name: every form, and every wrong one."""

import json
import re
import warnings

import numpy as np
import pytest
import torch

import dinomix
from dinomix.datasets import benchmarks
from dinomix.exchange.opening import open_model, open_testset
from dinomix.plumbing import hub as publishing
from dinomix.plumbing.errors import HubError
from tests.conftest import write_image, write_testset

CONFIG = dinomix.ModelConfig(
    backbone="toy_vits14", image_size=28, out_channels=4, out_rows=2, mix_depth=1
)


@pytest.fixture
def model():
    return dinomix.build_model(CONFIG).eval()


def same(found, model):
    assert found.config == model.config and not found.training
    own, theirs = model.state_dict(), found.state_dict()
    return all(torch.equal(own[key], theirs[key]) for key in own)


def test_file_of_ours_and_folder_of_save_pretrained(model, tmp_path):
    path = dinomix.save_model(model, tmp_path / "mine.safetensors")
    model.save_pretrained(tmp_path / "published")
    for form in (path, str(path), tmp_path / "published"):
        assert same(open_model(form), model)
    path.write_bytes(b"not tensors")
    with pytest.raises(ValueError, match=r"mine\.safetensors is damaged"):
        open_model(path)


def test_run_is_its_best_epoch(model, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    recipe = dinomix.TrainConfig(epochs=1)
    stated = {"finished": False, "model": CONFIG.to_dict(), "train": recipe.to_dict()}
    (folder / "config.json").write_text(json.dumps(stated))
    with pytest.raises(FileNotFoundError, match="no finished run"):
        open_model(folder)
    (folder / "config.json").write_text(json.dumps({**stated, "finished": True}))
    columns = "epoch,step,loss,mined_share,lr,recall@1,recall@5,seconds,images_per_second"
    (folder / "history.csv").write_text(f"{columns}\n0,0,,,,50,90,1,\n1,5,1,0.5,0.1,60,90,1,9\n")
    dinomix.save_model(model, folder / "best.safetensors")
    dinomix.save_model(dinomix.build_model(CONFIG), folder / "last.safetensors")
    assert same(open_model(folder), model)


@pytest.mark.parametrize("suffix", [".ckpt", ".pth", ".safetensors"])
def test_published_checkpoints(tmp_path, monkeypatch, suffix):
    """Which file it is, is told by its header; `tests/test_published.py` reads real layouts."""
    asked = []
    monkeypatch.setattr("dinomix.exchange.opening.load_published", lambda path: asked.append(path))
    path = tmp_path / f"dinov2_vitb14_mix{suffix}"
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({"backbone.dino_model.norm": torch.zeros(1)}, path)
    else:
        torch.save({}, path)
    open_model(path)
    assert asked == [path]


def test_published_models_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dinomix.exchange.opening.load_published", lambda name: f"the {name}")
    (tmp_path / "megaloc").mkdir()
    assert open_model("megaloc") == "the megaloc"
    with pytest.raises(FileNotFoundError, match="megaloc holds no model"):
        open_model("./megaloc")
    with pytest.raises(FileNotFoundError, match="did you mean 'megaloc'"):
        open_model("MegaLok")
    with pytest.raises(FileNotFoundError, match="there is no model GeM of GSV-Cities"):
        open_model("GeM of GSV-Cities")  # in the table, by path alone


def test_a_mistyped_run_is_not_sought_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dinomix.PlaceModel, "from_pretrained", lambda _: pytest.fail("was asked"))
    with pytest.raises(FileNotFoundError, match="the folder runs holds no abc"):
        open_model("runs/abc")


def test_hub(monkeypatch):
    asked = []

    def no_network(repo, name, **options):
        asked.append((repo, name))
        raise OSError("no route to host")

    monkeypatch.setattr(publishing, "hf_hub_download", no_network)
    with pytest.raises(HubError, match=r"no folder you/my-dino-mix.*no route to host"):
        open_model("you/my-dino-mix")
    assert asked == [("you/my-dino-mix", "config.json")]
    for path in ("you/mine.safetensors", "runs/dinov2.ckpt", "mine", "a/b/c", "../mine", "/x/y"):
        with pytest.raises(FileNotFoundError, match=rf"no model {re.escape(path)}: give a run"):
            open_model(path)
    assert len(asked) == 1  # nothing that is no repository's name goes out


@pytest.mark.parametrize("content", [None, "", "[1]", '{"backbone": "toy_vits14"}'])
def test_folders_without_a_model(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path} holds no model: neither a run of"):
        open_model(tmp_path)


def test_testset_by_folder(tmp_path):
    write_testset(tmp_path / "city", split="val", places=3)
    write_testset(tmp_path / "city", split="test", places=4)
    assert len(open_testset(tmp_path / "city").database) == 4
    assert len(open_testset(str(tmp_path / "city"), "val").database) == 3
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere; expected.*are pitts30k-val"):
        open_testset(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no database") as error:
        open_testset(tmp_path)
    assert "Benchmarks" not in str(error.value)


def test_testset_of_two_csv_files(tmp_path):
    for side in ("database", "queries"):
        write_image(tmp_path / "town" / side / "a.jpg", np.random.default_rng(0))
        text = f"Image, Lat, Lon\n{side}/a.jpg, 45.77, 3.08\n,,\n"
        (tmp_path / "town" / f"{side}.csv").write_text(text)
    for source in ("town", "town/database.csv", "town/queries.csv"):
        test = open_testset(tmp_path / source)
        assert test.name == "town" and test.query_utm.tolist() == test.database_utm.tolist()
    with pytest.raises(FileNotFoundError, match="images/<split>/database"):
        open_testset(tmp_path / "town", "test")  # a split is of the UTM layout
    (tmp_path / "town" / "queries.csv").rename(tmp_path / "town" / "positions.csv")
    for source in ("town/positions.csv", "town/database.csv"):
        with pytest.raises(FileNotFoundError, match=r"Or one with database\.csv and queries\.csv"):
            open_testset(tmp_path / source)


def test_testset_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("DINOMIX_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="dinomix prepare tokyo247"):
        open_testset("tokyo247")
    write_testset(tmp_path / "tokyo247", places=4)
    with pytest.raises(benchmarks.CountError, match="75,984"):
        open_testset("tokyo247")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert open_testset("tokyo247", strict=False).name.startswith("tokyo247 (4 database")
    with pytest.raises(ValueError, match="tokyo247 is a split of its own, 'test': leave 'val' out"):
        open_testset("tokyo247", "val")
    monkeypatch.chdir(tmp_path)
    assert len(open_testset("./tokyo247").database) == 4  # a folder, though named like a benchmark
