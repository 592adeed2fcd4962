"""Notebook 10 in a real browser: in JupyterLab, and as the page that `make app` opens.

python -m pytest -m browser --screenshots shots    # and look at them
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import psutil
import pytest

from dinomix.pipeline.notebooks import run_profile
from tests import browsing
from tests.browsing import View, wait_until

pytestmark = pytest.mark.browser

TRAIN = """
import sys
from pathlib import Path
import dinomix
data, seed = Path(sys.argv[1]), int(sys.argv[2])
city = data / "toycity-smoke"
config = dinomix.ModelConfig("toy_vits14", image_size=70, out_channels=16, out_rows=4)
recipe = dinomix.TrainConfig.preset("toy", epochs=500, places_per_batch=4, seed=seed)
places = dinomix.PlaceDataset(city / "train")
val = dinomix.TestSet(city, "val")
dinomix.train(config, places, val, recipe, weights="hub", out=data / "runs")
"""


@pytest.fixture(scope="module")
def data(request, tmp_path_factory) -> Path:
    """A data folder with all that notebook 10 shows, made by the smoke profile."""
    if lack := browsing.missing():
        if request.config.getoption("--require-browser"):
            pytest.fail(lack)
        pytest.skip(lack)
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DINOMIX_DATA", str(folder))  # the pipeline sets it, and leaves it set
        run_profile("smoke", only="10", data=folder)
    return folder


class Opened:
    """Notebook 10 on a page, run from top to bottom."""

    def __init__(self, name: str, page, problems: list[str], data: Path, shots: Path) -> None:
        self.name, self.page, self.problems, self.data = name, page, problems, data
        self._shots, self._numbers = shots, count()

    def view(self, name: str, *pictures: str) -> View:
        view = View(self.page, name)
        view.wait_until_shown(*pictures)
        return view

    def shoot(self, view: View, what: str) -> None:
        name = view.root.get_attribute("class").split("dinomix-")[1].split()[0]
        file = f"{self.name}-{next(self._numbers):02d}-{name}-{what}.png"
        view.root.screenshot(path=self._shots / file)


@pytest.fixture(scope="module", params=["lab", "app"])
def opened(request, data, tmp_path_factory) -> Iterator[Opened]:
    chosen = os.environ.get("DINOMIX_SCREENSHOTS")
    shots = Path(chosen) if chosen else tmp_path_factory.mktemp("screenshots")
    shots.mkdir(parents=True, exist_ok=True)
    folder = tmp_path_factory.mktemp(request.param)
    show = {"lab": show_in_lab, "app": show_in_app}[request.param]
    with show(folder, data) as (page, problems):
        View(page, "training-monitor").wait_until_shown("dinomix-curves")  # the last view
        page.screenshot(path=shots / f"{request.param}-page.png")
        yield Opened(request.param, page, problems, data, shots)


@contextmanager
def show_in_lab(folder: Path, data: Path) -> Iterator[tuple]:
    notebook = nbformat.read(data / "executed" / "smoke" / "10_explore.ipynb", as_version=4)
    for cell in notebook.cells:  # so that whatever the page shows was made in it
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    (folder / "notebooks").mkdir()
    nbformat.write(notebook, folder / "notebooks" / "10_explore.ipynb")
    with (
        browsing.serve_lab(folder / "notebooks", folder / "home", data) as address,
        browsing.open_page(folder / "chromium") as (page, problems),
    ):
        page.goto(address.format("10_explore.ipynb"))
        browsing.run_all_cells(page)
        yield page, problems


@contextmanager
def show_in_app(folder: Path, data: Path) -> Iterator[tuple]:
    with (
        browsing.serve_app("smoke", folder / "home", data) as address,
        browsing.open_page(folder / "chromium") as (page, problems),
    ):
        page.goto(address)
        page.locator("#rendered_cells").wait_for()
        browsing.check_outputs(page)
        yield page, problems


@pytest.fixture(autouse=True)
def no_problems(opened) -> Iterator[None]:
    """Whatever a test does, the page has nothing to complain of."""
    yield
    assert not opened.problems, "\n".join(opened.problems)


def test_the_page_has_no_code_and_the_notebook_has(opened):
    sources = opened.page.locator(".jp-CodeCell .jp-InputArea-editor:visible").count()
    assert (sources > 0) == (opened.name == "lab")
    if opened.name == "app":
        assert opened.page.title() == "dinomix"


def test_only_this_machine_can_open_the_page(opened):
    port = urlsplit(opened.page.url).port
    listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    hosts = {c.laddr.ip for c in listening if c.laddr.port == port}
    assert hosts and hosts <= {"127.0.0.1", "::1"}


def test_retrieval_browser(opened):
    view = opened.view("retrieval-browser", "dinomix-ranking", "dinomix-map")
    first = view.status()
    opened.shoot(view, "first")
    with view.changes("dinomix-ranking", "dinomix-map"):
        view.press("Next")
    second = view.status()
    with view.changes("dinomix-ranking", "dinomix-map"):
        view.press("Previous")
    assert view.status() == first
    with view.changes("dinomix-ranking"):
        view.control("Query").fill("2")
        view.control("Query").press("Enter")
    assert view.status() == second
    with view.changes("dinomix-ranking", status=False):
        view.choose_another("Method")
    opened.shoot(view, "another-method")
    with view.changes():
        condition = view.choose_another("Condition")
    assert condition in view.status()


def test_retrieval_browser_keeps_to_failures(opened):
    view = opened.view("retrieval-browser", "dinomix-ranking", "dinomix-map")
    view.control("Condition").select_option(label="every condition")
    view.control("Only failures").check()

    def only_failures() -> bool:
        found = re.search(r"first right one at rank (\d+)", view.status())
        return "none is right" in view.status() or (found and int(found[1]) > 1)

    wait_until(only_failures, "a query whose first image is wrong", opened.page)
    total = int(re.search(r"query 1 of (\d+)", view.status())[1])
    for _ in range(min(total - 1, 3)):
        with view.changes("dinomix-ranking"):
            view.press("Next")
        assert only_failures(), view.status()
    opened.shoot(view, "only-failures")


def test_attention_explorer(opened):
    view = opened.view("attention-explorer", "dinomix-query", "dinomix-heat")
    opened.shoot(view, "first")
    picture = view.root.locator("img.dinomix-query")
    box = picture.bounding_box()
    with view.changes("dinomix-query", "dinomix-heat"):
        picture.click(position={"x": 0.1 * box["width"], "y": 0.1 * box["height"]})
    assert "row 1, column 1" in view.status()
    with view.changes("dinomix-query", "dinomix-heat"):
        view.slide("Patch row")
    assert "row 2, column 1" in view.status()
    with view.changes("dinomix-heat", status=False):
        view.slide("Block", "ArrowLeft")
    with view.changes("dinomix-query", "dinomix-heat"):
        view.control("Query").fill("3")
        view.control("Query").press("Enter")
    opened.shoot(view, "clicked")
    assert len(view.pixels("dinomix-heat")) == 2  # two methods side by side
    view.control("Beside").select_option(label="nothing")
    wait_until(lambda: view.shows("dinomix-heat", 1), "a method alone", opened.page)
    opened.shoot(view, "alone")


def test_ablation_dashboard(opened):
    view = opened.view("ablation-dashboard", "dinomix-chart")
    opened.shoot(view, "first")
    with view.changes("dinomix-chart"):
        view.control("study").select_option(label="04_mixer_depth")
    with view.changes("dinomix-chart", status=False):
        view.control("x axis").select_option(label="mix_depth")
    with view.changes("dinomix-chart"):
        view.control("condition").select_option(label=["dusk", "night"])
    assert "averaged over condition: dusk, night" in view.status()
    with view.changes("dinomix-chart"):
        view.control("Colour").select_option(label="condition")
    with view.changes("dinomix-chart"):
        view.control("k").select_option(label=["1", "5"])
    with view.changes("dinomix-chart"):
        view.control("Panels").select_option(label="k")
    opened.shoot(view, "mixer-depth")
    with view.changes("dinomix-chart", status=False):
        view.control("Metric").select_option(label="val_recall")


def test_training_monitor_follows_a_run_and_stops(opened):
    view = opened.view("training-monitor", "dinomix-curves")
    opened.shoot(view, "finished-run")
    runs = opened.data / "runs"
    before = set(runs.iterdir())
    seed = "17" if opened.name == "lab" else "18"
    training = subprocess.Popen([sys.executable, "-c", TRAIN, str(opened.data), seed])
    try:
        history = "history.csv"
        wait_until(lambda: _new_run(runs, before, history), "the first epoch of a run")
        run = _new_run(runs, before, history)
        view.press("Follow")  # which looks for runs, too
        option = view.control("Run").locator("option").filter(has_text=run)
        option.wait_for(state="attached")
        with view.changes("dinomix-curves"):
            view.control("Run").select_option(label=option.inner_text())
        assert "unfinished" in view.status() and run in view.status()
        with view.changes("dinomix-curves"):
            pass  # on its own
        view.press("Stop")
        opened.shoot(view, "stopped")
        stopped = view.status()
        opened.page.wait_for_timeout(6000)  # three looks
        assert view.status() == stopped and training.poll() is None
        with view.changes("dinomix-curves"):
            view.press("Follow")
    finally:
        training.kill()
        training.wait()
        for folder in set(runs.iterdir()) - before:  # so that the next page begins as this one did
            shutil.rmtree(folder)


def _new_run(runs: Path, before: set[Path], file: str) -> str | None:
    return next((p.name for p in runs.iterdir() if p not in before and (p / file).exists()), None)
