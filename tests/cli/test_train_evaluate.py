"""`dinomix train` and `dinomix evaluate`: from arguments to runs and recalls."""

import dataclasses
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import dinomix
from dinomix.cli.training import model_config
from dinomix.datasets.benchmarks import BENCHMARKS
from dinomix.datasets.prepare import prepare
from dinomix.images import read_image
from dinomix.localization import what_a_backbone_knows
from dinomix.runs import train as training
from dinomix.statistics import mcnemar, paired
from dinomix.training import DivergedError
from tests.cli.test_cli import invoke, plain
from tests.conftest import write_image, write_places, write_testset
from tests.made_downloads import write_msls_challenge, write_sfxl

MODEL = {"backbone": "toy_vits14", "image_size": 28, "out_channels": 4, "out_rows": 2}
RECIPE = "epochs=1; places_per_batch=4; lr=1e-3; device=cpu"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_places(folder / "places")
    write_testset(folder / "city", split="val")
    write_testset(folder / "city", split="test", conditions=("night", "day"))
    (folder / "model.yaml").write_text("".join(f"{key}: {MODEL[key]}\n" for key in MODEL))
    return folder


@pytest.fixture(scope="module")
def model(data):
    torch.manual_seed(0)
    built = dinomix.build_model(dinomix.ModelConfig(**MODEL))
    return dinomix.save_model(built, data / "model.safetensors")


@pytest.fixture(autouse=True)
def data_folder(data, monkeypatch):
    monkeypatch.setenv("DINOMIX_DATA", str(data))


def train(data, *options, recipe=RECIPE):
    places = data / "places"
    return invoke("train", places, "--config", data / "model.yaml", "--set", recipe, *options)


# ------------------------------------------------------------------------------- train


