"""Training: P places x K images a batch, validated and saved after every epoch."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from dinomix.data import PlaceDataset, TestSet
from dinomix.model import ModelConfig
from dinomix.plumbing.errors import ExplainedError
from dinomix.plumbing.files import config_hash
from dinomix.plumbing.workspace import NO_TRAINING, data_root
from dinomix.runs.loop import DivergedError, TrainingLoop
from dinomix.runs.machine import make_accelerator, reproducible
from dinomix.runs.run import (
    Run,
    is_finished,
    locked,
    remove_checkpoint,
    remove_leftovers,
    weights_id,
    write_config,
)
from dinomix.training import TrainConfig

__all__ = ["DivergedError", "Run", "TrainConfig", "find_run", "train"]


def train(
    model_config: ModelConfig,
    places: PlaceDataset,
    val: TestSet,
    train_config: TrainConfig,
    *,
    weights: str | Path | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> Run:
    """Train a model, or load the run if the same one was asked for before.

    The run's folder is `out/<hash>` of everything that decides the result: both configs (but for
    workers and device), the data sets' fingerprints and the content of the initial weights. A
    killed run goes on after its last whole epoch and ends with the weights and the history of an
    unbroken one, bit by bit on the same machine. A second process that asks for a run in the
    making waits for it. Under `torchrun` or `accelerate launch` a batch is shared out among the
    processes, but mined as a whole.

    Args:
        places: training places; their transform is chosen here.
        val: validation set; the best epoch is the one with the highest recall@1 on it.
        weights: of the backbone at the start, see `build_model`.
        out: folder of runs; None means `runs` in the data folder (`workspace.data_root`).
        progress: show a bar with loss, recall and images per second.

    Raises:
        ExplainedError: the run is not there, and the variable DINOMIX_NO_TRAINING is set.
        ValueError: fewer places than a batch needs (in the largest city, if a batch is to lie in
            one); nothing to train; a precision, device or compiler that this machine does not have;
            a run folder that belongs to another run.
        DivergedError: loss or weights became NaN or infinite. The last good checkpoint stays.
    """
    per_batch = train_config.places_per_batch
    in_city = train_config.shuffle == "city"
    most = np.bincount(places.city_of).max() if in_city else len(places)
    if most < per_batch:
        where = " of the largest city" if in_city else ""
        raise ValueError(
            f"{most} places{where} do not fill one batch of places_per_batch = {per_batch}; "
            "lower places_per_batch or add places."
        )
    folder, identity = _identify(model_config, places, val, train_config, weights, out)
    if is_finished(folder, identity):
        remove_checkpoint(folder)
        return Run.open(folder)
    if os.environ.get(NO_TRAINING):
        raise ExplainedError(
            f"there is no finished run {folder}, and {NO_TRAINING} forbids to train it: run the "
            "notebooks of this profile first"
        )
    accelerator = make_accelerator(train_config)
    main = accelerator.is_main_process
    with locked(folder) if main else nullcontext():
        accelerator.wait_for_everyone()
        if not is_finished(folder, identity):  # it may be now, if we had to wait
            if main:
                remove_leftovers(folder)
                write_config(folder, identity, finished=False)
            with reproducible(train_config.seed):
                shown = progress and main
                loop = TrainingLoop(
                    model_config, places, val, train_config, weights, folder, accelerator, shown
                )
                loop.run(shown)
            if main:
                write_config(folder, identity, finished=True)
                remove_checkpoint(folder)
        accelerator.wait_for_everyone()
    return Run.open(folder)


def find_run(
    model_config: ModelConfig,
    places: PlaceDataset,
    val: TestSet,
    train_config: TrainConfig,
    *,
    weights: str | Path | None = None,
    out: str | Path | None = None,
) -> Run | None:
    """The finished run that `train` would return for these arguments, or None."""
    folder, identity = _identify(model_config, places, val, train_config, weights, out)
    return Run.open(folder) if is_finished(folder, identity) else None


def _identify(
    model_config: ModelConfig,
    places: PlaceDataset,
    val: TestSet,
    train_config: TrainConfig,
    weights: str | Path | None,
    out: str | Path | None,
) -> tuple[Path, dict[str, Any]]:
    """The run's folder, and what its name is the hash of."""
    identity = {
        "model": model_config.to_dict(),
        "train": train_config.identity(),
        "places": places.fingerprint,
        "val": val.fingerprint,
        "weights": weights_id(model_config.backbone, weights),
    }
    out = data_root() / "runs" if out is None else Path(out)
    return out / config_hash(identity), identity
