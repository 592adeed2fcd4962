"""What the browser tests drive: Jupyter servers on free ports, Chromium on their pages, the views.

The browser is the one that the system has (Debian's package `chromium`); none is downloaded.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

PATIENCE = 300  # seconds that a page may take for what it was asked, on a busy machine
CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)
ERRORS = '[data-mime-type$="jupyter.stderr"], [data-mime-type$="jupyter.error"]'


def missing() -> str | None:
    """What this machine lacks for browser tests, or None."""
    if CHROMIUM is None:
        return "no Chromium is installed (on Debian or Ubuntu: apt-get install chromium)"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "the Python package playwright is not installed (pip install 'dinomix[test]')"
    return None


def wait_until(condition: Callable[[], object], what: str, page: "Page | None" = None) -> None:
    """Wait until `condition()` holds; with a page, while the page goes on.

    Raises:
        TimeoutError: it did not within `PATIENCE` seconds; names what was waited for.
    """
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {PATIENCE} seconds, in vain, for {what}")
        page.wait_for_timeout(200) if page else time.sleep(0.2)


# Servers


@contextmanager
def serve_lab(folder: Path, home: Path, data: Path) -> Iterator[str]:
    """JupyterLab on the notebooks of `folder`; gives the address of `<address>/<notebook>`."""
    settings = {
        "notebook-extension/tracker": {"windowingMode": "none"},  # or far cells are not in the page
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }
    for name, values in settings.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", str(folder), "--no-browser", "--allow-root"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=secret"]
    command += [f"--LabApp.user_settings_dir={home / 'settings'}"]
    command += [f"--LabApp.workspaces_dir={home / 'workspaces'}"]
    with _server(command, port, home, data):
        yield f"http://localhost:{port}/lab/tree/{{}}?token=secret"


@contextmanager
def serve_app(profile: str, home: Path, data: Path) -> Iterator[str]:
    """The page that `make app` opens; gives its address."""
    port = free_port()
    command = [sys.executable, "-m", "dinomix", "page", profile, "--no-browser", f"--port={port}"]
    with _server(command, port, home, data):
        yield f"http://localhost:{port}/"


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@contextmanager
def _server(command: list[str], port: int, home: Path, data: Path) -> Iterator[None]:
    """A server process on `port`, ended together with its kernels.

    It knows no Jupyter settings of whoever runs the tests: its own lie in the folder `home`, and so
    does its log, which is printed where the block fails.
    """
    own = {f"JUPYTER_{x}_DIR": str(home / x.lower()) for x in ("CONFIG", "DATA", "RUNTIME")}
    environment = {**os.environ, **own, "DINOMIX_DATA": str(data)}
    home.mkdir(parents=True, exist_ok=True)
    log = home / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)

    def answers() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(command)}\nended with exit code {process.returncode}")
        with suppress(OSError):
            socket.create_connection(("localhost", port), timeout=5).close()
            return True
        return False

    try:
        wait_until(answers, f"an answer on port {port}")
        yield
    except BaseException:
        print(f"The server's log ({log}):\n{log.read_text(errors='replace')}")
        raise
    finally:
        _end(process)


def _end(process: subprocess.Popen) -> None:
    """Ask a server to end, and its kernels with it; kill what is left of them."""
    kernels = []
    with suppress(psutil.NoSuchProcess):
        kernels = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for kernel in kernels:
        with suppress(psutil.NoSuchProcess):
            kernel.kill()


# The browser


@contextmanager
def open_page(profile: Path) -> Iterator[tuple["Page", list[str]]]:
    """An empty page of a fresh Chromium, and the list that its problems go to.

    Problems are errors on the console, uncaught exceptions, requests that failed or were refused,
    and requests to other hosts: the views promise to work without a network.

    Args:
        profile: an empty folder for the browser's own files.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=CHROMIUM,
            headless=True,
            chromium_sandbox=False,  # it needs privileges that containers and CI do not give
            args=list(FLAGS),
            viewport={"width": 1440, "height": 1000},
            timeout=PATIENCE * 1000,
        )
        context.set_default_timeout(PATIENCE * 1000)
        page = context.pages[0]
        problems = _watch(page)
        try:
            yield page, problems
        finally:
            context.close()


