"""Runs against a plain loop, and runs that are killed, found again, shared among processes."""

import json
import math
import os
import random
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import default_collate

from dinomix import losses
from dinomix import training as loop
from dinomix.backbones import normalization
from dinomix.data import PlaceDataset, TestSet
from dinomix.evaluation import evaluate
from dinomix.images import Normalise, train_transform
from dinomix.model import ModelConfig, build_model
from dinomix.plumbing import workspace
from dinomix.runs import run as folders
from dinomix.runs import train as runs
from dinomix.runs.machine import has_compiler, make_accelerator
from dinomix.runs.run import Run
from dinomix.runs.train import train
from dinomix.training import DivergedError, TrainConfig, batches_of, make_optimizer
from tests.conftest import write_places, write_testset
from tests.killing import contents

TINY = ModelConfig(
    backbone="toy_vits14", trained_blocks=1, out_channels=8, out_rows=2, image_size=28
)
CNN = ModelConfig(
    backbone="timm/test_resnet", trained_blocks="all", out_channels=8, out_rows=2, image_size=64
)
RECIPE = TrainConfig(epochs=3, places_per_batch=2, accumulation=2, lr=0.02, augment="randaugment")
# Seven places make three batches, and a place that waits; two batches make a step, and one does.
PLACES, BATCHES, STEPS = 7, 3, 2
TIMING = ["seconds", "images_per_second"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    places = PlaceDataset(write_places(root / "places", places=PLACES))
    return places, TestSet(write_testset(root / "city", places=12, conditions=("day", "night")))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """An unbroken run of RECIPE."""
    return train(TINY, *data, RECIPE, out=tmp_path_factory.mktemp("runs"), progress=False)


def assert_same_result(one, other):
    pd.testing.assert_frame_equal(
        one.history.drop(columns=TIMING), other.history.drop(columns=TIMING), check_exact=True
    )
    for which in ("best", "last"):
        mine, its = one.load(which).state_dict(), other.load(which).state_dict()
        assert mine.keys() == its.keys()
        for key, tensor in mine.items():
            assert torch.equal(tensor, its[key]), f"{key} of {which}"


# ------------------------------------------------------------------------------- the loop


NEEDS_COMPILER = pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler")


def changed(**changes):
    return TrainConfig.from_dict({**RECIPE.to_dict(), **changes})


def plain_training(model_config, places, config, start=None):
    """Training written out without Accelerate, samplers, loaders, caches or checkpoints.

    Returns:
        the model, the mean loss of each epoch, and the gradients of the first step.
    """
    torch.manual_seed(config.seed)
    model = build_model(model_config).train()
    if start:
        model.load_state_dict(start.state_dict())
    normalise = Normalise(*normalization(model_config.backbone))
    drawn = places.with_transform(train_transform(model_config.image_size, config.augment))
    learning = [p for p in model.parameters() if p.requires_grad]
    deep = [p for p in model.backbone.parameters() if p.requires_grad]
    groups = [{"params": deep}, {"params": list(model.aggregator.parameters())}]
    shares = [(config.backbone_lr or config.lr) / config.lr, 1.0]
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            groups, lr=1, momentum=config.momentum, weight_decay=config.weight_decay
        )
    else:
        optimizer = torch.optim.AdamW(groups, lr=1, weight_decay=config.weight_decay)
    mean_losses, first, step = [], {}, 0
    for epoch in range(1, config.epochs + 1):
        drawn.set_epoch(epoch)
        epoch_losses = []
        batches = batches_of(places, config, epoch)
        for group in (batches[:2], batches[2:]):  # accumulation 2, then what is left
            optimizer.zero_grad()
            for batch in group:
                images, labels = default_collate([drawn[int(i)] for i in batch])
                with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
                    desc = model(normalise(images.flatten(0, 1)))
                loss = losses.multi_similarity_loss(desc, labels.repeat_interleave(4))
                (loss / len(group)).backward()
                epoch_losses.append(loss.item())
            named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
            first = first or {name: p.grad.clone() for name, p in named}
            if config.clip_value:
                torch.nn.utils.clip_grad_value_(learning, config.clip_value)
            if config.clip_norm:
                torch.nn.utils.clip_grad_norm_(learning, config.clip_norm)
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                group["lr"] = config.learning_rate(step, STEPS) * share
            optimizer.step()
            step += 1
        mean_losses.append(np.mean(epoch_losses))
    return model, mean_losses, first


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clip_value": 0.003, "momentum": 0.5, "warmup_steps": 3},
        {"clip_norm": 0.05, "optimizer": "adamw", "lr": 0.001, "schedule": "cosine"},
        {"backbone_lr": 0.002, "augment": "crops"},
    ],
    ids=["plain", "clipped by value", "adamw, clipped by norm", "a slower backbone"],
)
def test_loop_equals_a_plain_one(data, tmp_path, changes):
    config = changed(epochs=2, **changes)
    model, expected_losses, _ = plain_training(TINY, data[0], config)
    run = train(TINY, *data, config, out=tmp_path, progress=False)
    assert run.history["loss"].tolist()[1:] == pytest.approx(expected_losses, rel=1e-6)
    found = run.load("last").state_dict()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def cities(data, tmp_path_factory):
    """Two cities of five and three places: batches of two leave one of each."""
    root = write_places(tmp_path_factory.mktemp("cities"), places=5, images=2)
    write_places(root, places=3, images=2, city="Zenith")
    return PlaceDataset(root, images_per_place=2), data[1]


