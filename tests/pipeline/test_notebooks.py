"""The pipeline on made notebooks, and what it promises of the real ones."""

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from dinomix.pipeline import notebooks as pipeline
from dinomix.pipeline.notebooks import NotebookFailedError, load_profile, run_profile
from dinomix.plumbing.errors import ExplainedError
from dinomix.study.designs import Setup
from tests.conftest import write_places, write_testset

NOTEBOOKS = pipeline.NOTEBOOKS
REAL = sorted(NOTEBOOKS.glob("*.ipynb"))


def write_notebook(folder: Path, name: str, parameters: str, code: str, needs: list[str]) -> None:
    cell = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[cell, new_code_cell(code)])
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata.update(kernelspec=kernel, dinomix={"needs": needs})
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")


LOG = "import os, pathlib; pathlib.Path(os.environ['DINOMIX_DATA'], 'log').open('a').write({!r})"


@pytest.fixture
def notebooks(tmp_path):
    """Notebook 10_b needs 20_a; a third stands alone. Each appends a letter to a log."""
    folder = tmp_path / "notebooks"
    write_notebook(folder, "10_b", "size = 1", LOG.format("b"), ["20_a"])
    write_notebook(folder, "20_a", "size = 1\nspeed = 2", LOG.format("a"), [])
    write_notebook(folder, "30_c", "other = 0", LOG.format("c"), [])
    profile = {"common": {"size": 5}, "notebooks": {"10_b": None, "20_a": {"speed": 7}, "30_c": {}}}
    (folder / "profiles").mkdir()
    (folder / "profiles" / "p.yaml").write_text(yaml.safe_dump(profile))
    return folder


def test_steps_come_in_dependency_order_with_their_parameters(notebooks):
    steps = {step.name: step for step in load_profile("p", notebooks=notebooks)}
    assert list(steps).index("20_a") < list(steps).index("10_b")
    assert steps["10_b"].parameters == {"size": 5}
    assert steps["20_a"].parameters == {"size": 5, "speed": 7}
    assert steps["30_c"].parameters == {}
    overridden = {s.name: s for s in load_profile("p", {"speed": 9}, notebooks)}
    assert overridden["20_a"].parameters["speed"] == 9


def test_runs_in_order_and_skips_what_is_up_to_date(notebooks, tmp_path, capfd):
    data = tmp_path / "data"

    def run(**options) -> str:
        (data / "log").unlink(missing_ok=True)
        copies = run_profile("p", data=data, notebooks=notebooks, **options)
        assert all(copy.is_file() for copy in copies)
        return (data / "log").read_text() if (data / "log").exists() else ""

    data.mkdir()
    assert run(only="10") == "ab"
    assert run() == "c"
    assert run() == ""
    assert run(only="30", force=True) == "c"
    assert run(overrides={"speed": 9}) == "ab"  # what needs a changed notebook runs again, too
    executed = nbformat.read(data / "executed" / "p" / "20_a.ipynb", as_version=4)
    injected = [c for c in executed.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert "speed = 9" in injected[0].source and "size = 5" in injected[0].source
    assert "WARNING" not in capfd.readouterr().err  # of the kernels, about TCP


def test_copies_depend_on_both_packages_and_their_data(notebooks, tmp_path, monkeypatch):
    assert [folder.name for folder in pipeline.PACKAGES] == ["dinomix", "toycity"]
    assert all((folder / "__init__.py").is_file() for folder in pipeline.PACKAGES)
    copies = tuple(tmp_path / folder.name for folder in pipeline.PACKAGES)
    monkeypatch.setattr(pipeline, "PACKAGES", copies)
    steps, seen = load_profile("p", notebooks=notebooks), []
    for name in ("dinomix/a.py", "dinomix/room/facts.toml", "toycity/b.py", "dinomix/kept.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
        seen.append(pipeline.fingerprints(steps)["30_c"])
    assert len(set(seen)) == 3 and seen[-1] == seen[-2]


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("raise KeyError('no such place')", r"30_c stopped with KeyError.*no such place"),
        ("import os; os.kill(os.getpid(), 9)", "30_c stopped: its kernel was killed.*memory"),
    ],
)
def test_a_failing_notebook_is_named_and_kept(notebooks, tmp_path, code, complaint):
    write_notebook(notebooks, "30_c", "other = 0", code, [])
    with pytest.raises(NotebookFailedError, match=complaint):
        run_profile("p", only="30", data=tmp_path, notebooks=notebooks)
    folder = tmp_path / "executed" / "p"
    assert [path.name for path in folder.iterdir()] == ["30_c.unfinished.ipynb"]


