"""The training monitor: follows the history of a run while it is made."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import ipywidgets
import pandas as pd
from tqdm.auto import tqdm

from dinomix.figures import training_curves
from dinomix.runs.run import COLUMNS, CONFIG, HISTORY
from dinomix.training import best_row
from dinomix.widgets.view import View, choice, offer, picture, show


def training_monitor(runs: str | Path, run: str | None = None, seconds: float = 2.0) -> View:
    """Follow a run: loss, mined share and validation recall, epoch by epoch as they are written.

    A thread of its own looks every few `seconds`, also while a cell trains, until Stop is clicked
    or the kernel ends. When the run is finished, the next that begins is shown.

    Args:
        runs: folder of runs, as of `train`; it may come later.
        run: the folder's name of one to stay with, which may come later, too; None: the latest.
    """
    return _TrainingMonitor(Path(runs), run, seconds)


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    config: Mapping[str, Any] = field(default_factory=dict)  # empty before it begins
    history: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COLUMNS))
    changed: float | None = None  # when the history was last written, in seconds since 1970

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return bool(self.config.get("finished"))

    def in_words(self, now: float) -> str:
        """Epochs done, recall so far and time left, as far as known; `now` as `changed`."""
        if not self.config and self.history.empty:
            return "has not begun"
        last, total = len(self.history) - 1, self.config.get("train", {}).get("epochs", "?")
        words = ["finished" if self.finished else "unfinished", f"epoch {max(0, last)} of {total}"]
        if last > 0:
            best = best_row(self.history.to_dict("records"))
            words.append(f"best R@1 {best['recall@1']:.1f} in epoch {best['epoch']:.0f}")
        if not self.finished and self.changed is not None:
            quiet = max(0, now - self.changed)
            words.append(f"last news {tqdm.format_interval(quiet)} ago")
            if last > 0 and isinstance(total, int):
                epoch = self.history["seconds"].iloc[1:].mean()
                left = tqdm.format_interval(max(0, epoch * (total - last) - quiet))
                late = quiet > 3 * epoch + 60
                words.append("it may have been stopped" if late else f"about {left} to go")
        return ", ".join(words)


def read_progress(folder: Path) -> Progress:
    """How far the run in a folder is; what is missing, or no run's, tells nothing."""
    found = {}
    with suppress(OSError, ValueError):
        found["config"] = json.loads((folder / CONFIG).read_text())
    with suppress(OSError, ValueError, KeyError):  # pandas' parser errors are ValueErrors
        written = (folder / HISTORY).stat().st_mtime  # before it is read: it may change meanwhile
        found["history"] = pd.read_csv(folder / HISTORY)[COLUMNS].astype(float)
        found["changed"] = written
    return Progress(**found)


def list_runs(runs: Path) -> list[str]:
    """Names of the folders that hold runs, those that changed last first."""
    files = [*runs.glob(f"*/{CONFIG}"), *runs.glob(f"*/{HISTORY}")]
    files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    return list(dict.fromkeys(file.parent.name for file in files))


class _TrainingMonitor(View):
    def __init__(self, runs: Path, run: str | None, seconds: float) -> None:
        super().__init__("training-monitor")
        self.runs, self.seconds, self.expected = runs, seconds, run
        self.progress, self.drawn = Progress(), None
        self._picked = run is not None  # by the caller, or by a user
        self._labels: dict[str, str] = {}  # of the runs in the list, by folder
        self.run = choice("Run", [])
        self.run.layout.width = "30em"
        self.follow_button = ipywidgets.Button(description="Follow", icon="play")
        self.stop_button = ipywidgets.Button(description="Stop", icon="stop")
        self.curves = picture("curves")
        self.watch(self._pick, self.run)
        self.watch(self._follow, self.follow_button)
        self.watch(self.stop, self.stop_button)
        controls = [self.run, self.follow_button, self.stop_button]
        self.compose(controls, shown=[self.status, self.curves])
        self.attempt(self._follow)

    def stop(self) -> None:
        self._stopped.set()
        self.follow_button.disabled, self.stop_button.disabled = False, True

    def _pick(self) -> None:
        self._picked = True
        self._follow()

    def _follow(self) -> None:
        self.stop()  # the thread that followed until now
        self._look()
        self._stopped = Event()
        self.follow_button.disabled, self.stop_button.disabled = True, False
        name, arguments = f"monitor of {self.runs}", [self._stopped]
        Thread(target=self._keep_looking, args=arguments, name=name, daemon=True).start()

    def _keep_looking(self, stopped: Event) -> None:
        def look() -> None:
            if not stopped.is_set():  # it may be, after waiting for another callback
                self._look()

        while not stopped.wait(self.seconds):
            self.attempt(look)

    def _look(self) -> None:
        self._list()
        if self.run.value is None:
            self.tell(f"there is no run in {self.runs} yet")
            return
        self.progress = read_progress(self.runs / self.run.value)
        self.tell(f"run {self.run.value}: {self.progress.in_words(time.time())}")
        now = self.run.value, self.progress.changed, len(self.progress.history)
        if self.drawn != now:
            history = self.progress.history
            show(self.curves, None if history.empty else training_curves(history))
            self.drawn = now

    def _list(self) -> None:
        """Offer the runs that there are, new ones last: no list moves under a user's pointer.

        When the run that is shown is finished, the latest takes its place, unless it was picked.
        """
        found = list_runs(self.runs)
        if self.expected is not None and self.expected not in found:
            found.insert(0, self.expected)
        known = [name for _, name in self.run.options if name in found]
        names = list(dict.fromkeys([*known, *found]))
        for name in names:
            if self._labels.get(name, name) == name:  # there was no config until now
                self._labels[name] = _label(name, read_progress(self.runs / name).config)
        offer(self.run, [(self._labels[name], name) for name in names], self.expected)
        if found and self.progress.finished and not self._picked and found[0] != self.run.value:
            self.run.value = found[0]


def _label(name: str, config: Mapping[str, Any]) -> str:
    model, seed = config.get("model", {}), config.get("train", {}).get("seed")
    net = f"{model.get('aggregator')} on {model.get('backbone')}"
    return f"{name}: {net}, seed {seed}" if config else name