IN_CITY = changed(shuffle="city")


def test_a_batch_of_one_city_is_trained_on(cities, tmp_path, monkeypatch):
    seen = []

    class Noted(loop.DataLoader):
        def __init__(self, places, batch_sampler, **options):
            seen.append(batch_sampler)
            super().__init__(places, batch_sampler=batch_sampler, **options)

    monkeypatch.setattr(loop, "DataLoader", Noted)
    run = train(TINY, *cities, IN_CITY, out=tmp_path, progress=False)
    city_of = cities[0].city_of
    assert city_of.tolist() == [0] * 5 + [1] * 3
    expected = [batches_of(cities[0], IN_CITY, epoch).tolist() for epoch in (1, 2, 3)]
    assert seen == [[], *expected] and len(expected[0]) == 3
    assert run.history["step"].tolist() == [0, 2, 4, 6]  # accumulation 2, then what is left
    assert run.train_config == IN_CITY


def test_a_run_by_city_goes_on_where_it_broke_off(cities, tmp_path, monkeypatch):
    whole = train(TINY, *cities, IN_CITY, out=tmp_path / "whole", progress=False)
    break_off(
        monkeypatch, "loss_and_mined_share", 5, TINY, *cities, IN_CITY, out=tmp_path / "broken"
    )
    broken = train(TINY, *cities, IN_CITY, out=tmp_path / "broken", progress=False)
    assert_same_result(broken, whole)


def test_training_lowers_the_loss(data, tmp_path):
    config = TrainConfig(epochs=15, places_per_batch=PLACES, optimizer="adamw", lr=0.03)
    history = train(TINY, *data, config, out=tmp_path, progress=False).history
    assert history["loss"].iloc[-1] < history["loss"].iloc[1] / 2
    assert history["mined_share"].iloc[-1] < history["mined_share"].iloc[1]


def test_history(run, data):
    history = run.history
    assert list(history) == folders.COLUMNS
    assert history["epoch"].tolist() == [0, 1, 2, 3]
    assert history["step"].tolist() == [0, STEPS, 2 * STEPS, 3 * STEPS]
    assert history.loc[0, ["loss", "mined_share", "lr", "images_per_second"]].isna().all()
    trained = history[1:]
    assert trained["lr"].tolist() == [0.02] * 3
    assert trained["mined_share"].between(0, 1).all()
    assert (trained["images_per_second"] > 0).all()
    assert (trained["seconds"] * trained["images_per_second"] > BATCHES * 2 * 4).all()


def test_recalls_are_those_of_the_saved_models(run, data):
    with pytest.raises(ValueError, match="which is 'first'"):
        run.load("first")
    for which, row in (("best", run.best), ("last", run.history.iloc[-1])):
        table = evaluate(run.load(which=which), data[1], ks=(1, 5), progress=False)
        recalls = table[table["condition"] == "all"].set_index("k")["recall"]
        assert (row["recall@1"], row["recall@5"]) == (recalls[1], recalls[5])


def test_frozen_weights_stay(run):
    torch.manual_seed(RECIPE.seed)
    before = dict(build_model(TINY).named_parameters())
    after = dict(run.load("last").named_parameters())
    for name, parameter in before.items():
        assert torch.equal(parameter, after[name]) == (not parameter.requires_grad), name


@pytest.mark.parametrize(
    ("recalls", "best"),
    [
        ([(90, 99), (50, 60), (70, 80), (60, 90)], 2),  # the untrained model is no candidate
        ([(0, 0), (50, 80), (50, 90), (40, 95)], 2),  # recall@5 decides a tie
        ([(0, 0), (50, 80), (50, 80), (50, 80)], 1),  # then the earlier epoch
    ],
)
def test_best_epoch(data, tmp_path, monkeypatch, recalls, best):
    left = iter(recalls)
    states = []

    def scripted(model, test, **_):
        states.append({key: value.clone() for key, value in model.state_dict().items()})
        rows = [("all", k, float(recall)) for k, recall in zip((1, 5), next(left), strict=True)]
        return pd.DataFrame([("day", 1, 100.0), *rows], columns=["condition", "k", "recall"])

    monkeypatch.setattr(loop, "evaluate", scripted)
    run = train(TINY, *data, RECIPE, out=tmp_path, progress=False)
    assert run.best["epoch"] == best
    assert (run.best["recall@1"], run.best["recall@5"]) == recalls[best]
    for which, epoch in (("best", best), ("last", 3)):
        for key, value in run.load(which).state_dict().items():
            assert torch.equal(value, states[epoch][key])


def test_patience_stops_after_so_many_epochs_without_a_better_one(data, tmp_path, monkeypatch):
    scripted = {"recall@5": 0.0}
    recalls = iter([90.0, 10.0, 50.0, 50.0, 40.0])
    monkeypatch.setattr(loop, "validate", lambda *_: {"recall@1": next(recalls), **scripted})
    run = train(TINY, *data, changed(epochs=9, patience=2), out=tmp_path, progress=False)
    assert run.history["epoch"].tolist() == [0, 1, 2, 3, 4] and run.best["epoch"] == 2
    assert run.is_finished()


