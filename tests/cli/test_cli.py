"""The command `dinomix`: what each command passes on, what it prints, how it fails."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import dinomix.datasets.prepare
import dinomix.pipeline.check
import dinomix.standins.pretrain
import toycity
from dinomix.cli import app
from dinomix.datasets.prepare import PREPARERS, Summary
from dinomix.model import ModelConfig, build_model, save_model
from dinomix.pipeline import notebooks as pipeline
from dinomix.pipeline.notebooks import NotebookFailedError
from dinomix.plumbing import provenance
from dinomix.plumbing.errors import HubError
from dinomix.weights import TOY_WEIGHTS
from tests.conftest import write_image, write_testset

COMMANDS = {
    *("toy", "prepare", "train", "pretrain", "evaluate", "calibrate", "compare", "audit"),
    *("models", "localize", "check", "run", "figures", "provenance", "site", "page"),
}


def invoke(*arguments: object):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def plain(text: str) -> str:
    """Without colours, frames and line breaks."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│┃━┏┓┡┩└┘─┬┴┳╇┼├┤┌┐╭╮╰╯]", " ", text).split())


@pytest.fixture
def called(monkeypatch):
    """Names a function to replace; afterwards holds what it was called with."""
    calls = []

    def replace(module, name, result=None, error=None):
        def noted(*args, **options):
            calls.append((args, options))
            if error is not None:
                raise error
            return result

        monkeypatch.setattr(module, name, noted)
        return calls

    return replace


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("DINOMIX_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("arguments", "status", "heavy"),
    [
        (["--help"], 0, {"torch", "pandas", "numpy", "nbformat", "papermill", "pydantic"}),
        (["prepare", "oxford", "raw"], 1, {"torch", "pandas"}),
        (["toy", "--image-size", "2"], 1, {"torch", "pandas"}),
    ],
)
def test_commands_load_what_they_need(arguments, status, heavy):
    code = (
        "import sys; from dinomix.cli import app\n"
        f"try: app({arguments})\n"
        f"except SystemExit as end: assert end.code == {status}\n"
        f"loaded = {heavy} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if status == 0:
        assert {name for name in COMMANDS if f" {name} " in done.stdout} == COMMANDS


def test_every_command_explains_itself_and_the_module_is_the_command():
    for name in COMMANDS:
        text = plain(invoke(name, "--help").output)
        assert f"{name} [OPTIONS]" in text
        assert len(text) > 200
        assert text.count(f"dinomix {name} ") >= 2  # examples; the usage says "root" here
    assert plain(invoke().output) == plain(invoke("--help").output)
    assert plain(invoke("--version").output) == f"dinomix {dinomix.__version__}"
    text = plain(invoke("prepare", "--help").output)
    assert all(name in text for name in PREPARERS)
    done = subprocess.run([sys.executable, "-m", "dinomix", "-h"], capture_output=True, text=True)
    assert done.returncode == 0 and "Usage: dinomix" in plain(done.stdout)


def test_models():
    rows = json.loads(invoke("models", "--json").output)
    found = {row["name"]: row for row in rows}["megaloc"]
    assert {"dimension": "8448", "image_size": "322", "licence": "MIT"}.items() <= found.items()
    text = plain(invoke("models").output)
    assert all(word in text for word in ("image size", "cosplace-resnet50-512", "GPL-3.0", "here"))


# ------------------------------------------------------------------------------- audit


def test_audit(tmp_path):
    root, training = write_testset(tmp_path / "city"), tmp_path / "training"
    write_image(training / "other.jpg", np.random.default_rng(7))
    assert "city-test and" in plain(invoke("audit", training, root).stdout)
    assert json.loads(invoke("audit", training, root, "--json").stdout) == []
    query = next((root / "images/test/queries").iterdir())
    shutil.copy(query, training / "copy.jpg")
    files = "--out", tmp_path / "leaks.csv", "--gallery", tmp_path / "leaks.png"
    text = plain(invoke("audit", training, root, *files, "--bits", 0).stdout)
    assert "queries training same picture 1 1" in text
    table = pd.read_csv(tmp_path / "leaks.csv")
    assert table[["image", "other"]].iloc[0].tolist() == [str(query), str(training / "copy.jpg")]
    assert Image.open(tmp_path / "leaks.png").width > 100
    row = {"part": "queries", "other_part": "training", "finding": "same picture"}
    rows = json.loads(invoke("audit", training, root, "--bits", 0, "--json").stdout)
    assert rows == [row | {"images": 1, "pairs": 1}]


def test_audit_compares_descriptors(tmp_path):
    root, training = write_testset(tmp_path / "city"), tmp_path / "training"
    write_image(training / "other.jpg", np.random.default_rng(7))
    torch.manual_seed(0)
    config = ModelConfig(backbone="toy_vits14", image_size=28, out_channels=4, out_rows=2)
    model = save_model(build_model(config), tmp_path / "model.safetensors")
    limits = "--bits", 0, "--similarity", -1, "--device", "cpu"  # whatever is nearest
    rows = json.loads(invoke("audit", training, root, "--model", model, *limits, "--json").stdout)
    assert {tuple(row.values()) for row in rows} == {
        ("queries", "training", "alike", 5, 5),
        ("database", "training", "alike", 5, 5),
        ("queries", "database", "alike", 5, 25),
    }


# ------------------------------------------------------------------------------- prepare


def test_prepare(called, data, tmp_path):
    summary = Summary("tokyo247", data / "tokyo247", {"test/database": 12}, 12, 0, (), ("look",))
    calls = called(dinomix.datasets.prepare, "prepare", summary)
    result = invoke("prepare", "tokyo247", tmp_path)
    assert calls.pop() == (
        ("tokyo247", tmp_path, data / "tokyo247"),
        {"copy": False, "allow_missing": False, "progress": True},
    )
    assert result.stdout.strip() == str(summary)
    options = ("--out", tmp_path / "o", "--copy", "--allow-missing", "--json")
    result = invoke("prepare", "tokyo247", tmp_path, *options)
    assert calls.pop() == (
        ("tokyo247", tmp_path, tmp_path / "o"),
        {"copy": True, "allow_missing": True, "progress": False},
    )
    told = json.loads(result.stdout)
    assert told["counts"] == {"test/database": 12} and told["out"] == str(data / "tokyo247")


# ------------------------------------------------------------------------------- check


def table(*oks: bool) -> pd.DataFrame:
    rows = [[f"thing {i}", "[found]", "needed", ok] for i, ok in enumerate(oks)]
    return pd.DataFrame(rows, columns=["what", "found", "needed", "ok"])


def test_check_prints_lines_and_fails_if_anything_does(called):
    found = table(True, False)
    found.loc[1, "found"] = f"no folder /{'far/' * 50}"  # which no line break may tear apart
    calls = called(dinomix.pipeline.check, "check", found)
    result = invoke("check", "paper", "--set", "seeds=[0, 1]")
    assert calls.pop() == (("paper",), {"overrides": {"seeds": [0, 1]}})
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "ok  thing 0: [found]",
        f"NO  thing 1: {found['found'][1]}",
        "    needed: needed",
    ]
    result = invoke("check", "toy", "--json")
    expected = {"what": "thing 1", "found": found["found"][1], "needed": "needed", "ok": False}
    assert result.exit_code == 1 and json.loads(result.stdout)[1] == expected
    called(dinomix.pipeline.check, "check", table(True, True))
    assert invoke("check", "toy").exit_code == 0


