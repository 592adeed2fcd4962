"""Recipes against the paper's numbers, batches, and `fit` against a plain loop, without a run."""

import json
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from dinomix.backbones import normalization
from dinomix.data import PlaceDataset, TestSet
from dinomix.evaluation import evaluate
from dinomix.images import Normalise, train_transform
from dinomix.losses import multi_similarity_loss
from dinomix.model import ModelConfig, build_model
from dinomix.plumbing.files import config_hash
from dinomix.runs.machine import make_accelerator
from dinomix.training import TrainConfig, batches_of, fit, make_average, make_optimizer
from tests.conftest import write_places, write_testset

# ------------------------------------------------------------------------------- recipes


def test_paper_recipe():
    paper = TrainConfig.preset("paper")
    assert paper == TrainConfig()
    assert (paper.optimizer, paper.momentum, paper.weight_decay) == ("sgd", 0.9, 0.001)
    assert (paper.epochs, paper.accumulation) == (50, 1)
    for epoch in range(50):
        for step in (100 * epoch, 100 * epoch + 99):
            assert paper.learning_rate(step, 100) == pytest.approx(0.05 / 3 ** (epoch // 5))


def test_authors_recipe():
    authors = TrainConfig.preset("authors")
    assert (authors.optimizer, authors.momentum, authors.weight_decay) == ("sgd", 0.9, 0.001)
    assert (authors.epochs, authors.places_per_batch, authors.accumulation) == (60, 80, 4)
    assert (authors.shuffle, authors.divide_by_accumulation) == ("city", True)
    assert (authors.precision, authors.clip_value, authors.augment) == ("fp16", 0.5, "randaugment")
    for step in range(650):
        assert authors.learning_rate(step, 200) == pytest.approx(0.005 * (step + 1) / 650)
    for epoch in range(4, 60):
        drops = [mark for mark in (5, 10, 15, 25, 45) if mark <= epoch]
        expected = 0.005 * 0.3 ** len(drops)
        assert authors.learning_rate(200 * epoch, 200) == pytest.approx(expected)


def test_the_authors_recipe_of_before_keeps_the_names_of_its_runs():
    """It mixed cities, and divided the last group by its own size."""
    before = TrainConfig.preset("authors", shuffle="all", divide_by_accumulation=False)
    assert config_hash(before.identity()) == "fd36e4c2892d"  # recorded
    assert TrainConfig.from_dict(before.identity()) == before
    assert TrainConfig.preset("authors").identity()["divide_by_accumulation"] is True


def test_cosine_rises_then_falls_to_zero_and_constant_stays():
    config = TrainConfig(schedule="cosine", epochs=10, warmup_steps=20, lr=1)
    rates = [config.learning_rate(step, 10) for step in range(100)]
    assert rates[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    expected = [0.5 + 0.5 * math.cos(math.pi * (step - 20) / 80) for step in range(20, 100)]
    assert rates[20:] == pytest.approx(expected)
    assert 0 < rates[-1] < 0.001
    config = TrainConfig(schedule="constant", lr=0.3)
    assert {config.learning_rate(step, 10) for step in range(0, 500, 7)} == {0.3}


@pytest.mark.parametrize("preset", ["paper", "authors", "toy"])
def test_config_survives_json(preset):
    config = TrainConfig.preset(preset, seed=3)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_equal_recipes_have_equal_identities():
    one = TrainConfig(lr=1, milestones=[5, 10], workers=4, device="cpu")
    other = TrainConfig(lr=1.0, milestones=(5, 10))
    assert json.dumps(one.identity()) == json.dumps(other.identity())
    assert one.identity() != TrainConfig(lr=1, milestones=(5, 11)).identity()
    numpy = TrainConfig(lr=np.logspace(0, 1, 2)[0], milestones=np.array([5, 10]), seed=np.int64(0))
    assert config_hash(one.identity()) == config_hash(numpy.identity())


RECORDED = {"paper": "34718f58703b", "robust": "027da4b93a03"}


@pytest.mark.parametrize("preset", RECORDED)
def test_recipes_keep_the_names_of_their_runs(preset):
    """Recorded before there were `shuffle` and `compile`: finished runs are found again."""
    config = TrainConfig.preset(preset)
    assert config_hash(config.identity()) == RECORDED[preset]
    city = TrainConfig.preset(preset, shuffle="city")
    compiled = TrainConfig.preset(preset, compile=True)
    assert "compile" not in city.identity() and "shuffle" not in compiled.identity()
    assert len({config_hash(recipe.identity()) for recipe in (config, city, compiled)}) == 3
    for recipe in (config, city, compiled):
        assert TrainConfig.from_dict(recipe.identity()) == recipe


def test_the_toy_recipe_and_the_default_stay_in_float32():
    for recipe in (TrainConfig(), TrainConfig.preset("toy"), TrainConfig.preset("paper")):
        assert (recipe.precision, recipe.compile) == ("no", False)


WRONG = {
    "epochs": [0, 2.0, True],
    "places_per_batch": ["80"],
    "shuffle": ["cities"],
    "optimizer": ["adam"],
    "lr": [0, "5e-4", float("nan")],
    "momentum": [-0.1],
    "schedule": ["linear"],
    "milestones": [5, (5, 5), (10, 5), (0, 5), (2.5,)],
    "precision": ["fp8"],
    **{"compile": ["yes"], "divide_by_accumulation": [1]},
    **{field: [0] for field in ("accumulation", "gamma", "clip_value", "alpha", "device")},
    **{field: [-1] for field in ("warmup_steps", "clip_norm", "epsilon", "seed")},
    **{"weight_decay": [None], "augment": [True], "cache_prefix": [1], "workers": [1.5]},
    **{"beta": [float("inf")], "base": ["0"]},
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, vs in WRONG.items() for v in vs])
def test_wrong_fields_are_named(field, value):
    with pytest.raises(ValueError, match=rf"TrainConfig\.{field} is .*it should be"):
        TrainConfig(**{field: value})


@pytest.mark.parametrize("value", [1, np.int64(1)])
def test_one_place_is_no_batch(value):
    with pytest.raises(ValueError, match=r"places_per_batch is 1; the loss needs two places"):
        TrainConfig(places_per_batch=value)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"'papers'; did you mean 'paper'"):
        TrainConfig.preset("papers")
    with pytest.raises(ValueError, match=r"\['learning_rat'\]"):
        TrainConfig.preset("toy", learning_rat=1)


# ------------------------------------------------------------------------------- sampling


class Places(NamedTuple):
    """All that batches are drawn from."""

    city_of: np.ndarray

    def __len__(self):
        return len(self.city_of)


def epoch_batches(places, per_batch, seed, epoch):
    recipe = TrainConfig(places_per_batch=per_batch, seed=seed)
    return batches_of(Places(np.zeros(places, int)), recipe, epoch)


def city_batches(city_of, per_batch, seed, epoch):
    recipe = TrainConfig(places_per_batch=per_batch, seed=seed, shuffle="city")
    return batches_of(Places(city_of), recipe, epoch)


def test_an_epoch_shows_each_place_once_in_an_order_of_seed_and_epoch_alone():
    first = epoch_batches(50, 8, seed=3, epoch=2)
    assert first.shape == (6, 8)
    assert len(set(first.flatten().tolist())) == 48
    assert set(first.flatten().tolist()) <= set(range(50))
    np.random.seed(7)
    assert np.array_equal(epoch_batches(50, 8, seed=3, epoch=2), first)
    assert not np.array_equal(epoch_batches(50, 8, seed=3, epoch=3), first)
    assert not np.array_equal(epoch_batches(50, 8, seed=4, epoch=2), first)
    assert epoch_batches(11, 3, 5, 2).tolist() == [[4, 2, 5], [6, 0, 3], [9, 8, 10]]  # recorded


CITY_OF = np.repeat([0, 1, 3], [21, 5, 30])  # of the second city no batch is full


def test_batches_of_one_city_each_depend_on_seed_and_epoch_alone():
    first = city_batches(CITY_OF, 8, seed=3, epoch=2)
    assert first.dtype == np.int64 and first.shape == (21 // 8 + 30 // 8, 8)
    assert len(set(first.flatten().tolist())) == first.size
    cities = CITY_OF[first]  # (batches, 8)
    assert (cities == cities[:, :1]).all()
    assert sorted(cities[:, 0].tolist()) == [0, 0, 3, 3, 3]
    np.random.seed(7)
    assert np.array_equal(city_batches(CITY_OF, 8, seed=3, epoch=2), first)
    others = [city_batches(CITY_OF, 8, 3, epoch) for epoch in range(3, 40)]
    assert not any(np.array_equal(other, first) for other in others)
    assert not np.array_equal(city_batches(CITY_OF, 8, seed=4, epoch=2), first)
    shown = {place for other in others for place in other.flat if CITY_OF[place] != 1}
    assert shown == {*range(21), *range(26, 56)}  # whoever waits in one epoch comes up in another
    orders = {tuple(CITY_OF[other[:, 0]]) for other in others}
    assert len(orders) > 5  # batches of the cities come mixed


# ------------------------------------------------------------------------------- fit


def test_fit_is_the_plain_loop_and_needs_no_disk(tmp_path):
    """Two epochs of SGD written out here; what `fit` yields is what a run's history holds."""
    places = PlaceDataset(write_places(tmp_path / "places", places=5))
    val = TestSet(write_testset(tmp_path / "city", places=6))
    config = ModelConfig("toy_vits14", 1, out_channels=8, out_rows=2, image_size=28)
    recipe = TrainConfig(epochs=2, places_per_batch=2, lr=0.02, device="cpu")
    torch.manual_seed(0)
    model, twin = build_model(config), build_model(config)
    twin.load_state_dict(model.state_dict())

    rows = list(
        fit(model, places, val, recipe, make_optimizer(recipe, model), make_accelerator(recipe))
    )
    assert [row["epoch"] for row in rows] == [0, 1, 2] and [row["step"] for row in rows] == [
        0,
        2,
        4,
    ]
    assert not (tmp_path / "runs").exists()

    learning = [p for p in twin.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.02, momentum=0.9, weight_decay=0.001)
    normalise = Normalise(*normalization(config.backbone))
    drawn = places.with_transform(train_transform(28, "none"))
    twin.train()
    for epoch in (1, 2):
        drawn.set_epoch(epoch)
        losses = []
        for batch in batches_of(places, recipe, epoch):
            images, labels = default_collate([drawn[int(i)] for i in batch])
            desc = twin(normalise(images.flatten(0, 1)))
            loss = multi_similarity_loss(desc, labels.repeat_interleave(4))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert rows[epoch]["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    for ours, its in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, its, rtol=1e-5, atol=1e-7)
    table = evaluate(model, val, ks=(1, 5), progress=False, device="cpu")
    recalls = table[table["condition"] == "all"].set_index("k")["recall"]
    assert (rows[2]["recall@1"], rows[2]["recall@5"]) == (recalls[1], recalls[5])


def test_the_average_of_the_weights_is_validated(tmp_path):
    """An epoch is one step here, so that each step's weights can be seen."""
    places = PlaceDataset(write_places(tmp_path / "places", places=3))
    val = TestSet(write_testset(tmp_path / "city", places=6))
    config = ModelConfig("toy_vits14", 1, out_channels=8, out_rows=2, image_size=28)
    recipe = TrainConfig(epochs=3, places_per_batch=3, lr=0.5, ema=0.75, device="cpu")
    model = build_model(config)
    average, optimizer = make_average(recipe, model), make_optimizer(recipe, model)
    expected = None
    rows = fit(model, places, val, recipe, optimizer, make_accelerator(recipe), average=average)
    for row in rows:
        if row["epoch"]:
            now = {key: value.clone() for key, value in model.named_parameters()}
            expected = expected or now
            expected = {key: 0.75 * expected[key] + 0.25 * now[key] for key in now}
            for key, value in average.module.named_parameters():
                torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-7)
        table = evaluate(average.module, val, ks=(1,), progress=False, device="cpu")
        assert row["recall@1"] == table[table["condition"] == "all"]["recall"].item()


@pytest.mark.parametrize("always", [True, False])
def test_what_an_incomplete_last_group_is_divided_by(tmp_path, always):
    """Three batches, four to a step: the gradients' sum over 4, as in the authors' code, or 3."""
    places = PlaceDataset(write_places(tmp_path / "places", places=6))
    val = TestSet(write_testset(tmp_path / "city", places=2))
    config = ModelConfig("toy_vits14", 1, out_channels=8, out_rows=2, image_size=28)
    changes = {"epochs": 1, "places_per_batch": 2, "accumulation": 4, "lr": 0.5, "device": "cpu"}
    recipe = TrainConfig(**changes, weight_decay=0, divide_by_accumulation=always)
    torch.manual_seed(0)
    model, twin = build_model(config), build_model(config)
    twin.load_state_dict(model.state_dict())
    rows = fit(model, places, val, recipe, make_optimizer(recipe, model), make_accelerator(recipe))
    assert [row["step"] for row in rows] == [0, 1]

    normalise = Normalise(*normalization(config.backbone))
    drawn = places.with_transform(train_transform(28, "none"))
    drawn.set_epoch(1)
    twin.train()
    for batch in batches_of(places, recipe, 1):
        images, labels = default_collate([drawn[int(i)] for i in batch])
        desc = twin(normalise(images.flatten(0, 1)))
        multi_similarity_loss(desc, labels.repeat_interleave(4)).backward()
    for ours, its in zip(model.parameters(), twin.parameters(), strict=True):
        step = 0.5 * its.grad / (4 if always else 3) if its.requires_grad else 0
        torch.testing.assert_close(ours, its - step, rtol=1e-5, atol=1e-6)