def test_an_average_and_patience_go_on_where_they_broke_off(data, tmp_path, monkeypatch):
    config = changed(epochs=4, ema=0.7, patience=1)
    whole = train(TINY, *data, config, out=tmp_path / "whole", progress=False)
    break_off(monkeypatch, "save", 3, TINY, *data, config, out=tmp_path / "broken")
    broken = train(TINY, *data, config, out=tmp_path / "broken", progress=False)
    assert_same_result(broken, whole)
    test_recalls_are_those_of_the_saved_models(whole, data)
    state, last = torch.load(whole.folder / "state.pt"), whole.load("last").state_dict()
    assert all(torch.equal(value, state["average"][f"module.{key}"]) for key, value in last.items())
    assert any(not torch.equal(value, state["model"][key]) for key, value in last.items())
    assert f"of {len(whole.history) - 1}, " in repr(whole)


def test_several_validation_sets_choose_by_their_mean(data, tmp_path):
    places, val = data
    other = TestSet(write_testset(tmp_path / "other", places=5))
    config = changed(epochs=1)
    run = train(TINY, places, [val, other], config, out=tmp_path, progress=False)
    tables = [evaluate(run.load(), each, ks=(1, 5), progress=False) for each in (val, other)]
    for k in (1, 5):
        expected = [t[(t["condition"] == "all") & (t["k"] == k)]["recall"].item() for t in tables]
        assert run.best[f"recall@{k}"] == pytest.approx(np.mean(expected))
    alone, same = (
        runs.find_run(TINY, places, sets, config, out=tmp_path, finished=False).folder
        for sets in (val, [val])
    )
    assert alone == same != run.folder
    with pytest.raises(ValueError, match="val is empty"):
        train(TINY, places, [], config, out=tmp_path, progress=False)


CACHED = {"augment": "none", "cache_prefix": True}


@pytest.mark.parametrize("changes", [{}, CACHED], ids=["from images", "from a cached prefix"])
def test_bf16_trains_in_half_precision_and_validates_in_full(data, tmp_path, monkeypatch, changes):
    """Near to float32's losses, and after a kill the very same numbers."""
    config = changed(precision="bf16", **changes)
    half = train(TINY, *data, config, out=tmp_path / "whole", progress=False)
    whole = train(TINY, *data, changed(**changes), out=tmp_path, progress=False)
    whole_losses, half_losses = whole.history["loss"][1:], half.history["loss"][1:]
    assert half_losses.tolist() == pytest.approx(whole_losses.tolist(), rel=0.05)
    assert (half_losses != whole_losses).all()
    test_recalls_are_those_of_the_saved_models(half, data)
    assert {value.dtype for value in half.load("last").state_dict().values()} == {torch.float32}
    break_off(monkeypatch, "loss_and_mined_share", 5, TINY, *data, config, out=tmp_path / "broken")
    assert_same_result(train(TINY, *data, config, out=tmp_path / "broken", progress=False), half)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_channels_come_last_where_convolutions_are_in_half_precision(
    data, tmp_path, monkeypatch, precision
):
    """As near to plain float32 as half precision with channels first is, within a factor of two."""
    models = []

    def noted(*args, **options):
        models.append(build_model(*args, **options))
        return models[-1]

    monkeypatch.setattr(runs, "build_model", noted)
    config = changed(epochs=1, precision=precision)
    run = train(CNN, *data, config, out=tmp_path, progress=False)
    weights = [value for value in models[0].state_dict().values() if value.ndim == 4]
    kernels = [value for value in weights if min(value.shape[1:]) > 1]  # both layouts differ
    assert kernels
    for kernel in kernels:
        last = kernel.is_contiguous(memory_format=torch.channels_last)
        assert (last, kernel.is_contiguous()) == (precision == "bf16", precision == "no")
    exact, exact_losses, _ = plain_training(CNN, data[0], changed(epochs=1))
    plain, _, _ = plain_training(CNN, data[0], config)  # channels first
    assert run.history["loss"].tolist()[1:] == pytest.approx(exact_losses, rel=0.02)
    off = []
    for found in (run.load("last"), plain):
        pairs = zip(found.parameters(), exact.parameters(), strict=True)
        off.append(sum((value - its).square().sum() for value, its in pairs) ** 0.5)
    assert off[0] <= 2 * off[1] + 1e-4
    assert (off[1] > 0.01) == (precision == "bf16")  # there was something to compare