# ------------------------------------------------------------------------------- run, figures


def test_run(called, data):
    calls = called(pipeline, "run_profile", [Path("03.ipynb")])
    result = invoke("run", "toy", "--only", "03", "--set", "seeds=[0]; x=1", "--force")
    options = {"only": "03", "overrides": {"seeds": [0], "x": 1}, "force": True}
    assert calls.pop() == (("toy",), options)
    assert "03.ipynb" in result.stdout and str(data / "figures" / "toy") in result.stdout
    invoke("run", "toy")
    assert calls.pop() == (("toy",), {"only": None, "overrides": {}, "force": False})


def test_run_ends_with_the_recall_and_the_demo_with_what_to_try_next(called, data):
    called(pipeline, "run_profile", [Path("03.ipynb")])
    assert "Recall" not in invoke("run", "demo").stdout  # there is no table
    rows = [
        {"dataset": "town", "condition": "all", "k": k, "seed": 0, "method": m, "recall": r}
        for k, m, r in ((1, "DINO-Mix", 40.0), (1, "GeM, ViT, frozen", 15.0), (5, "DINO-Mix", 60.0))
    ]
    (data / "results" / "demo").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(data / "results" / "demo" / "03_benchmark.csv", index=False)
    end = invoke("run", "demo").stdout.splitlines()[-5:]
    assert end[0] == "Recall:" and "GeM, ViT, frozen -> DINO-Mix: R@1 15.0 -> 40.0 (+25.0" in end[1]
    assert end[3:] == ["  make app", "  make study"]
    assert "make study" not in invoke("run", "smoke").stdout


def test_figures(called, tmp_path):
    calls = called(pipeline, "draw_figures", [Path("03.ipynb")])
    result = invoke("figures", "toy", "--only", "03")
    assert calls.pop() == (("toy", Path("figures/toy"), "03"), {})
    assert "03.ipynb" in result.stdout and str(Path("figures/toy")) in result.stdout
    invoke("figures", "toy", tmp_path / "elsewhere")
    assert calls.pop() == (("toy", tmp_path / "elsewhere", None), {})


