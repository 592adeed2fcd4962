"""A run's folder: its identity, its lock, its checkpoint, and what is left when it is done.

```
folder/config.json        identity of the run, package version, finished
folder/history.csv        a row an epoch, see `training.fit`
folder/checkpoint.pt      while it is made: all that going on needs
folder/best.safetensors   the model of the best epoch on the validation set
folder/last.safetensors   the model of the last epoch, when the run is finished
```
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from dinomix.backbones import TOY
from dinomix.model import ModelConfig, PlaceModel, load_model, save_model
from dinomix.plumbing import __version__
from dinomix.plumbing.files import atomic_path, to_json
from dinomix.plumbing.tensorfiles import read_torch
from dinomix.training import TrainConfig
from dinomix.weights import TOY_WEIGHTS

CONFIG, HISTORY, CHECKPOINT = "config.json", "history.csv", "checkpoint.pt"
BEST, LAST = "best.safetensors", "last.safetensors"
COLUMNS = [
    *("epoch", "step", "loss", "mined_share", "lr"),
    *("recall@1", "recall@5", "seconds", "images_per_second"),
]


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        train_config: as identified; workers and device are the defaults.
        history: a row an epoch, epoch 0 being the model before training. Columns: epoch, step
            (optimiser steps so far), loss (mean over the epoch's batches), mined_share (mean
            share of anchors with a mined pair), lr (of the epoch's last step), recall@1 and
            recall@5 (percent, validation), seconds (validation included), images_per_second
            (of training alone).
    """

    folder: Path
    model_config: ModelConfig
    train_config: TrainConfig
    history: pd.DataFrame

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """Read a finished run.

        Raises:
            FileNotFoundError: there is no finished run in the folder.
            ValueError: a file in it is damaged, or its config cannot be used here.
        """
        folder = Path(folder)
        config = read_config(folder)
        if not config or not config["finished"]:
            raise FileNotFoundError(f"{folder} holds no finished run; train() makes or ends one.")
        try:
            configs = ModelConfig.from_dict(config["model"]), TrainConfig.from_dict(config["train"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / CONFIG} cannot be used here: {error}") from error
        return cls(folder, *configs, history=read_history(folder))

    def __repr__(self) -> str:
        best, model = self.best, self.model_config
        return (
            f"Run({self.folder}: {model.backbone} + {model.aggregator}, best epoch "
            f"{int(best['epoch'])} of {self.train_config.epochs}, validation recall@1 "
            f"{best['recall@1']:.1f} %)"
        )

    @property
    def best(self) -> dict[str, float]:
        """The history's row of the best epoch: epoch, recall@1, recall@5 and the rest."""
        return best_row(self.history.to_dict("records"))

    def load(self, which: str = "best") -> PlaceModel:
        """The model of the "best" or of the "last" epoch, on the CPU.

        Raises:
            ValueError: for another word.
        """
        if which not in ("best", "last"):
            raise ValueError(f'which is {which!r}; it should be "best" or "last"')
        return load_model(self.folder / (BEST if which == "best" else LAST))


def best_row(history: list[dict[str, float]]) -> dict[str, float]:
    """The trained epoch with the highest recall@1; ties go to recall@5, then to the earlier one."""
    trained = [row for row in history if row["epoch"] > 0]
    return max(trained, key=lambda row: (row["recall@1"], row["recall@5"], -row["epoch"]))


class RunFolder:
    """The folder of a run in the making. A kill between any two writes costs an epoch at most.

    Args:
        identity: what decides the run's result; the folder's name is its hash.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path, self.identity = path, identity

    def is_finished(self) -> bool:
        """Whether the run is done.

        Raises:
            ValueError: the folder belongs to another run than its name says.
        """
        config = read_config(self.path)
        if config is None:
            return False
        expected = json.loads(to_json(self.identity))
        other = sorted(key for key in expected if config.get(key) != expected[key])
        if other:
            raise ValueError(
                f"{self.path / CONFIG} is about another run: it differs in {other} from the one "
                "that belongs in this folder. Was it edited by hand? Move the folder away and "
                "train again."
            )
        return config["finished"]

    def begin(self) -> None:
        """Write down whose folder it is, after what a killed process left is gone."""
        for leftover in self.path.glob(".tmp*"):  # safetensors' own half-written files
            leftover.unlink()
        write_config(self.path, self.identity, finished=False)

    def checkpoint(self) -> dict[str, Any] | None:
        """The state that `save` saved last, on the CPU; None before the first one.

        Raises:
            ValueError: the file is damaged, or not `save`'s.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        try:
            state = read_torch(path)
            if not isinstance(state, dict):
                raise ValueError(f"{path} holds no state of a run")
        except ValueError as error:
            raise ValueError(f"{error}\nWithout this file, train begins the run again.") from error
        return state

    def save(self, model: PlaceModel, history: list[dict[str, float]], **state: Any) -> None:
        """Save the state after an epoch; from it alone, the other files can be made again."""
        state = {"model": model.state_dict(), "history": history, **state}
        with atomic_path(self.path / CHECKPOINT) as path, path.open("wb") as file:
            torch.save(state, file)  # given a path, it would not tell that the disk is full
        self.publish(model, history)

    def publish(self, model: PlaceModel, history: list[dict[str, float]]) -> None:
        """What a reader sees of a checkpoint: the history, and the model if it is the best."""
        write_history(self.path, history)
        epoch = len(history) - 1
        if epoch and best_row(history)["epoch"] == epoch:
            save_model(model, self.path / BEST)

    def finish(self, model: PlaceModel) -> None:
        """Save the last model, say that the run is done, and drop the checkpoint."""
        save_model(model, self.path / LAST)
        write_config(self.path, self.identity, finished=True)
        self.remove_checkpoint()

    def remove_checkpoint(self) -> None:
        """All of it is in the other files; a kill may have come before it was removed."""
        with suppress(OSError):  # who may only read a run can do without
            (self.path / CHECKPOINT).unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time work in a folder; a second one says so and waits.

    The kernel drops the lock when its process dies, whatever killed it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tqdm.write(f"another process is at work in {folder}; waiting until it ends")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def weights_id(backbone: str, weights: str | Path | None) -> str | None:
    """Names the initial weights: a file by its content, so that one that changed is another run.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if weights is None:
        return None
    path = Path(weights)
    if str(weights) == "hub":
        path = TOY_WEIGHTS / f"{backbone}.safetensors"
        if backbone not in TOY:
            return "hub"
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: give the path of a file, 'hub' or None")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def read_config(folder: Path) -> dict[str, Any] | None:
    """What `write_config` wrote, or None where there is nothing yet.

    Raises:
        ValueError: the file is damaged, or not `write_config`'s.
    """
    path = folder / CONFIG
    if not path.exists():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or type(config.get("finished")) is not bool:
            raise ValueError("it does not say whether the run is finished")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged, or about no run: {error}. Move the folder away and train again."
        ) from error
    return config


def write_config(folder: Path, identity: dict[str, Any], finished: bool) -> None:
    """Save who the run is and whether it is done: the first file of a run and its last one."""
    config = {"dinomix": __version__, "finished": finished, **identity}
    with atomic_path(folder / CONFIG) as path:
        path.write_text(json.dumps(json.loads(to_json(config)), indent=2) + "\n")


def read_history(folder: Path) -> pd.DataFrame:
    """What `write_history` wrote, to the last bit (pandas' own number parser may round).

    Raises:
        FileNotFoundError: there is no history.
        ValueError: it is damaged.
    """
    try:
        text = pd.read_csv(folder / HISTORY, dtype=str)
        return text.astype({name: int if name in ("epoch", "step") else float for name in COLUMNS})
    except (KeyError, ValueError) as error:  # pandas' own errors are of these kinds, too
        raise ValueError(f"{folder / HISTORY} is damaged: {error}") from error


def write_history(folder: Path, history: list[dict[str, float]]) -> None:
    """Save the rows so far as CSV, every digit of them."""
    with atomic_path(folder / HISTORY) as path:
        pd.DataFrame(history, columns=COLUMNS).to_csv(path, index=False)