def test_only_takes_several_and_the_kernel_is_that_of_this_environment(notebooks, tmp_path):
    path = notebooks / "30_c.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["kernelspec"] = {"name": "gone", "display_name": "G", "language": "python"}
    nbformat.write(notebook, path)
    copies = run_profile("p", only="20, 30", data=tmp_path, notebooks=notebooks)
    assert [copy.stem for copy in copies] == ["20_a", "30_c"]
    with pytest.raises(ValueError, match="no notebook's name starts with '99'"):
        run_profile("p", only="20,99", data=tmp_path, notebooks=notebooks)


BARS = """
from tqdm.auto import tqdm
for place in tqdm(range(2), desc="outer", mininterval=0):
    for image in tqdm(range(3), desc="inner", mininterval=0):
        pass
"""


def test_the_bar_that_moves_inside_of_a_notebook_is_shown(notebooks, tmp_path):
    shown = []
    write_notebook(notebooks, "30_c", "other = 0", BARS, [])
    (step,) = [s for s in load_profile("p", notebooks=notebooks) if s.name == "30_c"]
    pipeline._execute(step, tmp_path / "30_c.ipynb", "f", tmp_path, shown.append)
    assert any(re.match(r"inner: +100% +3/3 \[.*it/s\]$", text) for text in shown)
    assert any(re.match(r"outer: +50% +1/2 \[", text) for text in shown)


DRAW = """
import os, pathlib
assert os.environ["DINOMIX_NO_TRAINING"] == "1"
folder = pathlib.Path(os.environ["DINOMIX_DATA"], "figures", "p")
folder.mkdir(parents=True, exist_ok=True)
from PIL import Image
Image.new("RGB", (4, 4), "red").save(folder / "new.png")
(folder / "tables").mkdir(exist_ok=True)
(folder / "tables" / "new.tex").write_text("new")
"""


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("DINOMIX_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DINOMIX_NO_TRAINING", "")  # put back afterwards
    return tmp_path / "data"