@NEEDS_COMPILER
@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, CACHED], ids=["from images", "from a cached prefix"])
def test_compiled_training_is_training(data, tmp_path, monkeypatch, changes):
    """Losses to 1e-5 and what is learned to 1e-3 of the change; names and resuming as ever."""
    config = changed(compile=True, epochs=2, **changes)
    compiled = train(TINY, *data, config, out=tmp_path / "whole", progress=False)
    plain, expected_losses, _ = plain_training(TINY, data[0], changed(epochs=2, **changes))
    assert compiled.history["loss"].tolist()[1:] == pytest.approx(expected_losses, rel=1e-5)
    torch.manual_seed(config.seed)
    before, found = build_model(TINY).state_dict(), compiled.load("last").state_dict()
    assert found.keys() == before.keys()
    for key, value in plain.state_dict().items():
        assert (found[key] - value).norm() <= 1e-3 * (value - before[key]).norm() + 1e-7, key
    test_recalls_are_those_of_the_saved_models(compiled, data)
    break_off(monkeypatch, "save", 3, TINY, *data, config, out=tmp_path / "broken")
    other = changed(compile=True, epochs=1, places_per_batch=3, **changes)
    train(TINY, *data, other, out=tmp_path / "other", progress=False)  # shapes that must not matter
    (folder,) = (path.parent for path in tmp_path.glob("broken/*/checkpoint.pt"))
    assert Run(folder, None, None, None).checkpoint()["model"].keys() == before.keys()
    broken = train(TINY, *data, config, out=tmp_path / "broken", progress=False)
    assert_same_result(broken, compiled)


def test_overflow_that_the_scaler_skips_is_no_error(data, tmp_path, monkeypatch):
    """fp16's loss scaling, made to overflow on the CPU, where torch has it but Accelerate not."""
    scalers = []

    def with_scaler(config):
        accelerator = make_accelerator(config)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
        accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"
        scalers.append(accelerator.scaler)
        return accelerator

    monkeypatch.setattr(runs, "make_accelerator", with_scaler)
    steps = changed(epochs=4, clip_value=0.5)
    run = train(TINY, *data, steps, out=tmp_path, progress=False)
    assert scalers[0].get_scale() < 2.0**127
    assert len(run.history) == 5
    assert all(value.isfinite().all() for value in run.load("last").state_dict().values())


def test_progress_bar_shows_loss_recall_and_speed(data, tmp_path, capsys):
    train(TINY, *data, RECIPE, out=tmp_path / "a")
    shown = capsys.readouterr().err
    for word in ("epoch 3/3", "loss=", "recall@1=", "img/s=", "9/9"):
        assert word in shown
    train(TINY, *data, RECIPE, out=tmp_path / "b", progress=False)
    assert "epoch" not in capsys.readouterr().err


# ------------------------------------------------------------------------------- repeatable


def test_same_seed_same_weights_whatever_the_workers(run, data, tmp_path):
    torch.rand(5), random.random(), np.random.rand()  # a run must not depend on what came before
    config = changed(workers=2, device="cpu")
    again = train(TINY, *data, config, out=tmp_path, progress=False)
    assert again.folder.name == run.folder.name
    assert_same_result(again, run)


def test_another_seed_gives_another_run(run, data, tmp_path):
    other = train(TINY, *data, changed(seed=1), out=tmp_path, progress=False)
    assert other.folder.name != run.folder.name
    assert other.history["loss"][3] != run.history["loss"][3]


def test_global_generators_and_settings_are_left_alone(data, tmp_path):
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(())
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    train(TINY, *data, RECIPE, out=tmp_path, progress=False)
    assert (random.random(), np.random.rand(), torch.rand(())) == expected
    assert not torch.are_deterministic_algorithms_enabled()


def test_finished_run_is_loaded(run, data, monkeypatch):
    monkeypatch.setattr(runs, "make_accelerator", lambda config: pytest.fail("trained again"))
    again = train(TINY, *data, RECIPE, out=run.folder.parent, progress=False)
    assert_same_result(again, run)
    assert (again.model_config, again.train_config) == (TINY, RECIPE)
    assert runs.find_run(TINY, *data, RECIPE, out=run.folder.parent).folder == run.folder
    names = {path.name for path in run.folder.iterdir()}
    models = {"best.safetensors", "last.safetensors"}
    told = {"config.json", "history.csv", "provenance.json"}
    assert names == {*told, "state.pt", "lock", *models}


