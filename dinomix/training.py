"""Training: P places x K images a batch, mined as one, validated after every epoch.

`fit` is the algorithm. What a run keeps on disk, and how it goes on after a kill, is
`dinomix.runs`'.
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from pydantic import Field
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from dinomix.data import PlaceDataset, TestSet
from dinomix.evaluation import ALL, evaluate
from dinomix.images import train_transform
from dinomix.losses import loss_and_mined_share
from dinomix.model import PlaceModel
from dinomix.plumbing.configs import Config, strict_dataclass
from dinomix.plumbing.errors import named
from dinomix.retrieval import normaliser

MACHINE = ("workers", "device")  # these say where a run happens, not what it computes
OPEN_ENDED = ("steps", "constant")  # schedules by which a longer run begins as a shorter one
# There were runs before there were these fields.
LATER = {"shuffle": "all", "compile": False, "divide_by_accumulation": False}
LATER |= {"initialise": False, "backbone_lr": None, "ema": 0.0, "patience": None}
MOST = 2**32  # epochs, places, steps; and torch and NumPy take seeds as large
LARGEST = 1e30  # reals: beyond it, float32 soon ends
FEATURE_IMAGES = 256  # that an aggregator such as NetVLAD chooses its first weights from

PRESETS: dict[str, dict[str, Any]] = {
    # As the paper says: a third of the learning rate after every five epochs. It leaves open how
    # many places make a batch: 80, as in the authors' code.
    "paper": {},
    # As the authors' published code does it, with the model `model.PRESETS["dino_mix_authors"]`.
    "authors": {
        "epochs": 60,
        "shuffle": "city",
        "accumulation": 4,
        "divide_by_accumulation": True,
        "lr": 0.005,
        "warmup_steps": 650,
        "milestones": (5, 10, 15, 25, 45),
        "gamma": 0.3,
        "precision": "fp16",
        "clip_value": 0.5,
        "augment": "randaugment",
    },
    # For the embedded city on a CPU: minutes. Chosen on its validation city, R@1 there: 88.3; with
    # the rate of 1e-3 for the backbone, too, 87.9; from random weights 82.9, and in 12 epochs 86.2;
    # at 3e-3 77. (Channels beyond the map's started as 0 then; as mixtures, over three seeds, 86.8
    # against 86.9.) In float32, as all the city's published numbers: "auto" would be another
    # precision, so other numbers, on another CPU.
    "toy": {
        "epochs": 8,
        "places_per_batch": 24,
        "optimizer": "adamw",
        "initialise": True,
        "lr": 1e-3,
        "backbone_lr": 1e-4,
        "weight_decay": 0.01,
        "schedule": "cosine",
        "warmup_steps": 20,
        "clip_norm": 1.0,
        "cache_prefix": True,
    },
    # For a few hundred places of one's own, with the model `model.PRESETS["small"]`: longer than
    # "toy", and on parts of the images. Chosen by five folds over 404 webcam places of two photos;
    # R@1 of whole and of cropped queries 93.6 and 65.3, at a third of the rate 93.3 and 65.0, there
    # with 64 channels 92.8 and 60.8. With 16 rows 91.6 and 63.4, averaged (ema 0.98) or not.
    "small": {
        "epochs": 16,
        "places_per_batch": 24,
        "optimizer": "adamw",
        "initialise": True,
        "lr": 1e-3,
        "weight_decay": 0.01,
        "schedule": "cosine",
        "warmup_steps": 20,
        "clip_norm": 1.0,
        "augment": "crops",
    },
    # The paper's future work: trained for motion blur and too little light.
    "robust": {"augment": "robust"},
}

Count = Annotated[int, Field(ge=1, le=MOST)]
Whole = Annotated[int, Field(ge=0, le=MOST)]
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST)]


@strict_dataclass
class TrainConfig(Config):
    """How to train. The defaults are the paper's recipe; `preset` has the named ones.

    Attributes:
        epochs: passes over the places; each shows every place once, save the last incomplete
            batch.
        places_per_batch: P, at least 2. Each place brings the K images of its PlaceDataset, so the
            loss mines among P * K images.
        shuffle: "all" mixes the places of all cities in a batch; "city" takes those of a batch from
            one city, as GSV-Cities' own code does, and leaves out each city's incomplete one.
        accumulation: batches whose gradients are averaged for one optimiser step. Each is mined
            for itself, as in the authors' code.
        divide_by_accumulation: an epoch's incomplete last group is divided by `accumulation`, too,
            as in the authors' code: a smaller step. False divides it by its own size.
        initialise: let the aggregator choose its first weights from training images, where it can
            (`FeatureMixer.initialise`); NetVLAD always does.
        lr: the schedule's highest learning rate.
        backbone_lr: that of the backbone's trained blocks, in place of `lr`.
        momentum: of SGD.
        schedule: "steps" multiplies the rate by gamma at each milestone (epochs that are over),
            "cosine" lets it fall to 0 after the warm-up, "constant" keeps it.
        warmup_steps: optimiser steps over which the rate first rises linearly from lr/warmup_steps.
        ema: share of the past in a moving average of the weights, over optimiser steps: the average
            is validated and kept in place of the weights; 0 for none.
        patience: stop after as many epochs without a better one; None trains them all.
        clip_value, clip_norm: bounds on each gradient entry, on the norm of all; None for none.
        precision: of forward and backward pass: "no" (float32), "fp16" (CUDA), "bf16", or "auto",
            see `runs.machine.fastest_precision`. Weights, loss and validation are in float32.
        compile: through `torch.compile`: for GPUs (on a CPU it gained nothing, see
            benchmarks/RESULTS.md). It takes a minute or so at first, and rounds differently.
        augment: see `images.train_transform`.
        cache_prefix: compute what the frozen blocks make of each image only once, and keep it on
            disk beside the runs: 4 bytes an entry of the map. It takes effect where nothing is
            augmented and the backbone can be cut there (`Backbone.has_prefix`).
        alpha, beta, base, epsilon: of `losses.multi_similarity_loss`.
        seed: of initial weights and of the order of places; draws and augmentation have the
            PlaceDataset's own.
        workers: processes that load images; 0 loads in this one.
        device: "auto", "cpu", "cuda", "cuda:1", "mps". Like workers, no part of a run's identity.

    Raises:
        ValueError: a field has the wrong type or an impossible value.
    """

    epochs: Count = 50
    places_per_batch: Count = 80
    shuffle: Literal["all", "city"] = "all"
    accumulation: Count = 1
    divide_by_accumulation: bool = False
    optimizer: Literal["sgd", "adamw"] = "sgd"
    initialise: bool = False
    lr: Positive = 0.05
    backbone_lr: Positive | None = None
    momentum: NotNegative = 0.9
    weight_decay: NotNegative = 0.001
    schedule: Literal["steps", "cosine", "constant"] = "steps"
    milestones: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] = (
        *(5, 10, 15, 20, 25, 30, 35, 40, 45),
    )
    gamma: Positive = 1 / 3
    warmup_steps: Whole = 0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    patience: Count | None = None
    clip_value: Positive | None = None
    clip_norm: Positive | None = None
    precision: Literal["no", "auto", "fp16", "bf16"] = "no"
    compile: bool = False
    augment: Literal["none", "randaugment", "robust", "crops"] = "none"
    cache_prefix: bool = False
    alpha: Positive = 1.0
    beta: Positive = 50.0
    base: Annotated[float, Field(ge=-LARGEST, le=LARGEST)] = 0.0
    epsilon: NotNegative = 0.1
    seed: Whole = 0
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if sorted(set(self.milestones)) != list(self.milestones):
            raise ValueError(f"TrainConfig.milestones is {self.milestones}; it should be rising")
        if self.places_per_batch < 2:
            raise ValueError("TrainConfig.places_per_batch is 1; the loss needs two places")
        if self.augment != "none":  # no image stays the same from epoch to epoch
            object.__setattr__(self, "cache_prefix", False)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """A named recipe of `PRESETS`, "paper", "toy", "small", ..., with some fields changed."""
        return cls.from_dict({**named(PRESETS, name, "training preset"), **changes})

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON can hold them."""
        return {**dataclasses.asdict(self), "milestones": list(self.milestones)}

    def identity(self) -> dict[str, Any]:
        """The fields that decide the result, by whose hash runs are named.

        That is, without those of the machine, and without `LATER` ones that have their first value.
        """
        values = self.to_dict()
        left_out = {*MACHINE, *(key for key, first in LATER.items() if values[key] == first)}
        return {key: value for key, value in values.items() if key not in left_out}

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """The rate of optimiser step `step`, counted from 0 over the whole run."""
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        factor = 1.0
        if self.schedule == "steps":
            epoch = step // steps_per_epoch
            factor = self.gamma ** sum(epoch >= milestone for milestone in self.milestones)
        elif self.schedule == "cosine":
            falling = max(1, self.epochs * steps_per_epoch - self.warmup_steps)
            done = max(0, step - self.warmup_steps) / falling
            factor = (1 + math.cos(math.pi * done)) / 2
        return self.lr * warmup * factor


