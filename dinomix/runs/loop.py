"""One run in the making: epochs, batches, steps, and what is saved between them."""

import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from dinomix.data import PlaceDataset, TestSet
from dinomix.evaluation import ALL, evaluate
from dinomix.images import train_transform
from dinomix.losses import cosine_similarities, mined_share, multi_similarity_loss
from dinomix.model import ModelConfig, PlaceModel, build_model, save_model
from dinomix.retrieval import normaliser, pick_device
from dinomix.runs.machine import make_optimizer, rng_state, set_rng_state
from dinomix.runs.prefix import PrefixFeatures, prefix_features
from dinomix.runs.run import (
    BEST,
    LAST,
    best_row,
    load_checkpoint,
    save_checkpoint,
    write_history,
)
from dinomix.training import TrainConfig

UNTRAINED = {  # the history's row of epoch 0, but for the recalls
    "epoch": 0,
    "step": 0,
    "loss": math.nan,
    "mined_share": math.nan,
    "lr": math.nan,
    "images_per_second": math.nan,
}
FEATURE_IMAGES = 256  # that an aggregator such as NetVLAD chooses its first weights from


class DivergedError(FloatingPointError):
    """The loss or the weights are no finite numbers any more."""


def epoch_batches(places: int, per_batch: int, seed: int, epoch: int) -> np.ndarray:
    """The places of each batch of an epoch: int64 (batches, per_batch), no place twice.

    It depends on (seed, epoch) alone. The last incomplete batch is dropped.
    """
    order = np.random.default_rng((seed, epoch)).permutation(places)
    return order[: places // per_batch * per_batch].reshape(-1, per_batch)


def city_batches(city_of: np.ndarray, per_batch: int, seed: int, epoch: int) -> np.ndarray:
    """As `epoch_batches`, but the places of a batch lie in one city: int64 (batches, per_batch).

    The last incomplete batch of each city is dropped. The cities' batches come mixed; GSV-Cities'
    own code takes one city after the other.

    Args:
        city_of: int (places,), the city of each place.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(city_of))
    cities = [order[city_of[order] == city] for city in np.unique(city_of)]
    whole = [places[: len(places) // per_batch * per_batch] for places in cities]
    return rng.permutation(np.concatenate(whole).reshape(-1, per_batch))


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn.

    Raises:
        ValueError: there are none.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError(
            "nothing to train: every parameter of the model is frozen. Raise trained_blocks or "
            "choose an aggregator that has parameters."
        )
    return parameters


class Finish(nn.Module):
    """The model from where its frozen prefix ends, to descriptors (B, dim)."""

    def __init__(self, model: PlaceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, frozen: torch.Tensor) -> torch.Tensor:
        return self.model.finish(frozen)


@torch.no_grad()
def initialise(model: PlaceModel, places: PlaceDataset, device: torch.device) -> None:
    """Show the aggregator the maps of the first training images, so that it finds its weights."""
    count = math.ceil(FEATURE_IMAGES / places.images_per_place)
    order = np.random.default_rng(places.seed).permutation(len(places))[:count]
    normalise = normaliser(model).to(device)
    model.eval()
    maps = []
    for i in order.tolist():
        images = places[i][0].to(device)
        frozen = (
            images
            if places.frozen is not None
            else model.backbone.frozen_features(normalise(images))
        )
        maps.append(model.backbone.finish(frozen)[0])
    model.aggregator.initialise(torch.cat(maps))  # (N, s, h, w)


class TrainingLoop:
    """The state of a run in the making: model, optimiser, history."""

    def __init__(
        self,
        model_config: ModelConfig,
        places: PlaceDataset,
        val: TestSet,
        config: TrainConfig,
        weights: str | Path | None,
        folder: Path,
        accelerator: Accelerator,
        progress: bool,
    ) -> None:
        self.config, self.val, self.folder = config, val, folder
        self.accelerator = accelerator
        self.device = pick_device(config.device)  # Accelerate itself knows no "cuda:1"
        if self.device.type == "cuda" and accelerator.num_processes > 1:
            self.device = accelerator.device  # each process has its own GPU
        self.places = places.with_transform(
            train_transform(model_config.image_size, augment=config.augment)
        )
        self.frozen: PrefixFeatures | None = None
        self.batches_per_epoch = len(self._batches(epoch=1))
        self.steps_per_epoch = math.ceil(self.batches_per_epoch / config.accumulation)
        self.history: list[dict[str, float]] = []

        checkpoint = load_checkpoint(folder)
        self.model = build_model(model_config, weights=None if checkpoint else weights)
        # Half-precision convolutions want channels last; in float32 it would only round otherwise.
        half = accelerator.mixed_precision != "no"
        layout = torch.channels_last if half else torch.preserve_format
        self.model.to(self.device, memory_format=layout)
        self.normalise = normaliser(self.model).to(self.device)
        if checkpoint:
            self.model.load_state_dict(checkpoint["model"])
        if config.cache_prefix and self.model.backbone.has_prefix:
            self._cache_prefix(progress)
        if self.model.aggregator.needs_features and not checkpoint:
            initialise(self.model, self.places, self.device)
        self.parameters = trained_parameters(self.model)
        optimizer = make_optimizer(config, self.parameters)
        self.optimizer = accelerator.prepare_optimizer(optimizer, device_placement=False)
        if checkpoint:
            self._resume(checkpoint)
        net = self.model if self.frozen is None else Finish(self.model)
        if config.compile:
            # What this process compiled before would count: after some shapes torch compiles for
            # any shape, which rounds otherwise, and after some modules not at all.
            torch.compiler.reset()
            net = torch.compile(net)  # a wrapper: validation and checkpoints see the plain model
        # Not through prepare_model: it would leave autocast on in validation.
        self.net = DistributedDataParallel(net) if accelerator.num_processes > 1 else net

    def run(self, progress: bool) -> None:
        """Train the epochs that are missing. Epoch 0 validates the model as it begins."""
        first, last = len(self.history), self.config.epochs
        batches = self.batches_per_epoch
        done = max(0, first - 1) * batches
        with tqdm(total=last * batches, initial=done, unit="batch", disable=not progress) as bar:
            for epoch in range(first, last + 1):
                started = time.perf_counter()
                bar.set_description(f"epoch {epoch}/{last}")
                row = self._train_epoch(epoch, bar) if epoch else dict(UNTRAINED)
                self._check_weights(epoch)
                if self.accelerator.is_main_process:
                    bar.set_description(f"epoch {epoch}/{last}, validating")
                    row |= self._validate()
                row["seconds"] = time.perf_counter() - started
                self.history.append(row)
                if self.accelerator.is_main_process:
                    self._save()
                self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            save_model(self.model, self.folder / LAST)

    def _batches(self, epoch: int) -> np.ndarray:
        """The places of each batch of an epoch: int64 (batches, places_per_batch)."""
        asked = (self.config.places_per_batch, self.config.seed, epoch)
        if self.config.shuffle == "city":
            return city_batches(self.places.city_of, *asked)
        return epoch_batches(len(self.places), *asked)

    def _train_epoch(self, epoch: int, bar: tqdm) -> dict[str, float]:
        config, here = self.config, self.accelerator
        batches = self._batches(epoch)
        self.places.set_epoch(epoch)
        loader = DataLoader(
            self.places,
            batch_sampler=batches[:, here.process_index :: here.num_processes].tolist(),
            num_workers=config.workers,
            pin_memory=self.device.type == "cuda",
        )
        self.model.train()
        step = (epoch - 1) * self.steps_per_epoch
        started, losses, shares, images_seen = time.perf_counter(), [], [], 0
        for i, (images, labels) in enumerate(loader):
            rate = config.learning_rate(step, self.steps_per_epoch)
            group = min(config.accumulation, len(batches) - i + i % config.accumulation)
            ends_group = i % config.accumulation == group - 1
            labels = labels.repeat_interleave(images.shape[1]).to(self.device)  # (P*K,)
            images = images.flatten(0, 1).to(self.device, non_blocking=True)  # (P*K, 3, H, W)
            if self.frozen is None:
                images = self.normalise(images)
            with nullcontext() if ends_group else here.no_sync(self.net):
                loss, share = self._loss(images, labels)
                losses.append(loss.item())
                shares.append(share.item())
                if not math.isfinite(losses[-1]):
                    raise self._diverged(f"the loss is {losses[-1]}", epoch, step, rate)
                # DDP averages the processes' gradients; here they are parts of one sum.
                here.backward(loss * (here.num_processes / group))
            if ends_group:
                self._step(rate)
                step += 1
            images_seen += len(images) * here.num_processes
            speed = images_seen / (time.perf_counter() - started)
            recall = self.history[-1].get("recall@1", math.nan)
            shown = {"loss": losses[-1], "recall@1": recall, "img/s": speed}
            bar.set_postfix({key: f"{value:.4g}" for key, value in shown.items()}, refresh=False)
            bar.update()
        return {
            "epoch": epoch,
            "step": step,
            "loss": float(np.mean(losses)),
            "mined_share": float(np.mean(shares)),
            "lr": rate,
            "images_per_second": images_seen / (time.perf_counter() - started),
        }

    def _loss(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and mined share, both (), of the whole batch, whichever part of it is here."""
        config, here = self.config, self.accelerator
        with here.autocast():
            desc = self.net(images)  # (P*K, D)
        if here.num_processes > 1:
            labels = here.gather(labels)
            parts = list(here.gather(desc.detach()).chunk(here.num_processes))
            parts[here.process_index] = desc  # the one part that carries a gradient here
            desc = torch.cat(parts)
        loss = multi_similarity_loss(
            desc, labels, config.alpha, config.beta, config.base, config.epsilon
        )
        return loss, mined_share(cosine_similarities(desc.detach()), labels, config.epsilon)

    def _step(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.accelerator.unscale_gradients()
        if self.config.clip_value is not None:
            nn.utils.clip_grad_value_(self.parameters, self.config.clip_value)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.optimizer.step()  # with fp16, the scaler leaves out steps whose gradient overflowed
        self.optimizer.zero_grad()

    def _validate(self) -> dict[str, float]:
        table = evaluate(
            self.model,
            self.val,
            ks=(1, 5),
            workers=self.config.workers,
            device=self.device,
            frozen=self.frozen,
            progress=False,
        )
        recalls = table[table["condition"] == ALL].set_index("k")["recall"]
        return {f"recall@{k}": float(recalls[k]) for k in (1, 5)}

    def _check_weights(self, epoch: int) -> None:
        for name, value in self.model.state_dict().items():
            if not value.isfinite().all():
                step = epoch * self.steps_per_epoch
                rate = self.config.learning_rate(max(0, step - 1), self.steps_per_epoch)
                raise self._diverged(f"{name} is not finite", epoch, step, rate)

    def _diverged(self, what: str, epoch: int, step: int, rate: float) -> DivergedError:
        return DivergedError(
            f"{what} in epoch {epoch}, step {step}, at learning rate {rate:g}. Lower lr, clip "
            f"gradients or warm up for longer; the checkpoint before it stays in {self.folder}."
        )

    def _save(self) -> None:
        """The checkpoint first: from it alone, the other files can be made again."""
        scaler = self.accelerator.scaler
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "rng": rng_state(),
            "history": self.history,
        }
        save_checkpoint(self.folder, state)
        self._publish()

    def _publish(self) -> None:
        """What a reader sees of the checkpoint: the history, and the best model if it is that."""
        write_history(self.folder, self.history)
        epoch = len(self.history) - 1
        if epoch and best_row(self.history)["epoch"] == epoch:
            save_model(self.model, self.folder / BEST)

    def _cache_prefix(self, progress: bool) -> None:
        paths = [*self.places.paths, *self.val.database, *self.val.queries]
        self.frozen = prefix_features(
            self.model,
            paths,
            self.folder.parent / "prefix",
            device=self.device,
            progress=progress,
        )
        self.places = self.places.with_frozen(self.frozen)

    def _resume(self, checkpoint: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        if self.accelerator.scaler and checkpoint["scaler"]:
            self.accelerator.scaler.load_state_dict(checkpoint["scaler"])
        self.history = checkpoint["history"]
        if self.accelerator.is_main_process:
            self._publish()  # the kill may have come between the two
        set_rng_state(checkpoint["rng"])
