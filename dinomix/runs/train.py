"""`train`: a run is made, gone on with, or found again."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import torch

from dinomix.data import PlaceDataset, TestSet
from dinomix.images import train_transform
from dinomix.model import ModelConfig, PlaceModel, build_model, check_own
from dinomix.plumbing.errors import ExplainedError
from dinomix.plumbing.files import config_hash
from dinomix.plumbing.workspace import NO_TRAINING, data_root
from dinomix.retrieval import pick_device
from dinomix.runs.machine import make_accelerator, reproducible, rng_state, set_rng_state
from dinomix.runs.prefix import prefix_features
from dinomix.runs.run import COLUMNS, Run, locked, open_start, weights_id
from dinomix.training import (
    DivergedError,
    TrainConfig,
    as_sets,
    batches_of,
    fit,
    initialise,
    make_average,
    make_optimizer,
)


def train(
    model_config: ModelConfig,
    places: PlaceDataset,
    val: TestSet | Sequence[TestSet],
    train_config: TrainConfig,
    *,
    weights: str | Path | None = None,
    start: str | Path | PlaceModel | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> Run:
    """Train a model, or load the run if the same one was asked for before.

    The run's folder is `out/<hash>` of what decides the result: both configs (but for workers and
    device), the data sets' fingerprints and the content of the initial weights. A killed run goes
    on after its last whole epoch, and a longer one after the end of a finished shorter one, but for
    the schedule "cosine", whose rates depend on its length. Both end as an unbroken run, bit by bit
    on the same machine. A second process that asks for a run in the making waits for it. Under
    `torchrun` or `accelerate launch` a batch is shared out among the processes, but mined as a
    whole.

    Args:
        places: training places; their transform is chosen here.
        val: validation set; the best epoch is the one with the highest recall@1 on it; of several
            sets, say of other kinds, with the highest mean.
        weights: of the backbone at the start, see `build_model`.
        start: a whole model to go on from, in place of `weights`: a model, a file of `save_model`,
            or a run's folder (its best epoch); what else there is, `open_model` opens. Its config
            is `model_config`, but for trained_blocks and train_tokens.
        out: folder of runs; None means `runs` in the data folder (`workspace.data_root`).
        progress: show a bar with loss, recall and images per second.

    Raises:
        ExplainedError: the run is not there, and the variable DINOMIX_NO_TRAINING is set.
        ValueError: too few places for a batch; nothing to train; weights and start; a start of
            another architecture; a precision, device or compiler that this machine does not have;
            a run folder that belongs to another run.
        DivergedError: loss or weights became NaN or infinite. The last good checkpoint stays.
    """
    batches_of(places, train_config, epoch=1)  # or an error, before anything is written
    run, start = _asked(model_config, places, val, train_config, weights, start, out)
    if run.is_finished():
        run.remove_checkpoint()
        return Run.open(run.folder).use()
    if os.environ.get(NO_TRAINING):
        raise ExplainedError(
            f"there is no finished run {run.folder}, and {NO_TRAINING} forbids to train it: run "
            "the notebooks of this profile first"
        )
    here = make_accelerator(train_config)
    main = here.is_main_process
    with locked(run.folder) if main else nullcontext():
        here.wait_for_everyone()
        if not run.is_finished():  # it may be now, if we had to wait
            if main:
                run.begin()
            here.wait_for_everyone()
            with reproducible(train_config.seed):
                _train(run, places, val, weights, start, here, progress and main)
        here.wait_for_everyone()
    return Run.open(run.folder).use()


def find_run(
    model_config: ModelConfig,
    places: PlaceDataset,
    val: TestSet | Sequence[TestSet],
    train_config: TrainConfig,
    *,
    weights: str | Path | None = None,
    start: str | Path | PlaceModel | None = None,
    out: str | Path | None = None,
    finished: bool = True,
) -> Run | None:
    """The finished run that `train` would return for these arguments, or None.

    Else, with `finished=False`, the run that it would make, whose folder may be there or not.
    """
    run, _ = _asked(model_config, places, val, train_config, weights, start, out)
    if not finished:
        return run
    return Run.open(run.folder) if run.is_finished() else None


def _asked(model_config, places, val, train_config, weights, start, out):
    """The run in its folder, be it there or not, and the model that it starts from, if any."""
    check_own(model_config)
    prints = [test.fingerprint for test in as_sets(val)]
    identity = {
        "model": model_config.to_dict(),
        "train": train_config.identity(),
        "places": places.fingerprint,
        "val": prints if len(prints) > 1 else prints[0],
        "weights": weights_id(model_config.backbone, weights),
    }
    if start is not None:
        if weights is not None:
            raise ValueError(f"weights {weights} and a start are given: a start has all weights")
        start, identity["start"] = open_start(start, model_config)
    out = data_root() / "runs" if out is None else Path(out)
    nothing = pd.DataFrame(columns=COLUMNS)
    run = Run(out / config_hash(identity), model_config, train_config, nothing, identity)
    return run, start


def _train(run, places, val, weights, start, here, progress) -> None:
    """Begin or resume, and save after each epoch; the order here is that of the random draws."""
    recipe, main = run.train_config, here.is_main_process
    device = pick_device(recipe.device)  # Accelerate itself knows no "cuda:1"
    if device.type == "cuda" and here.num_processes > 1:
        device = here.device  # each process has its own GPU
    checkpoint = run.checkpoint()
    model = build_model(run.model_config, weights=None if checkpoint else weights)
    # Half-precision convolutions want channels last; in float32 it would only round otherwise.
    half = here.mixed_precision != "no"
    model.to(device, memory_format=torch.channels_last if half else torch.preserve_format)
    if checkpoint or start:
        model.load_state_dict(checkpoint["model"] if checkpoint else start.state_dict())
    frozen = None
    if recipe.cache_prefix and model.backbone.has_prefix:
        shown = [path for test in as_sets(val) for path in (*test.database, *test.queries)]
        paths, folder = [*places.paths, *shown], run.folder.parent / "prefix"
        frozen = prefix_features(model, paths, folder, device=device, progress=progress)
    shows = model.aggregator.needs_features or recipe.initialise
    if shows and not checkpoint and not start:
        shown = places.with_transform(train_transform(model.config.image_size, recipe.augment))
        initialise(model, shown if frozen is None else shown.with_frozen(frozen))
    optimizer = make_optimizer(recipe, model)
    optimizer = here.prepare_optimizer(optimizer, device_placement=False)
    average, history = make_average(recipe, model), []
    kept = average.module if average else model  # what is validated and published
    if checkpoint:
        optimizer.load_state_dict(checkpoint["optimizer"])
        if here.scaler and checkpoint["scaler"]:
            here.scaler.load_state_dict(checkpoint["scaler"])
        history = checkpoint["history"]
        if average:
            average.load_state_dict(checkpoint["average"])
        if main:
            run.publish(kept, history)  # the kill may have come between the two
        set_rng_state(checkpoint["rng"])

    def state():  # what going on needs beside the model and its history
        scaler = here.scaler.state_dict() if here.scaler else None
        state = {"optimizer": optimizer.state_dict(), "scaler": scaler, "rng": rng_state()}
        if average:
            state |= {"average": average.state_dict(), "model": model.state_dict()}
        return state

    rows = fit(
        *(model, places, val, recipe, optimizer, here),
        **{"frozen": frozen, "average": average, "history": history, "progress": progress},
    )
    try:
        for _ in rows:
            if main:
                run.save(kept, history, **state())
            here.wait_for_everyone()
    except DivergedError as error:
        raise DivergedError(f"{error} The checkpoint before it stays in {run.folder}.") from None
    if main:
        run.finish(kept, **state())
