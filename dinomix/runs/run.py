"""A run and its folder: identity, lock, checkpoint, and what is left when it is done.

```
folder/config.json        identity of the run, package version, finished
folder/history.csv        a row an epoch, see `training.fit`
folder/provenance.json    what made it, see `plumbing.provenance`: of each time that it went on
folder/checkpoint.pt      while it is made: all that going on needs
folder/best.safetensors   the model of the best epoch on the validation set
folder/last.safetensors   the model of the last epoch, when the run is finished
folder/state.pt           what a longer run goes on with, where the schedule is `OPEN_ENDED`: the
                          optimiser's 4 (SGD) or 8 bytes (AdamW) a trained parameter, and with
                          `ema` the weights behind the average
```
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from dinomix.backbones import TOY
from dinomix.model import ModelConfig, PlaceModel, check_own, load_model, save_model
from dinomix.plumbing import __version__, provenance
from dinomix.plumbing.files import atomic_path, config_hash, to_json
from dinomix.plumbing.tensorfiles import read_torch
from dinomix.retrieval import pick_device
from dinomix.training import OPEN_ENDED, TrainConfig, best_row
from dinomix.weights import TOY_WEIGHTS

CONFIG, HISTORY, CHECKPOINT = "config.json", "history.csv", "checkpoint.pt"
BEST, LAST, STATE = "best.safetensors", "last.safetensors", "state.pt"
LEARN = ("trained_blocks", "train_tokens")  # a model's fields that no descriptor depends on
COLUMNS = [
    *("epoch", "step", "loss", "mined_share", "lr"),
    *("recall@1", "recall@5", "seconds", "images_per_second"),
]


@dataclass
class Run:
    """A training run in its folder. A kill between any two writes costs an epoch at most.

    Attributes:
        train_config: of an opened run as identified: workers and device are the defaults.
        history: a row an epoch, epoch 0 being the model before training; the columns are what
            `training.fit` yields.
        identity: what decides the result; the folder's name is its hash.
    """

    folder: Path
    model_config: ModelConfig
    train_config: TrainConfig
    history: pd.DataFrame
    identity: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """Read a finished run.

        Raises:
            FileNotFoundError: there is no finished run in the folder.
            ValueError: a file in it is damaged, or its config cannot be used here.
        """
        folder = Path(folder)
        config = _read_config(folder / CONFIG)
        if not config.pop("finished", False):
            raise FileNotFoundError(f"{folder} holds no finished run; train() makes or ends one.")
        try:
            configs = ModelConfig.from_dict(config["model"]), TrainConfig.from_dict(config["train"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / CONFIG} cannot be used here: {error}") from error
        config.pop("dinomix", None)
        return cls(folder, *configs, _read_history(folder / HISTORY), config)

    def __repr__(self) -> str:
        names = f"{self.folder}: {self.model_config.backbone} + {self.model_config.aggregator}"
        if len(self.history) < 2:
            return f"Run({names}, nothing trained)"
        return (
            f"Run({names}, best epoch {int(self.best['epoch'])} of {len(self.history) - 1}, "
            f"validation recall@1 {self.best['recall@1']:.1f} %)"
        )

    @property
    def best(self) -> dict[str, float]:
        """The history's row of the best epoch: epoch, recall@1, recall@5 and the rest."""
        return best_row(self.history.to_dict("records"))

    def use(self) -> "Run":
        """Remember that what this process makes now is made from this run; gives it back."""
        data = {name: f"{self.identity.get(name)}" for name in ("places", "val")}
        provenance.use(runs=self.folder.name, **data)
        return self

    def load(self, which: str = "best") -> PlaceModel:
        """The model of the "best" or of the "last" epoch, on the CPU; ValueError for another."""
        if which not in ("best", "last"):
            raise ValueError(f'which is {which!r}; it should be "best" or "last"')
        return load_model(self.folder / (BEST if which == "best" else LAST))

    # What `train` does to a run in the making.

    def is_finished(self) -> bool:
        """Whether the run is done; ValueError if the folder is another run's than its name says."""
        config = _read_config(self.folder / CONFIG)
        expected = json.loads(to_json(self.identity))
        other = sorted(key for key in expected if config and config.get(key) != expected[key])
        if other:
            raise ValueError(
                f"{self.folder / CONFIG} is about another run: it differs in {other} from the one "
                "that belongs in this folder. Was it edited by hand? Move the folder away and "
                "train again."
            )
        return config.get("finished", False)

    def written_history(self) -> pd.DataFrame:
        """The rows that are written by now, by whatever process; none where none can be read."""
        with suppress(OSError, ValueError):
            return _read_history(self.folder / HISTORY)
        return self.history.iloc[:0]

    def begin(self) -> None:
        """Write down whose folder it is; the end of a shorter run, if there is one, begins it."""
        for leftover in self.folder.glob(".tmp*"):  # safetensors' own half-written files
            leftover.unlink()
        self.write_config(finished=False)
        run = None if (self.folder / CHECKPOINT).exists() else self.shorter()
        made = provenance.here(pick_device(self.train_config.device))
        made |= {"after": run.folder.name} if run else {}
        provenance.write(self.folder / provenance.FILE, made, add=True)
        if run:
            save_model(run.load(), self.folder / BEST)  # which it may stay
            history = run.history.to_dict("records")
            end = {"model": run.load("last").state_dict(), "history": history}
            _write_state(self.folder / CHECKPOINT, end | _read_state(run.folder / STATE))

    def checkpoint(self) -> dict[str, Any] | None:
        """The state that `save` saved last, on the CPU, or None; ValueError for any other file."""
        path = self.folder / CHECKPOINT
        return _read_state(path) if path.exists() else None

    def shorter(self) -> "Run | None":
        """The longest finished run beside this one that is the same for fewer epochs."""
        found = {}
        for path in self.folder.parent.glob(f"*/{STATE}"):
            with suppress(OSError, ValueError):  # damage there is no fault of this run
                run = Run.open(path.parent)
                epochs = run.train_config.epochs
                same = self.identity | {"train": self.identity["train"] | {"epochs": epochs}}
                whole = all((run.folder / file).is_file() for file in (BEST, LAST))
                fewer = epochs < self.train_config.epochs
                if whole and fewer and run.folder.name == config_hash(same):
                    found[epochs] = run
        return found[max(found)] if found else None

    def save(self, model: PlaceModel, history: list[dict[str, float]], /, **state: Any) -> None:
        """Save the state after an epoch; from it alone, the other files can be made again.

        `state` may have another "model": the weights behind an average that is published.
        """
        state = {"model": model.state_dict(), "history": history, **state}
        _write_state(self.folder / CHECKPOINT, state)
        self.publish(model, history)

    def publish(self, model: PlaceModel, history: list[dict[str, float]]) -> None:
        """What a reader sees of a checkpoint: the history, and the model if it is the best."""
        self.write_history(history)
        epoch = len(history) - 1
        if epoch and self.best["epoch"] == epoch:
            save_model(model, self.folder / BEST)

    def finish(self, model: PlaceModel, /, **state: Any) -> None:
        """Save the last model and the state, say that the run is done, and drop the checkpoint."""
        save_model(model, self.folder / LAST)
        if self.train_config.schedule in OPEN_ENDED:
            _write_state(self.folder / STATE, state)
        self.write_config(finished=True)
        self.remove_checkpoint()

    def remove_checkpoint(self) -> None:
        """All of it is in the other files; a kill may have come before it was removed."""
        with suppress(OSError):  # who may only read a run can do without
            (self.folder / CHECKPOINT).unlink()

    def write_config(self, finished: bool) -> None:
        """Save who the run is and whether it is done: the first file of a run and its last one."""
        config = {"dinomix": __version__, "finished": finished, **self.identity}
        with atomic_path(self.folder / CONFIG) as path:
            path.write_text(json.dumps(json.loads(to_json(config)), indent=2) + "\n")

    def write_history(self, history: list[dict[str, float]]) -> None:
        """Save the rows so far, every digit of them."""
        self.history = pd.DataFrame(history, columns=COLUMNS)
        with atomic_path(self.folder / HISTORY) as path:
            self.history.to_csv(path, index=False)