def test_training_can_be_forbidden_and_a_run_looked_for(run, data, tmp_path, monkeypatch):
    monkeypatch.setenv(workspace.NO_TRAINING, "1")
    same = train(TINY, *data, RECIPE, out=run.folder.parent, progress=False)
    assert same.folder == run.folder
    with pytest.raises(RuntimeError, match=rf"no finished run {tmp_path}.*run the notebooks"):
        train(TINY, *data, RECIPE, out=tmp_path, progress=False)
    assert runs.find_run(TINY, *data, RECIPE, out=tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_weights_are_named_by_content(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"one")
    first = folders.weights_id("toy_vits14", path)
    (tmp_path / "copy.safetensors").write_bytes(b"one")
    assert folders.weights_id("toy_vits14", tmp_path / "copy.safetensors") == first
    path.write_bytes(b"two")
    assert folders.weights_id("toy_vits14", path) != first
    assert folders.weights_id("toy_vits14", None) is None
    assert folders.weights_id("dinov2_vitb14", "hub") == "hub"
    with pytest.raises(FileNotFoundError, match=r"no weights at .*gone\.safetensors"):
        folders.weights_id("toy_vits14", tmp_path / "gone.safetensors")
    monkeypatch.setattr(folders, "TOY_WEIGHTS", tmp_path)
    seen = set()
    for content in (b"one", b"two"):
        (tmp_path / "toy_vits14.safetensors").write_bytes(content)
        seen.add(folders.weights_id("toy_vits14", "hub"))
    assert len(seen) == 2


def test_initial_weights_are_loaded(run, data, tmp_path):
    path = run.folder / "last.safetensors"
    started = train(TINY, *data, RECIPE, weights=path, out=tmp_path, progress=False)
    assert started.folder.name != run.folder.name
    learned, frozen = run.load("last").backbone, started.load("last").backbone
    key = "trunk.blocks.0.attn.qkv.weight"  # random, so that it can come from the file only
    assert torch.equal(learned.state_dict()[key], frozen.state_dict()[key])


# ------------------------------------------------------------------------------- broken off


class Crash(Exception):
    pass


def crash_at(monkeypatch, name, call):
    """Let the run's function `name` raise at its n-th call, before it does anything."""
    module = next(m for m in (Run, folders, loop) if hasattr(m, name))
    original, calls = getattr(module, name), []

    def crashing(*args, **options):
        calls.append(name)
        if len(calls) == call:
            raise Crash
        return original(*args, **options)

    monkeypatch.setattr(module, name, crashing)


def break_off(monkeypatch, name, call, *run, **options):
    """Train until the run's function `name` raises."""
    with monkeypatch.context() as patch:
        crash_at(patch, name, call)
        with pytest.raises(Crash):
            train(*run, **options, progress=False)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        *(("write_config", call) for call in (1, 2)),
        *(("save", call) for call in (1, 3)),
        *(("save_model", call) for call in (1, 2)),
        *(("loss_and_mined_share", 5), ("write_history", 3)),
    ],
)
def test_run_goes_on_wherever_it_broke_off(data, run, tmp_path, monkeypatch, name, call):
    break_off(monkeypatch, name, call, TINY, *data, RECIPE, out=tmp_path)
    torch.rand(3)
    assert_same_result(train(TINY, *data, RECIPE, out=tmp_path, progress=False), run)


def test_batch_norm_and_generators_go_on(data, tmp_path, monkeypatch):
    """A CNN has running means; and here each step draws from all three global generators."""

    def noisy(desc, labels, *args):
        noise = torch.randn_like(desc) * random.random() * np.random.rand()
        return losses.loss_and_mined_share(desc + noise, labels, *args)

    monkeypatch.setattr(loop, "loss_and_mined_share", noisy)
    whole = train(CNN, *data, RECIPE, out=tmp_path / "whole", progress=False)
    random.random(), np.random.rand(), torch.rand(())  # must not matter
    break_off(monkeypatch, "save", 3, CNN, *data, RECIPE, out=tmp_path / "broken")
    broken = train(CNN, *data, RECIPE, out=tmp_path / "broken", progress=False)
    assert_same_result(broken, whole)
    assert any(key.endswith("running_mean") for key in whole.load("last").state_dict())


# ------------------------------------------------------------------------------- longer


@pytest.fixture
def trained_batches(monkeypatch):
    """Grows with each batch that is trained on, for which all global generators are drawn from."""
    seen = []

    def noted(desc, *args):
        seen.append(1)
        noise = torch.randn_like(desc) * random.random() * np.random.rand()
        return losses.loss_and_mined_share(desc + noise, *args)

    monkeypatch.setattr(loop, "loss_and_mined_share", noted)
    return seen


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (TINY, {"milestones": (1, 3), "workers": 1}),
        (TINY, {"schedule": "constant", "optimizer": "adamw", "lr": 1e-3, "warmup_steps": 5}),
        (TINY, {"precision": "bf16", "clip_value": 0.01, **CACHED}),
        (CNN, {"momentum": 0.5}),
        (CNN, {"ema": 0.7, "initialise": True, "backbone_lr": 0.01}),
    ],
    ids=["steps", "adamw", "cached prefix in bf16", "batch norm", "average"],
)
def test_a_longer_run_goes_on_from_a_finished_one(data, tmp_path, trained_batches, model, changes):
    whole = train(model, *data, changed(epochs=4, **changes), out=tmp_path / "one", progress=False)
    short = [
        train(model, *data, changed(epochs=epochs, **changes), out=tmp_path, progress=False)
        for epochs in (1, 2)
    ]
    assert len(trained_batches) == BATCHES * (4 + 1 + 1)
    before = [files(run.folder) for run in short]
    torch.rand(3)
    longer = train(model, *data, changed(epochs=4, **changes), out=tmp_path, progress=False)
    assert len(trained_batches) == BATCHES * (6 + 2)
    assert longer.folder.name == whole.folder.name
    assert_same_result(longer, whole)
    assert contents(longer.folder) == contents(whole.folder)
    assert [files(run.folder) for run in short] == before
    assert longer.history[:3].equals(short[1].history)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        *(("save_model", call) for call in (1, 2)),
        *(("_write_state", call) for call in (1, 2, 3)),
        *(("write_config", 1), ("loss_and_mined_share", 2), ("write_history", 1)),
    ],
)
def test_a_longer_run_goes_on_wherever_it_broke_off(data, run, tmp_path, monkeypatch, name, call):
    train(TINY, *data, changed(epochs=2), out=tmp_path, progress=False)
    break_off(monkeypatch, name, call, TINY, *data, RECIPE, out=tmp_path)
    assert_same_result(train(TINY, *data, RECIPE, out=tmp_path, progress=False), run)


