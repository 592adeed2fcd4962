"""A model's way to the hub and back, its card, and what a stranger does with it."""

import copy
import dataclasses
import json
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from huggingface_hub import HfApi, PyTorchModelHubMixin
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torchvision import transforms

import dinomix
from dinomix.backbones import normalization
from dinomix.data import TestSet
from dinomix.evaluation import evaluate
from dinomix.model import (
    ModelConfig,
    PlaceModel,
    build_model,
    expected_input,
    load_model,
    outline,
    save_model,
)
from dinomix.plumbing import hub as publishing
from dinomix.plumbing.summary import facts
from dinomix.runs.run import COLUMNS, Run
from dinomix.training import TrainConfig
from tests.conftest import write_testset

SMALL = ModelConfig(
    backbone="timm/test_resnet", trained_blocks=1, image_size=(64, 96), out_channels=8, out_rows=2
)
NAMES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture
def model():
    return build_model(SMALL).eval()


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "published")
    return tmp_path / "published"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub in a folder: one repository, `hub/<user>/<name>`, in place of the client's calls."""
    root = tmp_path / "hub"

    def create_repo(self, repo_id, **_):
        (root / repo_id).mkdir(parents=True, exist_ok=True)
        return type("Repo", (), {"repo_id": repo_id})()

    def upload_folder(self, *, repo_id, folder_path, commit_message, **_):
        shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)
        return f"{repo_id}: {commit_message}"

    def hf_hub_download(repo_id, filename, *, revision=None, **_):
        if repo_id.count("/") > 1:
            raise HFValidationError(f"Repo id must be 'namespace/name': {repo_id}")
        if revision not in (None, "main") or not (root / repo_id / filename).is_file():
            raise LocalEntryNotFoundError(f"no {filename} in {repo_id} at {revision}")
        return str(root / repo_id / filename)

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(publishing, "hf_hub_download", hf_hub_download)
    return root


# The folder


def test_a_model_comes_back_from_a_folder(model, folder):
    loaded = PlaceModel.from_pretrained(folder)
    assert loaded.config == SMALL and not loaded.training
    images = torch.randn(2, 3, 64, 96)
    assert torch.equal(loaded(images), model(images))
    requires = [p.requires_grad for p in model.parameters()]
    assert [p.requires_grad for p in loaded.parameters()] == requires


def test_what_the_folder_holds(folder):
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    fields = json.loads((folder / "config.json").read_text())
    assert fields.pop("dinomix_version") == dinomix.__version__
    assert fields == SMALL.to_dict()
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["dinomix_config"]) == fields
    assert load_model(folder / "model.safetensors").config == SMALL


def test_saving_again_writes_the_card_again_unless_it_was_taken_over(folder):
    other = build_model(ModelConfig.from_dict(SMALL.to_dict() | {"out_rows": 3}))
    other.save_pretrained(folder)
    card = folder / "README.md"
    assert "24 entries" in card.read_text()
    assert PlaceModel.from_pretrained(folder).dim == 24
    card.write_text("What I found out by hand.")
    build_model(SMALL).save_pretrained(folder)
    assert card.read_text() == "What I found out by hand."


def test_a_place_model_is_what_it_was(model):
    """The mixin adds methods and nothing that has to be saved or copied with care."""
    images = torch.randn(2, 3, 64, 96)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.config == SMALL
        assert other.state_dict().keys() == model.state_dict().keys()
        assert torch.equal(other(images), model(images))
    assert PlaceModel(config=SMALL).config == SMALL
    assert isinstance(model, PyTorchModelHubMixin)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"published holds no {name}.*save the model again"):
        PlaceModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"auto_map": {"AutoModel": "code.Model"}}, r"\.json: .*no fields \['auto_map'\]"),
        ({"out_rows": "2"}, r"\.json: .*out_rows is '2'"),
        ({"aggregator_options": 5}, r"\.json: .*aggregator_options must .* not 5"),
        ({"image_size": [64, 64, 3]}, r"\.json: .*image_size must be .*\(height, width\)"),
        ({"moving_statistics": True}, "carries: moving_statistics is True, not None"),
        ({"trained_blocks": 2}, r"not the .*model\.safetensors carries: trained_blocks is 2,"),
    ],
)
def test_a_config_is_read_strictly(folder, fields, message):
    (folder / "config.json").write_text(json.dumps(SMALL.to_dict() | fields))
    with pytest.raises(ValueError, match=message):
        PlaceModel.from_pretrained(folder)