def _watch(page: "Page") -> list[str]:
    problems = []

    def note_foreign(url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname not in ("localhost", "127.0.0.1"):
            problems.append(f"request to another host: {url}")

    note = problems.append
    page.on("console", lambda told: told.type == "error" and note(f"console: {told.text}"))
    page.on("pageerror", lambda error: note(f"exception: {error}"))
    page.on("requestfailed", lambda asked: note(f"request failed: {asked.url} {asked.failure}"))
    page.on("response", lambda got: got.status >= 400 and note(f"answer {got.status}: {got.url}"))
    page.on("request", lambda asked: note_foreign(asked.url))
    return problems


def run_all_cells(page: "Page") -> None:
    """Run the notebook that JupyterLab shows from top to bottom, by its menu, and wait for it."""
    indicator = page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    sessions = re.sub(r"/lab/tree/[^?]*", "/api/sessions", page.url)

    def ready() -> bool:  # the page calls a kernel idle before it is asked anything
        kernels = [session["kernel"] for session in page.request.get(sessions).json()]
        idle = any(k["execution_state"] == "idle" and k["connections"] for k in kernels)
        return idle and indicator.count() > 0

    wait_until(ready, "the kernel to begin", page)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt")

    def done() -> bool:
        check_outputs(page)
        return all(re.fullmatch(r"\[\d+\]:", text) for text in prompts.all_inner_texts())

    wait_until(done, "the last cell of the notebook", page)


def check_outputs(page: "Page") -> None:
    """Fail if a cell shows an error, or wrote to stderr."""
    errors = page.locator(ERRORS).all_inner_texts()
    assert not errors, "\n".join(errors)


class View:
    """One view of notebook 10 on a page, used as a person does: by its labels and pictures."""

    def __init__(self, page: "Page", name: str) -> None:
        self.page, self.name = page, name
        self.root = page.locator(f".dinomix-{name}")

    def press(self, button: str) -> None:
        self.root.locator("button").filter(has_text=re.compile(rf"^\s*{button}$")).click()

    def control(self, label: str) -> "Locator":
        return self.root.get_by_label(label, exact=True)

    def choose_another(self, label: str) -> str:
        """Choose the first option of a dropdown that is not chosen now; return it."""
        control = self.control(label)
        chosen = control.evaluate("select => select.selectedOptions[0].label")
        options = control.locator("option").all_inner_texts()
        another = next(option for option in options if option.strip() != chosen.strip())
        control.select_option(label=another)
        return another

    def slide(self, label: str, key: str = "ArrowRight") -> None:
        slider = self.root.locator(".widget-slider").filter(has_text=re.compile(f"^{label}"))
        slider.locator(".noUi-handle").press(key)

    def status(self) -> str:
        return self.root.locator(".dinomix-status").inner_text()

    def message(self) -> "Locator":
        return self.root.locator(".dinomix-message")

    def stray_scroll_bars(self) -> list[str]:
        """What has a scroll bar in the view, but lists, and around it up to its cell."""
        return self.root.evaluate(_SCROLL_BARS)

    def pixels(self, picture: str) -> list[str]:
        """What the pictures of a class that are shown look like, as data URLs; "": not yet."""
        return self.root.locator(f"img.{picture}:visible").evaluate_all(_PIXELS)

    def shows(self, picture: str, number: int | None = None) -> bool:
        """Whether this many pictures of a class, or any, are shown; no error may be."""
        alert = self.root.get_by_role("alert")
        assert not alert.count(), alert.all_inner_texts()
        pixels = self.pixels(picture)
        return all(pixels) and (len(pixels) == number if number else bool(pixels))

    @contextmanager
    def changes(self, *pictures: str, status: bool = True) -> Iterator[None]:
        """The block changes all these pictures, and (or not) the status: wait for it."""
        before = [(picture, self.pixels(picture)) for picture in pictures]
        said = self.status()
        yield

        def changed() -> bool:
            drawn = all(self.shows(p) and self.pixels(p) != old for p, old in before)
            return drawn and (not status or self.status() != said)

        wait_until(changed, f"a change of {pictures} and of the status {said!r}", self.page)

    def wait_until_shown(self, *pictures: str) -> None:
        """Wait until the view has drawn these pictures for the first time."""
        for picture in pictures:
            wait_until(lambda p=picture: self.shows(p), f"the picture {picture}", self.page)


_PIXELS = """images => images.map(image => {
    if (!image.complete || !image.naturalWidth) return "";
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas.toDataURL();
})"""

_SCROLL_BARS = """root => {
    const all = [...root.querySelectorAll(":not(select)")];
    for (let e = root; e && !e.matches(".jp-Cell, #rendered_cells"); e = e.parentElement)
        all.push(e);
    const scrolls = (e, way) => /auto|scroll/.test(getComputedStyle(e)["overflow" + way]);
    return all.filter(e => scrolls(e, "X") && e.scrollWidth > e.clientWidth
        || scrolls(e, "Y") && e.scrollHeight > e.clientHeight).map(e => e.outerHTML.slice(0, 200));
}"""
