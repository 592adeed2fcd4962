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


MORE_METHODS = """
import time

def broken():
    raise OSError("no weights here")

def slow():
    model = shown.load(ready[0])
    next(model.parameters()).data.mul_(1.01)  # so that no descriptors of it are kept
    model.register_forward_pre_hook(lambda *_: time.sleep(5))
    return model

models |= {"slow": slow, "broken": broken}
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
        if self.name == "app":
            self.page.get_by_role("tab", name=name.replace("-", " ").capitalize()).click()
        view = View(self.page, name)
        view.wait_until_shown(*pictures)
        return view

    def shoot(self, view: View, what: str) -> None:
        file = f"{self.name}-{next(self._numbers):02d}-{view.name}-{what}.png"
        view.root.screenshot(path=self._shots / file)


@pytest.fixture(scope="module", params=["lab", "app"])
def opened(request, data, tmp_path_factory) -> Iterator[Opened]:
    chosen = os.environ.get("DINOMIX_SCREENSHOTS")
    shots = Path(chosen) if chosen else tmp_path_factory.mktemp("screenshots")
    shots.mkdir(parents=True, exist_ok=True)
    folder = tmp_path_factory.mktemp(request.param)
    show = {"lab": show_in_lab, "app": show_in_app}[request.param]
    with show(folder, data) as (page, problems):
        opened = Opened(request.param, page, problems, data, shots)
        opened.view("training-monitor", "dinomix-curves")  # the last view
        opened.view("retrieval-browser", "dinomix-ranking")
        browsing.check_outputs(page)
        page.screenshot(path=shots / f"{request.param}-page.png")
        yield opened


@contextmanager
def show_in_lab(folder: Path, data: Path) -> Iterator[tuple]:
    notebook = nbformat.read(data / "executed" / "smoke" / "10_explore.ipynb", as_version=4)
    for cell in notebook.cells:  # so that whatever the page shows was made in it
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if cell.source.startswith("browser ="):
                cell.source = MORE_METHODS + cell.source
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
        page.get_by_role("tab", name="Retrieval browser").wait_for()
        assert page.locator(".voila-skeleton-container").count()  # of what is not computed yet
        yield page, problems


@pytest.fixture(autouse=True)
def no_problems(opened) -> Iterator[None]:
    """Whatever a test does, the page has nothing to complain of."""
    yield
    assert not opened.problems, "\n".join(opened.problems)


def test_the_page_has_no_code_and_the_notebook_has(opened):
    sources = opened.page.locator(".jp-CodeCell .jp-InputArea-editor:visible").count()
    assert (sources > 0) == (opened.name == "lab")


@pytest.mark.parametrize("opened", ["app"], indirect=True)
def test_the_page_has_tabs_and_neither_numbers_nor_reprs(opened):
    page = opened.page
    assert page.title() == "dinomix"
    tabs = page.get_by_role("tab").all_inner_texts()
    assert tabs[1:] == [
        *("Retrieval browser", "Patch explorer", "Ablation dashboard", "Training monitor")
    ]
    for tab in tabs:
        page.get_by_role("tab", name=tab).click()
        panel = page.get_by_role("tabpanel")
        assert panel.count() == 1 and panel.get_attribute("aria-label") == tab
        words = page.locator("#rendered_cells").inner_text()
        assert not re.search(r"notebook \d|\b\d\d_[a-z]|[A-Z]\w+\(|<[A-Z]|array\(", words), words
    assert page.locator("h1").inner_text() == "Explore"


VIEWS = {
    "retrieval-browser": ["dinomix-ranking", "dinomix-map"],
    "patch-explorer": ["dinomix-query", "dinomix-heat"],
    "ablation-dashboard": ["dinomix-chart"],
    "training-monitor": ["dinomix-curves"],
}


@pytest.mark.parametrize("name", VIEWS)
def test_nothing_is_cut_off_or_scrolls_and_pictures_have_words(opened, name):
    view = opened.view(name, *VIEWS[name])
    assert view.stray_scroll_bars() == []
    clipped = "e => e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight"
    assert not view.root.locator(".dinomix-status").evaluate(clipped)
    words = view.root.locator("img:visible").evaluate_all("images => images.map(i => i.alt)")
    assert len(words) >= len(VIEWS[name]) and all(words)


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

    def place() -> list[int]:
        return [
            *map(int, re.search(r"\((\d+) of (\d+) that are like this", view.status()).groups())
        ]

    wait_until(only_failures, "a query whose first image is wrong", opened.page)
    for _ in range(min(place()[1] - 1, 3)):
        with view.changes("dinomix-ranking"):
            view.press("Next")
        assert only_failures(), view.status()
    opened.shoot(view, "only-failures")

    def similarity() -> float:
        return float(re.search(r"similarity ([\d.]+)", view.status())[1])

    view.control("Order").select_option(label="surest first: similarity")
    wait_until(lambda: place()[0] == 1, "the surest failure", opened.page)
    surest = similarity()
    view.press("Next")
    wait_until(lambda: place()[0] == min(2, place()[1]), "the next one", opened.page)
    assert similarity() <= surest and only_failures(), view.status()
    opened.shoot(view, "surest-failures")

    view.control("Order").select_option(label="by number")
    view.control("Only failures").uncheck()
    wait_until(lambda: "that are like this" not in view.status(), "all queries", opened.page)


def test_arrow_keys_go_to_the_next_query_and_back(opened):
    view = opened.view("retrieval-browser", "dinomix-ranking")
    first = view.status()
    with view.changes("dinomix-ranking"):
        view.root.locator("img.dinomix-ranking").click()
        opened.page.keyboard.press("ArrowRight")
    with view.changes("dinomix-ranking"):
        view.root.locator("button.dinomix-next").focus()
        opened.page.keyboard.press("ArrowLeft")
    assert view.status() == first
    view.control("Query").press("ArrowRight")  # it moves the cursor there
    opened.page.wait_for_timeout(1000)
    assert view.status() == first


@pytest.mark.parametrize("opened", ["lab"], indirect=True)
def test_a_method_that_is_described_or_broken_shows_nothing_old(opened):
    view = opened.view("retrieval-browser", "dinomix-ranking")
    explorer = opened.view("patch-explorer", "dinomix-query", "dinomix-heat")
    method = view.control("Method")
    good, message = method.evaluate("select => select.selectedOptions[0].label"), view.message()

    def shows_nothing() -> bool:
        return not view.pixels("dinomix-ranking") and not view.pixels("dinomix-map")

    method.select_option(label="slow")
    wait_until(shows_nothing, "old pictures to go", opened.page)
    assert not view.root.locator(".dinomix-status").is_visible()
    opened.shoot(view, "loading")
    message.get_by_text(re.compile("^slow[:,]")).wait_for()  # still: they went at once
    beside = (
        message.bounding_box()["y"] - view.root.locator("button.dinomix-next").bounding_box()["y"]
    )
    assert abs(beside) < 60  # pixels
    with explorer.changes("dinomix-query", "dinomix-heat"):
        explorer.press("Next")
    message.get_by_text(re.compile(r"slow, \w+: \d+ of \d+ images described")).wait_for()
    assert shows_nothing()
    view.press("Cancel")
    message.get_by_text("Cancelled").wait_for()
    assert shows_nothing()
    opened.shoot(view, "cancelled")
    method.select_option(label="broken")
    message.get_by_text("OSError: no weights here").wait_for()
    assert shows_nothing()
    opened.shoot(view, "broken")
    view.press("Try again")
    message.get_by_text("OSError: no weights here").wait_for()
    method.select_option(label=good)
    wait_until(lambda: not message.inner_text(), "the error to go", opened.page)
    view.wait_until_shown("dinomix-ranking", "dinomix-map")
    opened.page.wait_for_timeout(4000)  # longer than a batch of what was cancelled
    assert not message.inner_text() and view.shows("dinomix-ranking")


def test_browser_and_explorer_are_linked(opened):
    def number(name: str) -> str:
        found = re.match(r"query (\d+) of", View(opened.page, name).status())
        return found[1] if found else "none yet"

    def agree_on(wanted: int) -> bool:
        return [number("retrieval-browser"), number("patch-explorer")] == 2 * [str(wanted)]

    view = opened.view("retrieval-browser", "dinomix-ranking")
    view.control("Query").fill("5")
    view.control("Query").press("Enter")
    wait_until(lambda: agree_on(5), "query 5 in both", opened.page)
    explorer = opened.view("patch-explorer", "dinomix-query", "dinomix-heat")
    explorer.press("Next")
    wait_until(lambda: agree_on(6), "query 6 in both", opened.page)


def test_patch_explorer(opened):
    view = opened.view("patch-explorer", "dinomix-query", "dinomix-heat")
    view.control("Method").select_option(index=0)
    view.control("Beside").select_option(index=2)  # the second method
    wait_until(lambda: view.shows("dinomix-heat", 2), "two methods", opened.page)
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
    boxes = [image.bounding_box() for image in view.root.locator("img:visible").all()]
    assert len({(box["width"], box["height"], box["y"]) for box in boxes}) == 1
    captions = view.root.locator("img.dinomix-heat:visible + div").all()
    left, right = (caption.bounding_box() for caption in captions)
    assert left["x"] + left["width"] + 10 <= right["x"]
    view.control("Beside").select_option(label="nothing")
    wait_until(lambda: view.shows("dinomix-heat", 1), "a method alone", opened.page)
    opened.shoot(view, "alone")


def test_ablation_dashboard(opened):
    view = opened.view("ablation-dashboard", "dinomix-chart")
    opened.shoot(view, "first")
    with view.changes("dinomix-chart"):
        view.control("study").select_option(label="mixer depth")
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
        now_it = f"run {run}: unfinished"  # by itself, since the run before is finished
        wait_until(lambda: now_it in view.status(), "the new run", opened.page)
        with view.changes("dinomix-curves"):
            pass  # on its own
        view.press("Stop")
        opened.shoot(view, "stopped")
        stopped = view.status()
        opened.page.wait_for_timeout(6000)  # three looks
        assert view.status() == stopped and training.poll() is None
        with view.changes("dinomix-curves"):
            view.press("Follow")
        training.kill()
        opened.page.wait_for_timeout(3000)  # the last epoch may just be read
        left = _to_go(view)
        wait_until(lambda: _to_go(view) < left, "the countdown", opened.page)
        opened.shoot(view, "killed")
    finally:
        training.kill()
        training.wait()
        for folder in set(runs.iterdir()) - before:  # so that the next page begins as this one did
            shutil.rmtree(folder)


def _to_go(view: View) -> float:
    words = re.search(r"about (?:(\d+):)?(\d+):(\d+) to go", view.status())
    return sum(60**i * int(part or 0) for i, part in enumerate(reversed(words.groups())))


def _new_run(runs: Path, before: set[Path], file: str) -> str | None:
    return next((p.name for p in runs.iterdir() if p not in before and (p / file).exists()), None)