def test_the_best_epoch_may_lie_in_the_shorter_run(data, tmp_path, monkeypatch):
    left = iter([0, 80, 70, 60, 90])
    states = []

    def scripted(model, *_, **__):
        states.append({key: value.clone() for key, value in model.state_dict().items()})
        return dict.fromkeys(("recall@1", "recall@5"), float(next(left)))

    monkeypatch.setattr(loop, "validate", scripted)
    for epochs, best in ((2, 1), (3, 1), (4, 4)):
        run = train(TINY, *data, changed(epochs=epochs), out=tmp_path, progress=False)
        assert run.best["epoch"] == best
        for key, value in run.load().state_dict().items():
            assert torch.equal(value, states[best][key])


COSINE = {"schedule": "cosine"}


@pytest.mark.parametrize(
    ("before", "after", "spoil"),
    [
        (changed(epochs=4), RECIPE, None),  # longer already
        (changed(epochs=2, lr=0.01), RECIPE, None),  # another run
        (changed(epochs=2, **COSINE), changed(**COSINE), None),  # another rate from the start
        (changed(epochs=2), RECIPE, "state.pt"),  # thrown away, or of a time without it
        (changed(epochs=2), RECIPE, "config.json"),
        (changed(epochs=2), RECIPE, "best.safetensors"),
        (changed(epochs=2), RECIPE, "last.safetensors"),
    ],
)
def test_other_runs_are_not_gone_on_with(data, tmp_path, trained_batches, before, after, spoil):
    run = train(TINY, *data, before, out=tmp_path, progress=False)
    assert (run.folder / "state.pt").exists() == (before.schedule != "cosine")
    if spoil:
        (run.folder / spoil).unlink()
    trained_batches.clear()
    train(TINY, *data, after, out=tmp_path, progress=False)
    assert len(trained_batches) == BATCHES * after.epochs


def test_an_unfinished_run_is_not_gone_on_with(data, run, tmp_path, monkeypatch):
    break_off(monkeypatch, "write_config", 2, TINY, *data, changed(epochs=2), out=tmp_path)
    assert list(tmp_path.glob("*/state.pt"))
    assert_same_result(train(TINY, *data, RECIPE, out=tmp_path, progress=False), run)


def test_a_damaged_state_is_told(data, tmp_path):
    short = train(TINY, *data, changed(epochs=1), out=tmp_path, progress=False)
    (short.folder / "state.pt").write_bytes(b"no state")
    with pytest.raises(ValueError, match=r"state\.pt.*\n.*Without this file, train begins"):
        train(TINY, *data, RECIPE, out=tmp_path, progress=False)


# ------------------------------------------------------------------------------- from a model


@pytest.mark.parametrize("changes", [{"epochs": 2}, {"epochs": 2, **CACHED}], ids=str)
def test_a_whole_model_is_trained_further(data, run, tmp_path, monkeypatch, changes):
    """As a plain loop does from there: other blocks learn, and `start` itself stays as it is."""
    recipe, config = changed(**changes), replace(TINY, trained_blocks=2)
    start = run.load()
    expected, expected_losses, _ = plain_training(config, data[0], recipe, start)
    tuned = train(config, *data, recipe, start=start, out=tmp_path, progress=False)
    assert tuned.history["recall@1"][0] == run.best["recall@1"]
    assert tuned.history["loss"].tolist()[1:] == pytest.approx(expected_losses, rel=1e-6)
    for key, value in tuned.load("last").state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[key], rtol=1e-5, atol=1e-7)
    for key, value in run.load().state_dict().items():
        assert torch.equal(start.state_dict()[key], value)

    for same in (run.folder, str(run.folder / "best.safetensors"), start.train()):
        found = runs.find_run(config, *data, recipe, start=same, out=tmp_path)
        assert found.folder == tuned.folder
    for other in (run.load("last"), None):
        assert runs.find_run(config, *data, recipe, start=other, out=tmp_path) is None
    broken = {"start": run.folder, "out": tmp_path / "broken"}
    break_off(monkeypatch, "save", 2, config, *data, recipe, **broken)
    assert_same_result(train(config, *data, recipe, **broken, progress=False), tuned)


def test_clusters_of_a_start_stay(data, tmp_path, monkeypatch):
    config = replace(TINY, aggregator="netvlad", aggregator_options={"clusters": 3})
    start = build_model(config)
    monkeypatch.setattr(runs, "initialise", lambda *_: pytest.fail("chosen anew"))
    tuned = train(config, *data, changed(lr=1e-30, weight_decay=0), start=start, out=tmp_path)
    for key, value in tuned.load("last").aggregator.state_dict().items():
        torch.testing.assert_close(value, start.aggregator.state_dict()[key])