def test_train_makes_the_run_that_the_package_makes(data, tmp_path):
    result = train(data, "--val", data / "city", "--recipe", "toy", "--out", tmp_path)
    assert result.exit_code == 0
    folder, best, *compared = result.stdout.splitlines()
    assert "24 images" in result.stderr and "TestSet(city-val: 5 database" in result.stderr
    assert "epoch 1/1" in result.stderr  # the bar
    run = training.find_run(
        dinomix.ModelConfig(**MODEL),
        dinomix.PlaceDataset(data / "places"),
        dinomix.TestSet(data / "city", "val"),
        dinomix.TrainConfig.preset("toy", epochs=1, places_per_batch=4, lr=1e-3),
        weights="hub",
        out=tmp_path,
    )
    assert str(run.folder) == folder
    recalls = f"recall@1 {run.best['recall@1']:.1f} %, recall@5 {run.best['recall@5']:.1f} %"
    assert best == f"best epoch 1 of 1: {recalls} on city-val (25 m)"
    assert folder in repr(run) and "best epoch 1 of 1" in repr(run)
    assert compared[0] == "Recall@1 in percent"
    row = next(line for line in compared if "city-val" in line)
    assert f"{run.best['recall@1']:.1f}" in row and len(re.findall(r"\d+\.\d", row)) == 3

    again = train(data, "--val", data / "city", "--recipe", "toy", "--out", tmp_path, "--json")
    assert again.stderr == ""
    told = {"run": folder, "epoch": 1, "epochs": 1, "validation": "city-val", "convention": "25 m"}
    recalls = {name: run.best[name] for name in ("recall@1", "recall@5")}
    assert json.loads(again.stdout) == told | recalls
    shown = invoke("evaluate", folder, data / "city", "--k", "1", "--json")
    assert {row["dim"] for row in json.loads(shown.stdout)} == {8}


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What `train` would be called with, without training."""
    calls = []

    def stop(config, places, val, recipe, **options):
        calls.append((config, places, val, recipe, options))
        raise DivergedError("the loss is nan in epoch 1")

    monkeypatch.setattr(training, "train", stop)
    return calls


def test_train_passes_on_what_it_is_given(data, asked, tmp_path):
    result = invoke("train", data / "places", "--hold-out", 0.34)
    assert result.exit_code == 1 and result.stderr.endswith("error: the loss is nan in epoch 1\n")
    config, places, val, recipe, options = asked.pop()
    assert config == dinomix.PRESETS["dino_mix"] and recipe == dinomix.TrainConfig()
    assert (len(places), len(val.database)) == (4, 2)
    assert options == {"weights": "hub", "start": None, "out": None, "progress": True}
    arguments = ["--preset", "salad", "--recipe", "authors", "--weights", "random"]
    more = ["--images-per-place", 2, "--out", tmp_path, "--val", data / "city", "--json"]
    invoke("train", data / "places", *arguments, *more)
    config, places, val, recipe, options = asked.pop()
    assert config == dinomix.PRESETS["salad"]
    assert recipe == dinomix.TrainConfig.preset("authors")
    assert places.images_per_place == 2 and val.name == "city-val"
    assert options == {"weights": None, "start": None, "out": tmp_path, "progress": False}
    write_testset(tmp_path / "plain")
    train(data, "--preset", "salad", "--val", tmp_path / "plain")
    config, _, val, *_ = asked.pop()
    salad = {"aggregator": "salad", "trained_blocks": 4, "final_norm": True}
    assert config == dinomix.ModelConfig(**MODEL, **salad)
    assert val.name == "plain-test"  # it has no other split


def test_train_validates_on_several_sets_or_on_crops_and_compares_on_others(data, tmp_path):
    (data / "plain").exists() or write_testset(data / "plain")
    write_testset(tmp_path / "city")  # another one of the same name
    sets = ["--val", data / "city", "--val", data / "plain"]
    sets += ["--also", data / "city", "--also", tmp_path / "city"]
    result = train(data, *sets, "--recipe", "toy", "--out", tmp_path)
    assert "on city-val (25 m) and plain-test (25 m)\n" in result.stdout
    assert result.stdout.count("city-test") == 2
    result = train(data, "--hold-out", 0.34, "--crops", "--recipe", "toy", "--out", tmp_path)
    assert "cropped" in result.stderr and "places-held-out" in result.stdout
    models = what_a_backbone_knows(
        dinomix.ModelConfig(**MODEL), dinomix.PlaceDataset(data / "places"), "hub", None
    )
    gem, vlad = models.values()
    fresh = dinomix.build_model(vlad.config, "hub").aggregator
    assert gem.config.aggregator == "gem" and vlad.dim == 96 * min(64, 12)
    assert not torch.equal(fresh.centroids, vlad.aggregator.centroids)


def test_train_starts_from_a_model(data, model, asked, tmp_path):
    (tmp_path / "more.yaml").write_text("trained_blocks: 1\n")
    places = ["train", data / "places", "--hold-out", 0.34, "--start", model]
    invoke(*places, "--config", tmp_path / "more.yaml")
    config, *_, options = asked.pop()
    assert config == dinomix.ModelConfig(**MODEL, trained_blocks=1)  # its own, but for the file's
    assert options["weights"] is None
    for key, value in dinomix.load_model(model).state_dict().items():
        assert torch.equal(options["start"].state_dict()[key], value)
    invoke(*places, "--preset", "salad")
    assert asked.pop()[0] == dinomix.PRESETS["salad"]
    both = invoke(*places, "--weights", "random")
    assert both.exit_code == 2 and "--weights or --start" in plain(both.stderr)


def test_processes_beside_the_first_stay_quiet(data, monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "1")  # not the process that reports
    best = {"epoch": 1.0, "recall@1": 50.0, "recall@5": 75.0}
    run = SimpleNamespace(folder=tmp_path, best=best)
    monkeypatch.setattr(training, "train", lambda *a, **o: run)
    assert train(data, "--hold-out", 0.34).stdout == ""


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "--val SET or --hold-out SHARE"),
        (["--val", "city", "--hold-out", "0.2"], "--val SET or --hold-out SHARE"),
        (["--val", "city", "--crops"], "--crops goes with --hold-out"),
    ],
)
def test_validation_is_one_or_the_other(data, options, complaint):
    result = train(data, *options)
    assert result.exit_code == 2 and complaint in plain(result.stderr)


@pytest.mark.parametrize(
    ("options", "recipe", "complaint"),
    [
        (["--preset", "dino_mux"], "", "no preset 'dino_mux'; did you mean 'dino_mix'"),
        (["--recipe", "quick"], "", "no training preset 'quick'; there are authors, "),
        ([], "epoch=1", r"no fields \['epoch'\]"),
        ([], "lr=fast", "TrainConfig.lr is 'fast'"),
        ([], "epochs", "'epochs'; write name=value"),
        (["--images-per-place", "9"], "", "none of the 6 places .* has 9 images"),
        (["--weights", "w.pth"], RECIPE, "no weights at w.pth: give the path of a file"),
        (["--hold-out", "2"], "", "share is 2.0"),
        (["--images-per-place", "1"], "", "images_per_place is 1; .*two images of a place"),
        ([], "places_per_batch=1", "places_per_batch is 1; the loss needs two places"),
        (["--start", "gone.ckpt"], "", "there is no model gone.ckpt"),
        (["--start", "{model}", "--preset", "salad"], RECIPE, "aggregator 'mix', not 'salad'"),
        ([], "places_per_batch=400", "do not fill one batch of places_per_batch = 400"),
    ],
)
def test_errors_of_train_are_one_line(data, model, options, recipe, complaint):
    options = [option.format(model=model) for option in options]
    held = [] if "--hold-out" in options else ["--hold-out", "0.34"]
    result = train(data, *held, *options, recipe=recipe)
    assert result.exit_code == 1 and result.stdout == ""
    assert re.search(rf"^error: .*{complaint}", result.stderr, re.MULTILINE)
    assert "Traceback" not in result.stderr


def test_configs_are_read_over_a_preset(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text("aggregator_options: {clusters: 8}\n")
    assert model_config("salad", path) == dinomix.ModelConfig(
        aggregator="salad", trained_blocks=4, final_norm=True, aggregator_options={"clusters": 8}
    )
    config = dinomix.PRESETS["dino_mix_toy"]
    dinomix.build_model(config).save_pretrained(tmp_path)
    assert model_config("dino_mix", tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("mix_depth: 1\nout_row: 4\n", "out_row"),
        ("7: 2", "7"),
        ("mix_depth: two", "mix_depth.*'two'"),
        ("out_rows: 2001-01-01", "out_rows"),
        ("aggregator: nothing", "unknown aggregator 'nothing'"),
    ],
)
def test_errors_in_a_config_name_the_file(data, tmp_path, content, complaint):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    result = invoke("train", data / "places", "--hold-out", 0.5, "--config", path)
    assert result.exit_code == 1
    assert re.fullmatch(rf"error: {re.escape(str(path))}: .*{complaint}.*\n", result.stderr)


# ------------------------------------------------------------------------------- evaluate


def test_evaluate_prints_what_the_package_measures(data, model):
    expected = dinomix.evaluate(
        dinomix.load_model(model),
        dinomix.TestSet(data / "city"),
        [1, 5],
        interval=0.95,
        progress=False,
    )
    result = invoke("evaluate", model, data / "city", "--k", "5,1", "--json")
    assert result.stderr == ""
    found = pd.DataFrame(json.loads(result.stdout))
    pd.testing.assert_frame_equal(found, pd.DataFrame(expected), check_dtype=False)
    result = invoke("evaluate", model, data / "city", "--k", "1,5", "--csv")
    found = pd.read_csv(io.StringIO(result.stdout))
    pd.testing.assert_frame_equal(found, pd.DataFrame(expected), check_dtype=False)


def test_evaluate_shows_convention_and_recall(data, model):
    result = invoke("evaluate", model, data / "city", "--k", "1,5")
    text = plain(result.stdout)
    assert "city-test, 5 database images, positives: 25 m, image size: 28 x 28 px" in text
    assert all(w in text for w in ("condition", "R@1", "R@5", "day", "night", "all", "queries"))
    lines = [line for line in result.stdout.splitlines() if "all" in line]
    assert re.search(r"\d \[\d+\.\d, \d+\.\d\]", lines[-1])  # the interval of R@1
    assert "100.0" in lines[-1]  # of R@5, with five images in the database
    assert "toy_vits14" in result.stderr and "describe" in result.stderr


@pytest.mark.parametrize(
    ("written", "size"),
    [("42", 42), ("28x56", (28, 56)), ("28,56", (28, 56)), ("native", "native")],
)
def test_evaluate_at_another_image_size(data, tmp_path, written, size):
    built = dinomix.build_model(dinomix.ModelConfig(**MODEL, aggregator="gem"))
    model = dinomix.save_model(built, tmp_path / "gem.safetensors")
    result = invoke("evaluate", model, data / "city", "--image-size", written, "--csv")
    test = dinomix.TestSet(data / "city")
    expected = dinomix.evaluate(built, test, interval=0.95, image_size=size, progress=False)
    assert result.stdout == expected.to_csv(index=False)
    text = {"42": "42 x 42", "native": "native"}.get(written, "28 x 56")
    assert set(expected["image_size"]) == {text}
    result = invoke("evaluate", model, data / "city", "--image-size", written)
    assert f"image size: {text}{' px' * (size != 'native')}" in plain(result.stdout)


def test_an_image_size_that_the_weights_do_not_fit(data, model):
    result = invoke("evaluate", model, data / "city", "--image-size", "native")
    assert result.exit_code == 1 and result.stdout == ""
    assert "error: the weights of mix on toy_vits14 fit images of 28 x 28 only" in result.stderr


def test_evaluate_several(data, model, tmp_path):
    options = ["--split", "val", "--device", "cpu", "--batch-size", 2, "--csv"]
    write_testset(tmp_path / "town", split="val", places=3)
    result = invoke("evaluate", model, data / "city", tmp_path / "town", *options)
    found = pd.read_csv(io.StringIO(result.stdout))
    assert list(dict.fromkeys(found["dataset"])) == ["city-val", "town-val"]


def test_evaluate_each_query(data, model, tmp_path):
    write_testset(tmp_path / "town")
    sets, file = (data / "city", tmp_path / "town"), tmp_path / "new" / "queries.csv"
    result = invoke("evaluate", model, *sets, "--per-query", file)
    assert result.exit_code == 0 and "median error" in result.stdout
    found = pd.read_csv(file, keep_default_na=False)
    assert found.columns[0] == "dataset" and found["condition"].iloc[-1] == ""
    for name, folder in zip(("city-test", "town-test"), sets, strict=True):
        made = dinomix.retrieve(dinomix.load_model(model), dinomix.TestSet(folder), progress=False)
        chosen = found[found["dataset"] == name].reset_index(drop=True).drop(columns="dataset")
        expected = made.queries()
        assert list(chosen) == list(expected) and len(chosen) == len(expected)
        pd.testing.assert_series_equal(chosen["error_m"], expected["error_m"])


def test_compare_two_files_of_queries(data, model, tmp_path):
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    invoke("evaluate", model, data / "city", "--per-query", files[0])
    table = pd.read_csv(files[0]).assign(rank=1)
    table.to_csv(files[1], index=False)
    (row,) = json.loads(invoke("compare", *files, "--json").stdout)
    right = (pd.read_csv(files[0])["rank"] == 1).astype(float)
    assert (row["dataset"], row["after"]) == ("city-test", 100)
    assert row["difference"] == pytest.approx(100 * (1 - right.mean()))
    assert row["mcnemar_p"] == mcnemar(right, [1] * len(right))
    assert row["p"] == paired(right, [1] * len(right), table["group"]).p
    assert (row["queries"], row["groups"]) == (len(table), table["group"].nunique())
    shown = plain(invoke("compare", *files, "--k", 2).stdout)
    assert "Recall@2" in shown and "McNemar's p" in shown and "city-test" in shown
    kept = table.drop(columns="dataset")  # as a study keeps it beside its recalls
    kept.to_csv(files[1], index=False)
    assert "only one of the files has ['', 'city-test']" in invoke("compare", *files).stderr
    assert json.loads(invoke("compare", files[1], files[1], "--json").stdout)[0]["p"] == 1
    assert invoke("compare", files[0], files[0], "--k", 11).exit_code == 2  # ten are retrieved
    table[1:].to_csv(files[1], index=False)
    result = invoke("compare", *files)
    assert result.exit_code == 1 and "not asked the same queries: 1 of" in result.stderr


def test_evaluate_csv_files_and_frames(model, tmp_path):
    rng = np.random.default_rng(0)
    for side in ("database", "queries"):
        for i in range(4):
            write_image(tmp_path / "rail" / side / f"{i}.jpg", rng)
        rows = [f"{side}/{i}.jpg,45.77{i},3.08" for i in range(4)]  # 111 m apart
        (tmp_path / "rail" / f"{side}.csv").write_text("\n".join(["image,lat,lon", *rows]))
    for options, convention in ([], "25 m"), (["--frames", 1], "+-1 frame"):
        result = invoke("evaluate", model, tmp_path / "rail", *options, "--k", 4, "--csv")
        found = pd.read_csv(io.StringIO(result.stdout)).iloc[0]
        assert (found["dataset"], found["convention"]) == ("rail", convention)
        assert (found["recall"], found["queries"], found["without_positives"]) == (100, 4, 0)


def test_evaluate_benchmarks(data, model, tmp_path, monkeypatch):
    monkeypatch.setenv("DINOMIX_DATA", str(tmp_path))
    result = invoke("evaluate", model, "tokyo247")
    assert result.exit_code == 1
    assert re.match("error: tokyo247 is not there: .*dinomix prepare tokyo247", result.stderr)
    write_testset(tmp_path / "tokyo247")
    result = invoke("evaluate", model, "tokyo247")
    assert result.exit_code == 1 and "75,984 database images" in result.stderr
    with pytest.warns(UserWarning, match="75,984"):
        result = invoke("evaluate", model, "tokyo247", "--other-counts", "--split", "val", "--json")
    told = json.loads(result.stdout)
    assert told[0]["dataset"] == "tokyo247 (5 database images, 5 queries)"


def test_sets_that_share_a_database_describe_it_once(model, tmp_path, monkeypatch):
    monkeypatch.setenv("DINOMIX_DATA", str(tmp_path))
    names = ["sfxl-testv1", "sfxl-testv2", "sfxl-night", "sfxl-occlusion"]
    prepare("sfxl", write_sfxl(tmp_path / "raw"), tmp_path / "sfxl", progress=False)
    for name, queries in zip(names, (2, 1, 3, 1), strict=True):
        changed = dataclasses.replace(BENCHMARKS[name], database=5, queries=queries, slack=0)
        monkeypatch.setitem(BENCHMARKS, name, changed)
    read = []

    def reading(path, *args):
        read.append(Path(path))
        return read_image(path, *args)

    monkeypatch.setattr(dinomix.retrieval, "read_image", reading)
    found, counts = [], []
    kept = [*names, "--store", tmp_path / "kept"]
    for arguments in (names[:1], names, kept, kept):
        read.clear()
        result = invoke("evaluate", model, *arguments, "--k", 1, "--csv")
        assert result.exit_code == 0, result.stderr
        found.append(pd.read_csv(io.StringIO(result.stdout)))
        counts.append(sum(path.parent.name == "database" for path in read))
    assert counts == [5, 5, 5, 0]
    assert len(list((tmp_path / "kept").glob("*.npy"))) == 1
    assert found[1]["dataset"].tolist() == names
    pd.testing.assert_frame_equal(found[1], found[2])
    pd.testing.assert_frame_equal(found[1], found[3])
    loaded, tests = dinomix.load_model(model), map(dinomix.open_benchmark, names)
    alone = [dinomix.evaluate(loaded, test, [1], progress=False) for test in tests]
    assert found[1]["recall"].tolist() == [table["recall"].item() for table in alone]


def test_a_submission(model, tmp_path, monkeypatch):
    monkeypatch.setenv("DINOMIX_DATA", str(tmp_path))
    raw = write_msls_challenge(tmp_path / "raw")
    prepare("msls-challenge", raw, tmp_path / "msls-challenge", progress=False)
    changed = dataclasses.replace(BENCHMARKS["msls-challenge"], database=12, queries=6)
    monkeypatch.setitem(BENCHMARKS, "msls-challenge", changed)
    town = write_testset(tmp_path / "town")
    result = invoke("evaluate", model, "msls-challenge", "--submission", tmp_path / "made.csv")
    assert result.exit_code == 0 and "made.csv" in result.stderr
    rows = np.loadtxt(tmp_path / "made.csv", ndmin=2, dtype=str)
    test = dinomix.open_benchmark("msls-challenge")
    found = dinomix.retrieve(dinomix.load_model(model), test, 20, progress=False)
    expected = [
        [query.stem, *(test.database[i].stem for i in ranked)]
        for query, ranked in zip(test.queries, found.ranked, strict=True)
    ]
    assert rows.tolist() == expected
    for arguments in (
        ["msls-challenge"],
        ["msls-challenge", town],
        ["msls-challenge", town, "--submission", tmp_path / "x.csv"],
        ["msls-challenge", "msls-challenge", "--submission", tmp_path / "x.csv"],
        [town, "--submission", tmp_path / "x.csv"],
    ):
        result = invoke("evaluate", model, *arguments)
        assert result.exit_code == 2 and "one test set whose truth is" in plain(result.stderr)
    assert not (tmp_path / "x.csv").exists()


def test_damaged_images(data, model, tmp_path):
    folder = write_testset(tmp_path / "town")
    damaged = sorted((folder / "images" / "test" / "queries").iterdir())[0]
    damaged.write_bytes(b"no image")
    result = invoke("evaluate", model, folder)
    assert result.exit_code == 1 and str(damaged) in result.stderr
    assert "--skip-damaged" in result.stderr.splitlines()[-1]
    with pytest.warns(UserWarning, match="q0"):
        result = invoke("evaluate", model, folder, "--skip-damaged", "--json", "--k", "5")
    assert json.loads(result.stdout)[0]["recall"] == 80.0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--json", "--csv"], "--json and --csv exclude each other"),
        (["--k", "0"], "whole numbers from 1 on, as 1,5,10"),
        (["--k", "one"], "whole numbers from 1 on"),
        (["--device", "gpu"], "'gpu' cannot be used here"),
        (["--batch-size", "0"], "Invalid value for '--batch-size'"),
        (["--workers", "-1"], "Invalid value for '--workers'"),
        (["--image-size", "large"], "'large': write pixels, as 112 or 96x128"),
    ],
)
def test_wrong_usage_of_evaluate(data, model, options, complaint):
    result = invoke("evaluate", model, data / "city", *options)
    assert result.exit_code == 2 and complaint in plain(result.stderr)


def test_every_set_is_opened_before_anything_is_measured(data, model):
    for arguments, missing in (
        ((model, data / "city", "nowhere"), "folder nowhere"),
        (("nothing", data / "city"), "model nothing: give a run's folder"),
    ):
        result = invoke("evaluate", *arguments)
        assert result.exit_code == 1 and result.stdout == ""
        assert result.stderr.startswith(f"error: there is no {missing}")


def test_scripts_get_json_alone(data, model):
    """The real thing: two streams, an exit code."""
    command = [sys.executable, "-m", "dinomix", "evaluate", model, data / "city", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {row["condition"] for row in json.loads(done.stdout)} == {"day", "night", "all"}
