"""The page of notebook 10, as far as no browser is needed; test_browser.py opens it."""

import os
from pathlib import Path

import pytest

from dinomix.pipeline import notebooks, page
from dinomix.pipeline.notebooks import NOTEBOOKS, load_profile
from tests.cli.test_cli import invoke


@pytest.fixture
def launched(monkeypatch) -> list[list[str]]:
    """What Voila was launched with, instead of launching it."""
    from voila.app import Voila

    calls = []
    monkeypatch.setattr(Voila, "launch_instance", calls.append)
    monkeypatch.delenv("JUPYTER_PATH", raising=False)
    return calls


def test_serves_the_notebook_that_the_pipeline_left(monkeypatch, launched):
    asked = []

    def run_profile(profile: str, only: str) -> list[Path]:
        asked.append((profile, only))
        return [Path("executed/03_benchmark.ipynb"), Path("executed/10_explore.ipynb")]

    monkeypatch.setattr(notebooks, "run_profile", run_profile)
    invoke("page", "demo", "--port", 9000, "--no-browser")
    assert asked == [("demo", "10")]
    assert launched[0][0] == str(Path("executed/10_explore.ipynb"))
    assert {"--port=9000", "--Voila.open_browser=False", "--Voila.ip=localhost"} <= {*launched[0]}


def test_voila_finds_the_template(launched, monkeypatch):
    from voila.paths import collect_template_paths

    monkeypatch.setenv("JUPYTER_PATH", "/elsewhere")
    page.serve(Path("some.ipynb"), 9000)
    assert os.environ["JUPYTER_PATH"].split(os.pathsep)[1:] == ["/elsewhere"]  # stays, too
    folders = collect_template_paths(["voila", "nbconvert"], "dinomix", prune=True)
    assert (Path(folders[0]) / "index.html.j2").is_file()
    assert Path(folders[0]).is_relative_to(NOTEBOOKS)


@pytest.mark.parametrize("profile", ["smoke", "demo", "toy", "paper"])
def test_every_profile_has_one_notebook_to_show(profile):
    shown = [step for step in load_profile(profile) if step.name.startswith(page.NOTEBOOK)]
    assert [step.name for step in shown] == ["10_explore"]


def test_an_error_is_one_line(launched):
    result = invoke("page", "nonsense")
    assert result.exit_code == 1 and result.stderr.startswith("error: there is no profile 'nonsen")
    assert not launched