@pytest.mark.parametrize(
    ("config", "options", "error", "complaint"),
    [
        (replace(TINY, mix_depth=1, out_channels=4), {}, ValueError,
         "it has mix_depth 2, not 1, out_channels 8, not 4$"),
        (replace(TINY, aggregator="gem"), {}, ValueError, "aggregator 'mix', not 'gem'"),
        (replace(TINY, image_size=56), {}, ValueError, "image_size 28, not 56"),
        (replace(TINY, final_norm=True), {}, ValueError, "final_norm False, not True"),
        (TINY, {"weights": "hub"}, ValueError, "weights hub and a start"),
        (TINY, {"start": "gone.safetensors"}, FileNotFoundError, "gone.safetensors"),
        (TINY, {"start": "."}, FileNotFoundError, "no finished run"),
    ],
)  # fmt: skip
def test_what_no_run_starts_from(data, run, tmp_path, config, options, error, complaint):
    options = {"start": run.folder, **options}
    with pytest.raises(error, match=complaint):
        train(config, *data, RECIPE, out=tmp_path, **options)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------- processes


def python(script, *args, launcher=()):
    """Run a script in a process of its own, on one thread; what it printed."""
    here = str(Path(__file__).parents[2])
    result = subprocess.run(
        [sys.executable, *launcher, script, *map(str, args)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": here},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("tell", [True, False])
def test_second_process_waits_for_the_first(tmp_path, capsys, tell):
    order = []

    def second():
        with folders.locked(tmp_path, tell):
            order.append("second")

    with folders.locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(timeout=0.3)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]
    assert ("another process is at work" in capsys.readouterr().out) == tell


def test_run_that_another_process_finished_meanwhile_is_loaded(data, run, tmp_path, monkeypatch):
    """Whoever waited for the lock finds the run done, and does not train it again."""
    accelerator = runs.make_accelerator

    def finish_meanwhile(config):
        monkeypatch.setattr(runs, "make_accelerator", accelerator)
        train(TINY, *data, RECIPE, out=tmp_path, progress=False)
        monkeypatch.setattr(runs, "fit", lambda *_, **__: pytest.fail("trained again"))
        return accelerator(config)

    monkeypatch.setattr(runs, "make_accelerator", finish_meanwhile)
    assert_same_result(train(TINY, *data, RECIPE, out=tmp_path, progress=False), run)


PART = """
import json, os, sys
import torch
from dinomix import ModelConfig, PlaceDataset, TestSet, TrainConfig, train
from dinomix import training

root, out, model, *recipes = sys.argv[1:]
mined, gradients = [], []  # labels that each loss was computed from; gradients of each step
loss, clip = training.loss_and_mined_share, torch.nn.utils.clip_grad_value_

def noted_loss(desc, labels, *args):
    mined.append(labels.tolist())
    return loss(desc, labels, *args)

def noted_clip(parameters, value):
    gradients.append([p.grad.clone() for p in parameters])
    return clip(parameters, value)

training.loss_and_mined_share, torch.nn.utils.clip_grad_value_ = noted_loss, noted_clip
model = ModelConfig.from_dict(json.loads(model))
data = PlaceDataset(f"{root}/places"), TestSet(f"{root}/city")
for number, recipe in enumerate(recipes):
    mined.clear(), gradients.clear()
    train(model, *data, TrainConfig.from_dict(json.loads(recipe)), out=out, progress=False)
    part = f"{out}/part{os.environ['RANK']}-{number}.pt"
    torch.save({"mined": mined, "gradients": gradients}, part)
"""


@pytest.mark.parametrize(
    "recipes",
    [
        [
            ({"shuffle": "all"}, 1e-4),
            ({"shuffle": "city"}, 1e-4),
            ({"precision": "bf16", **CACHED}, 0.05),
        ],
        pytest.param(
            [({"compile": True, **CACHED}, 1e-4)], marks=[pytest.mark.slow, NEEDS_COMPILER]
        ),
    ],
    ids=["float32, by city, bf16 from a cached prefix", "compiled"],
)
def test_two_processes_train_like_one(tmp_path, recipes):
    """Each has half of a batch, but the miner must see all of it."""
    write_places(tmp_path / "places", places=3, city="Another")
    data = (
        PlaceDataset(write_places(tmp_path / "places", places=4)),
        TestSet(write_testset(tmp_path / "city", places=6)),
    )
    script = tmp_path / "part.py"
    script.write_text(PART)
    recipes = [(changed(device="cpu", clip_value=0.01, **c), off) for c, off in recipes]
    configs = [
        json.dumps(config.to_dict()) for config in (TINY, *(recipe for recipe, _ in recipes))
    ]
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    python(script, tmp_path, tmp_path / "two", *configs, launcher=launcher)
    for number, (recipe, tolerance) in enumerate(recipes):
        one = train(TINY, *data, recipe, out=tmp_path / "one", progress=False)
        two = Run.open(tmp_path / "two" / one.folder.name)
        parts = [torch.load(tmp_path / "two" / f"part{rank}-{number}.pt") for rank in (0, 1)]
        assert_trained_alike(one, two, data, recipe, tolerance, parts)


def assert_trained_alike(one, two, data, recipe, tolerance, parts):
    columns = ["step", "loss", "lr", *(["mined_share"] if tolerance < 0.01 else [])]
    pd.testing.assert_frame_equal(one.history[columns], two.history[columns], rtol=tolerance)
    its = two.load("last").state_dict()
    for key, tensor in one.load("last").state_dict().items():
        torch.testing.assert_close(its[key], tensor, rtol=tolerance, atol=tolerance / 100)

    recalls = ["recall@1", "recall@5"]
    if tolerance < 0.01:
        assert one.history[recalls].equals(two.history[recalls])
    test_recalls_are_those_of_the_saved_models(two, data)

    batches = [batch for epoch in (1, 2, 3) for batch in batches_of(data[0], recipe, epoch)]
    _, _, gradients = plain_training(TINY, data[0], recipe)
    whole = sum(gradient.square().sum() for gradient in gradients.values()) ** 0.5
    for part in parts:
        assert [sorted(labels) for labels in part["mined"]] == [
            sorted(np.repeat(batch, 4).tolist()) for batch in batches
        ]
        for (name, gradient), its in zip(gradients.items(), part["gradients"][0], strict=True):
            off = (its - gradient).norm()
            assert off <= tolerance * (gradient.norm() + whole / 100), name


# ------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_no_number_stops_and_keeps_the_checkpoint(
    data, run, tmp_path, monkeypatch, value
):
    calls = []

    def diverging(*args, **options):
        calls.append(1)
        loss, share = losses.loss_and_mined_share(*args, **options)
        last = len(calls) == 2 * BATCHES  # of epoch 2
        return loss * value if last else loss, share

    with monkeypatch.context() as patch:
        patch.setattr(loop, "loss_and_mined_share", diverging)
        with pytest.raises(DivergedError, match=rf"{value} in epoch 2, step 3, .* 0\.02") as caught:
            train(TINY, *data, RECIPE, out=tmp_path, progress=False)
    assert isinstance(caught.value, FloatingPointError)
    (folder,) = tmp_path.iterdir()
    kept = Run(folder, None, None, None).checkpoint()
    assert [row["epoch"] for row in kept["history"]] == [0, 1]
    assert all(tensor.isfinite().all() for tensor in kept["model"].values())
    with pytest.raises(FileNotFoundError, match="no finished run"):
        Run.open(folder)
    assert_same_result(train(TINY, *data, RECIPE, out=tmp_path, progress=False), run)