def names(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_figures_are_drawn_again_without_training(notebooks, tmp_path, data):
    """By the whole profile they replace what was there; by some notebooks they join it."""
    write_notebook(notebooks, "30_c", "other = 0", DRAW, ["20_a"])
    for folder in (tmp_path / "data" / "figures" / "p", tmp_path / "out"):
        folder.mkdir(parents=True)
        Image.new("RGB", (4, 4), "blue").save(folder / "old.png")
        (folder / "tables").mkdir()
        (folder / "tables" / "old.csv").write_text("old")
    out = tmp_path / "out"
    copies = pipeline.draw_figures("p", out, "30", notebooks)
    assert [copy.stem for copy in copies] == ["30_c"]  # what it needs stands
    both = {"old.png", "new.png", "tables/old.csv", "tables/new.tex"}
    assert names(out) == both
    write_notebook(notebooks, "10_b", "size = 1", "raise KeyError('late')", ["30_c"])
    with pytest.raises(NotebookFailedError, match="late"):
        pipeline.draw_figures("p", out, notebooks=notebooks)
    for folder in (data / "figures" / "p", out):
        assert names(folder) == both
    write_notebook(notebooks, "10_b", "size = 1", "", ["30_c"])
    pipeline.draw_figures("p", out, notebooks=notebooks)
    assert names(data / "figures" / "p") == names(out) == {"new.png", "tables/new.tex"}
    assert Image.open(out / "new.png").convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_figures_name_what_is_not_trained_before_anything_runs(data):
    with pytest.raises(FileNotFoundError, match="parts of toycity-smoke: run notebook 00"):
        pipeline.draw_figures("smoke", data, "04")
    write_places(data / "toycity-smoke" / "train", places=4)
    write_testset(data / "toycity-smoke", split="val")
    with pytest.raises(ExplainedError) as error:
        pipeline.draw_figures("smoke", data, "04")
    head, *lines = str(error.value).splitlines()
    assert "`dinomix run smoke`" in head
    assert lines == ["  04_mixer_depth: L = 0, seed 0", "  04_mixer_depth: L = 2, seed 0"]
    with pytest.raises(FileNotFoundError, match="parts of crossview-smoke: run notebook 11"):
        pipeline.draw_figures("smoke", data, "11")
    assert not (data / "executed").exists()


def test_notebooks_and_parameters_that_cannot_be_are_named(notebooks, tmp_path):
    with pytest.raises(ValueError, match=r"profile p has no .*'sead'; did you mean 'speed'"):
        load_profile("p", {"sead": 1}, notebooks)
    with pytest.raises(ValueError, match="speed of notebook 20_a is '7'; it should be like 2"):
        load_profile("p", {"speed": "7"}, notebooks)
    given = load_profile("p", {"speed": np.int64(7)}, notebooks)[0].parameters["speed"]
    assert type(given) is int
    with pytest.raises(ValueError, match=r"no notebook's name starts with '99'"):
        run_profile("p", only="99", data=tmp_path, notebooks=notebooks)
    write_notebook(notebooks, "20_a", "size = 1\nspeed = 2", "", ["10_b"])
    for asked, error, complaint in (
        ("10_b: , 20_a: ", ValueError, "cycle"),
        ("30_c: {size: 1}", ValueError, "30_c has no parameter 'size'; there are other"),
        ("40_d: ", FileNotFoundError, r"40_d\.ipynb.*30_c"),
    ):
        (notebooks / "profiles" / "p.yaml").write_text(f"common: {{}}\nnotebooks: {{{asked}}}")
        with pytest.raises(error, match=complaint):
            load_profile("p", notebooks=notebooks)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"train_changes": {"epoch": 3}}, "has no fields .*'epoch'.*did you mean 'epochs'"),
        ({"preset": "tyo"}, "no training preset 'tyo'"),
        ({"backbone": "toy_vits15"}, "unknown backbone 'toy_vits15'.*toy_vits14"),
        ({"methods": ["DINOMix"]}, "no methods .*'DINOMix'.*did you mean 'DINO-Mix'"),
    ],
)
def test_wrong_models_and_recipes_are_refused_before_anything_runs(tmp_path, changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        run_profile("smoke", only="03", overrides=changes, data=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_without_the_repository_it_says_where_profiles_are(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"come with dinomix's repository"):
        load_profile("demo", notebooks=tmp_path / "site-packages" / "notebooks")


@pytest.mark.parametrize("profile", ["smoke", "toy", "paper"])
def test_every_profile_fits_the_notebooks(profile):
    steps = load_profile(profile)
    assert {step.name for step in steps} == {path.stem for path in REAL}
    assert {step.parameters["profile"] for step in steps} == {profile}


def test_profile_published_is_one_notebook_that_needs_the_test_sets_alone(tmp_path):
    (step,) = load_profile("published")
    assert set(step.parameters) == {"profile", "lineup", "test_folders", "hard_because"}
    folders = {"pitts30k", "pitts250k", "sfxl", "tokyo247", "nordland", "sfxl-small"}
    assert set(Setup(tmp_path, step.values).sets()) == folders


def test_paper_profile_stops_in_the_first_cell_and_says_what_to_get(tmp_path):
    with pytest.raises(NotebookFailedError) as error:
        run_profile("paper", data=tmp_path)
    message = str(error.value)
    assert "00_toy_city stopped with MissingDataError" in message and str(tmp_path) in message
    for path in ("gsv-cities", "pitts30k/images/test", "weights/dinov2_vitb14_pretrain.pth"):
        assert f"  {path}: " in message
    (copy,) = (tmp_path / "executed" / "paper").iterdir()
    ran = [c for c in nbformat.read(copy, as_version=4).cells if c.get("execution_count")]
    assert len(ran) == 3  # the parameters, those injected, and the first cell


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_notebooks_follow_the_house_style(path):
    notebook = nbformat.read(path, as_version=4)
    assert set(notebook.metadata["dinomix"]["needs"]) <= {other.stem for other in REAL}
    parameters = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(parameters) == 1
    namespace: dict = {}
    exec(parameters[0].source, {"__builtins__": {}}, namespace)  # literals need no builtins
    json.dumps(namespace)
    assert set(papermill.inspect_notebook(path)) == set(namespace)
    assert notebook.cells[0].cell_type == "markdown"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            lines = [line for line in cell.source.splitlines() if line.strip()]
            assert len(lines) <= 12 or cell is parameters[0]