def _write_state(path: Path, state: dict[str, Any]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)  # given a path, it would not tell that the disk is full


def _read_state(path: Path) -> dict[str, Any]:
    try:
        return read_torch(path)
    except ValueError as error:
        raise ValueError(f"{error}\nWithout this file, train begins the run again.") from error


def _read_config(path: Path) -> dict[str, Any]:
    """What `write_config` wrote; empty where there is nothing yet."""
    if not path.exists():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or type(config.get("finished")) is not bool:
            raise ValueError("it does not say whether the run is finished")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged, or about no run: {error}. Move the folder away and train again."
        ) from error
    return config


def _read_history(path: Path) -> pd.DataFrame:
    """What `write_history` wrote, to the last bit (pandas' own number parser may round)."""
    try:
        text = pd.read_csv(path, dtype=str)
        return text.astype({name: int if name in ("epoch", "step") else float for name in COLUMNS})
    except (KeyError, ValueError) as error:  # pandas' own errors are of these kinds, too
        raise ValueError(f"{path} is damaged: {error}") from error


@contextmanager
def locked(folder: Path, tell: bool = True) -> Iterator[None]:
    """Let one process at a time work in a folder; a second one waits, and says so if it is to.

    The kernel drops the lock when its process dies, whatever killed it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        if tell:
            tqdm.write(f"another process is at work in {folder}; waiting until it ends")
        held = lock.acquire()
    with held:
        yield


def weights_id(backbone: str, weights: str | Path | None) -> str | None:
    """Names the initial weights: a file by its content, so that one that changed is another run."""
    hub = str(weights) == "hub"
    if weights is None or (hub and backbone not in TOY):
        return weights and "hub"
    path = TOY_WEIGHTS / f"{backbone}.safetensors" if hub else Path(weights)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: give the path of a file, 'hub' or None")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def open_start(start: str | Path | PlaceModel, config: ModelConfig) -> tuple[PlaceModel, str]:
    """`start` of `train` as a model, and what names its weights; ValueError: not of `config`."""
    check_own(getattr(start, "config", config))
    if not isinstance(start, PlaceModel):
        start = Run.open(start).load() if Path(start).is_dir() else load_model(start)
    its, mine = vars(start.config), vars(config)
    differing = [name for name in mine if name not in LEARN and its[name] != mine[name]]
    if differing:
        fields = ", ".join(f"{name} {its[name]!r}, not {mine[name]!r}" for name in differing)
        raise ValueError(f"start is another architecture than the model to train: it has {fields}")
    digest = hashlib.sha256()
    for name, value in start.state_dict().items():
        digest.update(name.encode() + value.float().cpu().numpy().tobytes())
    return start, digest.hexdigest()[:16]
