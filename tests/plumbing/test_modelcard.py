"""The card says what is true of the model, and takes nothing that is another one's."""

import dataclasses

import pandas as pd
import pytest
import torch
import yaml

from dinomix.backbones import normalization
from dinomix.model import ModelConfig, build_model, expected_input, outline
from dinomix.plumbing.hub import model_card
from dinomix.runs.run import COLUMNS, Run
from dinomix.training import TrainConfig

CONFIG = ModelConfig(
    backbone="timm/test_resnet", trained_blocks=1, image_size=(64, 96), out_channels=8, out_rows=2
)


@pytest.fixture(scope="module")
def model():
    return build_model(CONFIG)


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
        convention="25 m", without_positives=1, backbone=CONFIG.backbone, dim=model.dim
    )


@pytest.fixture
def run(tmp_path):
    history = pd.DataFrame([[e, e, 0.1, 0.5, 0.1, r, r + 20, 1, 1] for e, r in
                            enumerate((90.0, 50.5, 61.25, 55.0))], columns=COLUMNS)  # fmt: skip
    recipe = TrainConfig.preset("toy", epochs=3, lr=0.002)
    return Run(tmp_path / "abc123", CONFIG, recipe, history)


def rows_of(text: str) -> dict[str, str]:
    """First cell -> the other cells, of every row of every table."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {cells[0]: " | ".join(cells[1:]) for cells in lines}


def test_it_says_what_is_true_of_the_model(model):
    card = model_card(model, repo_id="me/mine")
    rows = rows_of(card.text)
    assert rows["shape"] == "batch, 3, 64, 96"
    assert rows["channels"] == "RGB"
    mean, std = normalization(CONFIG.backbone)
    assert rows["mean"] == ", ".join(f"{x:.5g}" for x in mean)
    assert rows["std"] == ", ".join(f"{x:.5g}" for x in std)
    assert rows["descriptor"].startswith("16 entries")
    assert rows["parameters"] == f"{sum(p.numel() for p in model.parameters()):,}"
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert rows["trained"] == f"{trained:,}" != rows["parameters"]
    for field, value in CONFIG.to_dict().items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        assert rows[field] == ("" if value == {} else str(shown))
    assert 'from_pretrained("me/mine")' in card.text
    assert 'torch.hub.load("<owner>/dinomix", "dino_mix", pretrained="me/mine")' in card.text
    assert "10.1038/s41598-024-73853-3" in card.text
    assert "## Training" not in card.text
    assert "## Results" not in card.text


def test_the_described_input_is_what_the_model_takes(model):
    told = expected_input(CONFIG)
    assert model(torch.zeros(2, *told["shape"][1:])).shape == (2, 16)


def test_metadata_for_the_hub(model):
    _, metadata, _ = str(model_card(model)).split("---\n", 2)
    data = yaml.safe_load(metadata)
    assert data["library_name"] == "dinomix"
    assert data["license"] == "apache-2.0"
    assert data["pipeline_tag"] == "image-feature-extraction"
    assert {"visual-place-recognition", "pytorch_model_hub_mixin"} <= set(data["tags"])


@pytest.mark.parametrize(
    ("backbone", "licence"),
    [
        ("toy_resnet", "mit"),
        ("dinov2_vitb14", "apache-2.0"),
        ("timm/resnet50.tv_in1k", "bsd-3-clause"),
    ],
)
def test_the_licence_is_the_backbones(backbone, licence):
    size = 112 if backbone.startswith("toy") else 224
    model = outline(ModelConfig(backbone=backbone, image_size=size, trained_blocks=1))
    assert model.card_facts()["licence"] == licence


def test_a_run_brings_recipe_and_validation(model, run):
    rows = rows_of(model_card(model, run=run).text)
    assert rows["2"] == "61.25 | 81.25"  # the best trained epoch; epoch 0 is before training
    assert (rows["lr"], rows["epochs"], rows["optimizer"]) == ("0.002", "3", "adamw")
    assert "device" not in rows


def test_results_become_one_row_a_condition(model, results):
    text = model_card(model, results=results).text
    assert "| dataset | convention | condition | queries | without_positives | R@1 | R@5 |" in text
    assert "| town | 25 m | night | 10 | 1 | 40 | 70 |" in text
    assert "| town | 25 m | all | 30 | 1 | 43.333 | 80 |" in text
    assert "| sea | 25 m | all | 7 | 1 | 100 | 100 |" in text


def test_what_is_about_another_model_is_refused(model, run, results):
    other = dataclasses.replace(run, model_config=dataclasses.replace(CONFIG, mix_depth=0))
    with pytest.raises(ValueError, match="abc123 trained another model"):
        model_card(model, run=other)
    with pytest.raises(ValueError, match=r"'timm/test_resnet', 99.* are not this model's"):
        model_card(model, results=results.assign(dim=99))
    with pytest.raises(ValueError, match=r"lack the columns \['convention'\]"):
        model_card(model, results=results.drop(columns="convention"))
    with pytest.raises(ValueError, match="two recalls for the same test set"):
        model_card(model, results=pd.concat([results, results]))