def test_tensors_that_do_not_fit(folder):
    path = folder / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        header, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    tensors["aggregator.row_proj.bias"] = torch.zeros(3)
    save_file(tensors, path, metadata=header)
    with pytest.raises(ValueError, match=r"aggregator\.row_proj\.bias is \(3,\), expected \(2,\)"):
        PlaceModel.from_pretrained(folder)
    save_file(tensors, path)
    with pytest.raises(ValueError, match="carries no dinomix config"):
        PlaceModel.from_pretrained(folder)


# The hub


def test_a_model_goes_to_the_hub_and_comes_back(hub, model):
    commit = model.push_to_hub("someone/places", commit_message="first")
    assert commit == "someone/places: first"
    assert sorted(path.name for path in (hub / "someone/places").iterdir()) == NAMES
    card = (hub / "someone/places/README.md").read_text()
    assert 'PlaceModel.from_pretrained("someone/places")' in card
    images = torch.randn(2, 3, 64, 96)
    loaded = PlaceModel.from_pretrained("someone/places", revision="main")
    assert torch.equal(loaded(images), model(images))


def test_what_the_hub_does_not_have(hub, model, tmp_path):
    model.push_to_hub("someone/places")
    with pytest.raises(RuntimeError, match=r"no folder no/such.*config\.json"):
        PlaceModel.from_pretrained("no/such")
    with pytest.raises(RuntimeError, match=r"no folder someone/places.*at v2"):
        PlaceModel.from_pretrained("someone/places", revision="v2")
    with pytest.raises(FileNotFoundError, match=r"no folder .*gone, and no repository can have"):
        PlaceModel.from_pretrained(tmp_path / "gone")


# The card