def test_broken_weights_never_reach_the_checkpoint(data, tmp_path):
    """One step a run: its loss is fine, and it leaves weights that are not."""
    config = TrainConfig(epochs=1, places_per_batch=PLACES, lr=1e30, weight_decay=1e30)
    with pytest.raises(DivergedError, match=r"is not finite in epoch 1, step 1, .* rate 1e\+30"):
        train(TINY, *data, config, out=tmp_path, progress=False)
    (folder,) = tmp_path.iterdir()
    kept = Run(folder, None, None, None).checkpoint()
    assert len(kept["history"]) == 1
    assert all(tensor.isfinite().all() for tensor in kept["model"].values())
    config = TrainConfig(epochs=5, places_per_batch=2, lr=1e30, weight_decay=0.1)
    with pytest.raises(DivergedError, match="in epoch 1, step"):  # it explodes by itself
        train(TINY, *data, config, out=tmp_path / "slow", progress=False)


def test_too_few_places_for_a_batch(cities, data, tmp_path):
    with pytest.raises(ValueError, match=r"7 places do not fill .* places_per_batch = 8"):
        train(TINY, *data, TrainConfig(places_per_batch=PLACES + 1), out=tmp_path)
    with pytest.raises(ValueError, match=r"5 places of the largest city do not fill .* = 6"):
        train(TINY, *cities, TrainConfig(places_per_batch=6, shuffle="city"), out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_to_train(data, tmp_path, monkeypatch):
    frozen = build_model(TINY).requires_grad_(False)
    monkeypatch.setattr(runs, "build_model", lambda *args, **options: frozen)
    with pytest.raises(ValueError, match="nothing to train"):
        train(TINY, *data, RECIPE, out=tmp_path)


def test_gem_alone_can_be_trained(data, tmp_path):
    config = ModelConfig("toy_vits14", 0, aggregator="gem", image_size=28)
    (group,) = make_optimizer(RECIPE, build_model(config)).param_groups
    assert len(group["params"]) == 1
    run = train(config, *data, RECIPE, out=tmp_path, progress=False)
    assert run.load("last").aggregator.p.item() != 3


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"device": "cpu", "precision": "fp16"}, '"fp16" needs a GPU.*"auto"'),
        ({"device": "cuda:99"}, "'cuda:99' cannot be used here"),
        ({"device": "gpu"}, "'gpu' cannot be used here"),
        ({"device": "cpu"}, "80 cannot .* 3 processes"),
    ],
)
def test_a_machine_that_cannot_is_told(monkeypatch, fields, complaint):
    monkeypatch.setattr("dinomix.runs.machine.Accelerator.num_processes", 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=complaint):
        make_accelerator(TrainConfig(**fields))


@pytest.mark.parametrize("finished", [True, False])
def test_folder_of_another_run_is_refused(data, tmp_path, monkeypatch, finished):
    break_off(monkeypatch, "save", 1, TINY, *data, RECIPE, out=tmp_path)
    (path,) = tmp_path.glob("*/config.json")
    config = json.loads(path.read_text())
    config["train"]["lr"], config["finished"] = 0.5, finished
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"another run: it differs in \['train'\]"):
        train(TINY, *data, RECIPE, out=tmp_path, progress=False)