@pytest.mark.parametrize(
    "error",
    [
        NotebookFailedError("02 stopped"),
        FileNotFoundError("no gsv-cities"),
        ValueError("a word"),
        FloatingPointError("the loss is nan"),
        HubError("no network"),
    ],
)
def test_expected_errors_are_one_line_unless_asked_for_more(called, error):
    called(pipeline, "run_profile", error=error)
    result = invoke("run", "toy")
    assert (result.exit_code, result.stderr) == (1, f"error: {error}\n")
    with pytest.raises(type(error), match=str(error)):
        invoke("--debug", "run", "toy")


def test_other_errors_are_not_hidden(called):
    for error in (KeyError("a bug"), RuntimeError("a bug")):
        called(pipeline, "run_profile", error=error)
        with pytest.raises(type(error), match="a bug"):
            invoke("run", "toy")


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        ("--import no_such_module run toy", 2, "no module 'no_such_module'"),
        ("run", 2, "(?i)missing argument 'profile'"),
        ("rum toy", 2, "No such command 'rum'"),
        ("toy --image-size big", 2, "'big': write pixels, as 112 or 96x128"),
        ("toy --image-size native", 1, "error: .*image_size is 'native'"),
        ("toy --image-size 2", 1, "error: image_size.* 2 is not from 8"),
        ("run toy --set seeds", 1, "error: .*name=value"),
        ("check nowhere", 1, "error: there is no profile 'nowhere'.*'toy'"),
        ("provenance nowhere.png", 1, "error: there is no nowhere.png"),
        ("provenance README.md", 1, r"error: nothing says what made README\.md"),
        ("prepare oxford raw", 1, "error: cannot prepare 'oxford'.*tokyo247"),
        ("pretrain --epochs 0", 2, "greater than or equal to 1"),
        ("pretrain --cameras 100", 2, "need --out"),
        ("pretrain dinov2_vitb14", 1, r"error: no stand-ins \['dinov2_vitb14'\].*toy_vits14"),
    ],
)
def test_mistakes_are_explained(arguments, status, complaint):
    result = invoke(*arguments.split())
    assert (result.exit_code, result.stdout) == (status, "")
    assert re.search(complaint, plain(result.stderr))
    assert status == 2 or result.stderr.count("\n") == 1


def test_provenance(tmp_path):
    (tmp_path / "a.csv").write_text("x\n1\n")
    provenance.write(tmp_path / "a.provenance.json", {"commit": "abc", "device": "cpu, it"})
    told = json.loads(invoke("provenance", tmp_path / "a.csv").stdout)
    assert told == {"commit": "abc", "device": "cpu, it"}


# ------------------------------------------------------------------------------- toy


def test_an_extra_that_is_missing_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "embreex.mesh_construction", None)
    result = invoke("toy", "--small", "--workers", 1, "--json")
    assert result.exit_code == 1
    assert re.fullmatch(r"error: embreex.* pip install 'dinomix\[toy\]'\n", result.stderr)


def test_toy(called, data, tmp_path):
    calls = called(toycity, "write_toycity", Path("there"))
    assert invoke("toy").stdout == "there\n"
    assert calls.pop() == (
        (data / "toycity", toycity.ToyCityConfig()),
        {"workers": None, "progress": True},
    )
    invoke("toy", "--small")  # not where the notebooks look for theirs
    small = toycity.ToyCityConfig.small(image_size=112)
    assert calls.pop() == ((data / "toycity-small", small), {"workers": None, "progress": True})
    invoke("toy", "--out", tmp_path, "--small", "--image-size", "24,32", "--workers", 2)
    small = toycity.ToyCityConfig.small(image_size=(24, 32))
    assert calls.pop() == ((tmp_path, small), {"workers": 2, "progress": True})
    assert json.loads(invoke("toy", "--image-size", 28, "--json").stdout) == {"folder": "there"}
    asked = (data / "toycity", toycity.ToyCityConfig(image_size=28))
    assert calls.pop() == (asked, {"workers": None, "progress": False})


# ------------------------------------------------------------------------------- pretrain


def test_pretrain(called, tmp_path):
    calls = called(dinomix.standins.pretrain, "pretrain_files", [tmp_path / "w.safetensors"])
    assert invoke("pretrain").stdout == f"{tmp_path / 'w.safetensors'}\n"
    assert calls.pop() == ((None, TOY_WEIGHTS), {})
    options = ("--out", tmp_path, "--epochs", 2, "--cameras", 100)
    invoke("pretrain", "toy_vits14", "toy_resnet", *options)
    names = ["toy_vits14", "toy_resnet"]
    assert calls.pop() == ((names, tmp_path), {"epochs": 2, "cameras": 100})