class DivergedError(FloatingPointError):
    """The loss or the weights are no finite numbers any more."""


def batches_of(places: PlaceDataset, recipe: TrainConfig, epoch: int) -> np.ndarray:
    """The places of each batch of an epoch: int64 (batches, P), no place twice, none incomplete.

    They depend on (seed, epoch) alone. With shuffle="city", the cities' batches come mixed;
    GSV-Cities' own code takes one city after the other.

    Raises:
        ValueError: the places (of the largest city) do not fill one batch.
    """
    rng = np.random.default_rng((recipe.seed, epoch))
    order, of_city = rng.permutation(len(places)), places.city_of
    in_city = recipe.shuffle == "city"
    groups = [order[of_city[order] == city] for city in np.unique(of_city)] if in_city else [order]
    per_batch = recipe.places_per_batch
    if (most := max(map(len, groups))) < per_batch:
        where = " of the largest city" if in_city else ""
        raise ValueError(
            f"{most} places{where} do not fill one batch of places_per_batch = {per_batch}; "
            "lower it or add places."
        )
    whole = np.concatenate([group[: len(group) // per_batch * per_batch] for group in groups])
    batches = whole.reshape(-1, per_batch)
    return rng.permutation(batches) if in_city else batches


def make_optimizer(
    recipe: TrainConfig, model: nn.Module, *, fused: bool | None = None
) -> torch.optim.Optimizer:
    """The recipe's optimiser of what learns in a model that is on its device already.

    Args:
        fused: a step is one kernel; None says so on CUDA alone. On a CPU it gained nothing, and
            AdamW would round differently.

    Raises:
        ValueError: nothing learns.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    learning: Any = list(named.values())
    if not learning:
        raise ValueError(
            "nothing to train: every parameter of the model is frozen. Raise trained_blocks or "
            "choose an aggregator that has parameters."
        )
    if fused is None:
        fused = learning[0].device.type == "cuda"
    if recipe.backbone_lr is not None:
        parts = [p for name, p in named.items() if name.startswith("backbone.")]
        rest = [p for name, p in named.items() if not name.startswith("backbone.")]
        shares = (recipe.backbone_lr / recipe.lr, parts), (1.0, rest)
        learning = [{"params": group, "share": share} for share, group in shares if group]
    rates = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "fused": fused or None}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(learning, momentum=recipe.momentum, **rates)
    return torch.optim.AdamW(learning, **rates)


def fit(
    model: PlaceModel,
    places: PlaceDataset,
    val: TestSet | Sequence[TestSet],
    recipe: TrainConfig,
    optimizer: torch.optim.Optimizer,
    here: Accelerator,
    *,
    frozen: Mapping[Path, Tensor] | None = None,
    average: AveragedModel | None = None,
    history: list[dict[str, float]] | None = None,
    progress: bool = True,
) -> Iterator[dict[str, float]]:
    """Train `model` in place, and yield a row of its history after each epoch, validated.

    Epoch 0 validates the model as it is. Whoever keeps model, optimiser and the global generators'
    states after a row can go on from there, to the very same result.

    Args:
        places: drawn from by (seed, epoch); their transform is chosen here.
        optimizer: from `make_optimizer`, through `here.prepare_optimizer`.
        here: precision and processes. A batch is shared out among the processes, but mined whole;
            the main process alone validates, and the others' rows have no recalls.
        frozen: what the frozen prefix makes of each image, see `runs.prefix`; None: read images.
        average: of the model's weights, from `make_average`; it is validated in the model's place.
        history: rows of epochs that are done; it grows.

    Yields:
        epoch, step (optimiser steps so far), loss and mined_share (means over the epoch's batches),
        lr (of the last step), images_per_second (training alone), recall@1 and recall@5 (percent),
        seconds (with validation).

    Raises:
        DivergedError: loss or weights became NaN or infinite.
    """
    history = [] if history is None else history
    device, processes = next(model.parameters()).device, here.num_processes
    places = places.with_transform(train_transform(model.config.image_size, recipe.augment))
    places = places if frozen is None else places.with_frozen(frozen)
    normalise = normaliser(model).to(device)
    learning = [p for group in optimizer.param_groups for p in group["params"]]
    net = model if frozen is None else FromPrefix(model)
    if recipe.compile:
        # What this process compiled before would count: after some shapes torch compiles for any
        # shape, which rounds otherwise, and after some modules not at all.
        torch.compiler.reset()
        net = torch.compile(net)  # a wrapper: validation and checkpoints see the plain model
    # Not through prepare_model: it would leave autocast on in validation.
    net = DistributedDataParallel(net) if processes > 1 else net

    batches_per_epoch = len(batches_of(places, recipe, epoch=1))
    steps_per_epoch = math.ceil(batches_per_epoch / recipe.accumulation)
    first, total = len(history), recipe.epochs * batches_per_epoch
    done = max(0, first - 1) * batches_per_epoch
    bar = tqdm(total=total, initial=done, unit="batch", disable=not progress)

    for epoch in range(first, recipe.epochs + 1):
        if is_enough(history, recipe.patience, here):
            break
        started = time.perf_counter()
        bar.set_description(f"epoch {epoch}/{recipe.epochs}")
        recall = history[-1].get("recall@1", math.nan) if history else math.nan
        step, rate, speed, seen = max(0, epoch - 1) * steps_per_epoch, math.nan, math.nan, 0
        losses, shares = [], []

        places.set_epoch(epoch)
        batches = batches_of(places, recipe, epoch) if epoch else ()
        mine = [batch[here.process_index :: processes].tolist() for batch in batches]
        loading = {"num_workers": recipe.workers, "pin_memory": device.type == "cuda"}
        loader = DataLoader(places, batch_sampler=mine, **loading)
        model.train()
        for i, (images, labels) in enumerate(loader if mine else ()):
            # Batches before an optimiser step: `accumulation`, or what is left of the epoch.
            group = min(recipe.accumulation, len(batches) - i + i % recipe.accumulation)
            last = i % recipe.accumulation == group - 1
            divisor = recipe.accumulation if recipe.divide_by_accumulation else group
            rate = recipe.learning_rate(step, steps_per_epoch)

            labels = labels.repeat_interleave(images.shape[1]).to(device)  # (P*K,)
            images = images.flatten(0, 1).to(device, non_blocking=True)  # (P*K, 3, H, W)
            if frozen is None:
                images = normalise(images)

            with nullcontext() if last else here.no_sync(net):
                with here.autocast():
                    desc = net(images)  # (P*K, D)
                if processes > 1:
                    desc, labels = gather(here, desc, labels)
                loss, share = loss_and_mined_share(
                    desc, labels, recipe.alpha, recipe.beta, recipe.base, recipe.epsilon
                )
                losses.append(loss.item())
                shares.append(share.item())
                if not math.isfinite(losses[-1]):
                    raise _diverged(f"the loss is {losses[-1]}", epoch, step, rate)
                # DDP averages the processes' gradients; here they are parts of one sum.
                here.backward(loss * (processes / divisor))

            if last:
                for parameters in optimizer.param_groups:
                    parameters["lr"] = rate * parameters.get("share", 1.0)
                here.unscale_gradients()
                if recipe.clip_value is not None:
                    nn.utils.clip_grad_value_(learning, recipe.clip_value)
                if recipe.clip_norm is not None:
                    nn.utils.clip_grad_norm_(learning, recipe.clip_norm)
                optimizer.step()  # with fp16, a step whose gradient overflowed is left out
                optimizer.zero_grad()
                if average:
                    average.update_parameters(model)
                step += 1

            seen += len(images) * processes
            speed = seen / (time.perf_counter() - started)
            shown = {"loss": losses[-1], "recall@1": recall, "img/s": speed}
            bar.set_postfix({k: f"{value:.4g}" for k, value in shown.items()}, refresh=False)
            bar.update()

        for name, value in model.state_dict().items():
            if not value.isfinite().all():
                raise _diverged(f"{name} is not finite", epoch, step, rate)
        row = {
            "epoch": epoch,
            "step": step,
            "loss": float(np.mean(losses)) if losses else math.nan,
            "mined_share": float(np.mean(shares)) if shares else math.nan,
            "lr": rate,
            "images_per_second": speed,
        }
        if here.is_main_process:
            bar.set_description(f"epoch {epoch}/{recipe.epochs}, validating")
            row |= validate(average.module if average else model, val, recipe.workers, frozen)
        history.append(row | {"seconds": time.perf_counter() - started})
        yield history[-1]
    bar.close()


def make_average(recipe: TrainConfig, model: PlaceModel) -> AveragedModel | None:
    """What `TrainConfig.ema` says, of a model on its device; None for no average."""
    if not recipe.ema:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))


def is_enough(
    history: Sequence[Mapping[str, float]], patience: int | None, here: Accelerator
) -> bool:
    """Whether the best epoch (`best_row`) is `patience` epochs ago; all processes agree."""
    if patience is None or len(history) <= patience:
        return False
    since = history[-1]["epoch"] - best_row(history)["epoch"] if here.is_main_process else 0
    return broadcast_object_list([since >= patience])[0]


def best_row(history: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """The trained epoch with the highest recall@1; ties go to recall@5, then to the earlier one."""
    trained = [row for row in history if row["epoch"] > 0]
    return max(trained, key=lambda row: (row["recall@1"], row["recall@5"], -row["epoch"]))


class FromPrefix(nn.Module):
    """The model from where its frozen prefix ends, to descriptors (B, dim)."""

    def __init__(self, model: PlaceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, frozen: Tensor) -> Tensor:
        return self.model.finish(frozen)


def gather(here: Accelerator, desc: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The batch of all processes; the part of this one alone carries a gradient."""
    parts = list(here.gather(desc.detach()).chunk(here.num_processes))
    parts[here.process_index] = desc
    return torch.cat(parts), here.gather(labels)


def as_sets(val: TestSet | Sequence[TestSet]) -> Sequence[TestSet]:
    """The validation sets of `fit`; ValueError where there is none."""
    if not isinstance(val, TestSet) and not len(val):
        raise ValueError("val is empty: give a test set, or several")
    return [val] if isinstance(val, TestSet) else val


def validate(
    model: PlaceModel,
    val: TestSet | Sequence[TestSet],
    workers: int,
    frozen: Mapping[Path, Tensor] | None,
) -> dict[str, float]:
    """Recall@1 and recall@5 over all queries, in percent; of several sets, their mean."""
    options = {"workers": workers, "device": next(model.parameters()).device, "frozen": frozen}
    tables = [evaluate(model, test, ks=(1, 5), progress=False, **options) for test in as_sets(val)]
    recalls = [table[table["condition"] == ALL].set_index("k")["recall"] for table in tables]
    return {f"recall@{k}": float(np.mean([found[k] for found in recalls])) for k in (1, 5)}


def _diverged(what: str, epoch: int, step: int, rate: float) -> DivergedError:
    return DivergedError(
        f"{what} in epoch {epoch}, step {step}, at learning rate {rate:g}. Lower lr, clip "
        "gradients or warm up for longer."
    )


@torch.no_grad()
def initialise(model: PlaceModel, places: PlaceDataset) -> None:
    """Show the aggregator the maps of the first training images, so that it finds its weights.

    `places` have a transform, or the frozen prefix's features.
    """
    count = math.ceil(FEATURE_IMAGES / places.images_per_place)
    order = np.random.default_rng(places.seed).permutation(len(places))[:count]
    device = next(model.parameters()).device
    normalise = normaliser(model).to(device)
    model.eval()
    maps = []
    for i in order.tolist():
        frozen = places[i][0].to(device)
        if places.frozen is None:
            frozen = model.backbone.frozen_features(normalise(frozen))
        maps.append(model.backbone.finish(frozen)[0])
    model.aggregator.initialise(torch.cat(maps))  # (N, s, h, w)