@pytest.fixture
def results(model):
    rows = [
        (dataset, condition, k, recall, queries)
        for dataset, condition, queries, recalls in (
            ("town", "night", 10, (40.0, 70.0)),
            ("town", "all", 30, (43.3333, 80.0)),
            ("sea", "all", 7, (100.0, 100.0)),
        )
        for k, recall in zip((1, 5), recalls, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["dataset", "condition", "k", "recall", "queries"])
    return table.assign(
        convention="25 m", without_positives=1, backbone=SMALL.backbone, dim=model.dim
    )


@pytest.fixture
def run(tmp_path):
    history = pd.DataFrame([[e, e, 0.1, 0.5, 0.1, r, r + 20, 1, 1] for e, r in
                            enumerate((90.0, 50.5, 61.25, 55.0))], columns=COLUMNS)  # fmt: skip
    recipe = TrainConfig.preset("toy", epochs=3, lr=0.002)
    return Run(tmp_path / "abc123", SMALL, recipe, history)


def rows_of(text: str) -> dict[str, str]:
    """First cell -> the other cells, of every row of every table."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {cells[0]: " | ".join(cells[1:]) for cells in lines}


def test_it_says_what_is_true_of_the_model(model):
    card = model.generate_model_card(repo_id="me/mine")
    rows = rows_of(card.text)
    assert rows["shape"] == "batch, 3, 64, 96"
    assert rows["channels"] == "RGB"
    mean, std = normalization(SMALL.backbone)
    for name, values in (("mean", mean), ("std", std)):
        assert rows[name] == ", ".join(f"{x:.5g}" for x in values)
    assert rows.items() >= {key: facts(model)[key] for key in ("descriptor", "trained")}.items()
    assert rows["descriptor"].startswith("16 entries")
    assert rows["parameters"].startswith(f"{sum(p.numel() for p in model.parameters()):,} ")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert rows["trained"].startswith(f"{trained:,} ") and rows["trained"] != rows["parameters"]
    for field, value in SMALL.to_dict().items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        assert rows[field] == ("" if value == {} else str(shown))
    assert 'from_pretrained("me/mine")' in card.text
    assert 'torch.hub.load("<owner>/dinomix", "dino_mix", pretrained="me/mine")' in card.text
    assert "10.1038/s41598-024-73853-3" in card.text
    assert "## Training" not in card.text and "## Results" not in card.text
    told = expected_input(SMALL)
    assert model(torch.zeros(2, *told["shape"][1:])).shape == (2, 16)


def test_metadata_for_the_hub(model):
    _, metadata, _ = str(model.generate_model_card()).split("---\n", 2)
    data = yaml.safe_load(metadata)
    assert (data["library_name"], data["license"]) == ("dinomix", "apache-2.0")
    assert data["pipeline_tag"] == "image-feature-extraction"
    assert {"visual-place-recognition", "pytorch_model_hub_mixin"} <= set(data["tags"])


@pytest.mark.parametrize(
    ("backbone", "size", "licence"),
    [
        ("toy_resnet", 112, "mit"),
        ("dinov2_vitb14", 224, "apache-2.0"),
        ("timm/resnet50.tv_in1k", 224, "bsd-3-clause"),
    ],
)
def test_the_licence_is_the_backbones(backbone, size, licence):
    model = outline(ModelConfig(backbone=backbone, image_size=size, trained_blocks=1))
    assert model.card_facts()["licence"] == licence


def test_a_run_brings_recipe_and_validation(model, run):
    rows = rows_of(model.generate_model_card(run=run).text)
    assert rows["2"] == "61.25 | 81.25"  # the best trained epoch; epoch 0 is before training
    assert (rows["lr"], rows["epochs"], rows["optimizer"]) == ("0.002", "3", "adamw")
    assert "device" not in rows


def test_results_become_one_row_a_condition(model, results, tmp_path):
    model.save_pretrained(tmp_path, model_card_kwargs={"results": results})
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| dataset | convention | condition | queries | without_positives | R@1 | R@5 |" in text
    for row in ("town | 25 m | night | 10 | 1 | 40 | 70", "sea | 25 m | all | 7 | 1 | 100 | 100"):
        assert f"| {row} |" in text
    assert "| town | 25 m | all | 30 | 1 | 43.333 | 80 |" in text


def test_what_is_about_another_model_is_refused(model, run, results):
    other = dataclasses.replace(run, model_config=dataclasses.replace(SMALL, mix_depth=0))
    for about, complaint in (
        ({"run": other}, "abc123 trained another"),
        ({"results": results.assign(dim=99)}, "99.* not this model's"),
        ({"results": results.drop(columns="convention")}, r"lack .*\['convention'\]"),
        ({"results": pd.concat([results, results])}, "two recalls"),
    ):
        with pytest.raises(ValueError, match=complaint):
            model.generate_model_card(**about)


# Our model in somebody else's hands


class ForeignEvaluator:
    """Recall as other code bases of the field compute it: it knows nothing of dinomix.

    It resizes and normalises by itself, calls `model(images)` on batches from a DataLoader, and
    ranks by inner products, as one does with descriptors of unit length.
    """

    def __init__(self, size: tuple[int, int], device: str = "cpu") -> None:
        self.device = device
        scale = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        steps = [transforms.Resize(size), transforms.ToTensor(), scale]
        self.transform = transforms.Compose(steps)

    @torch.no_grad()
    def descriptors(self, model, paths):
        images = torch.stack([self.transform(Image.open(path)) for path in paths])
        loader = torch.utils.data.DataLoader(images, batch_size=4, shuffle=False)
        model = model.eval().to(self.device)
        return torch.cat([model(batch.to(self.device)) for batch in loader]).numpy()

    def recall(self, model, database, queries, right, k):
        ours, theirs = (self.descriptors(model, paths) for paths in (database, queries))
        np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
        found = (theirs @ ours.T).argsort(axis=1)[:, ::-1][:, :k]
        return 100 * np.mean([right[q] in row for q, row in enumerate(found.tolist())])


@pytest.mark.parametrize(("backbone", "size"), [("toy_vits14", (56, 84)), ("toy_resnet", (64, 64))])
def test_a_foreign_evaluator_finds_the_same(tmp_path, backbone, size):
    config = ModelConfig(
        backbone=backbone, trained_blocks=1, image_size=size, out_channels=8, out_rows=2
    )
    model = build_model(config)
    test = TestSet(write_testset(tmp_path / "city", places=12))
    for query, twin in zip(test.queries[::2], test.database[::2], strict=True):
        image = Image.open(twin).point(lambda value: 0.8 * value)  # half of them can be found
        image.save(query)
    table = evaluate(model, test, ks=(1, 5), progress=False, device="cpu")
    save_model(model, tmp_path / "model.safetensors")
    stranger = ForeignEvaluator(config.size)
    for k, recall in zip(table["k"], table["recall"], strict=True):
        loaded = load_model(tmp_path / "model.safetensors")
        # image i of the database shows the place of query i alone
        found = stranger.recall(loaded, test.database, test.queries, range(12), k)
        assert found == pytest.approx(recall)
        assert 30 < recall < 100
