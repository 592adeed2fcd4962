"""TrainConfig: everything that decides how a model is trained, and the named recipes."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from dinomix.images import AUGMENTATIONS

MACHINE = ("workers", "device")  # these say where a run happens, not what it computes
LATER = {"shuffle": "all", "compile": False}  # there were runs before there were these fields
MOST = {"workers": 1024}  # processes
MOST_OTHERS = 2**32  # epochs, places, steps; and torch and NumPy take seeds as large
LARGEST = 1e30  # reals: beyond it, float32 soon ends

PRESETS: dict[str, dict[str, Any]] = {
    # As the paper tells it. It leaves open how many places make a batch: 80, as in the authors'
    # code. A third of the learning rate after every five epochs.
    "paper": {},
    # As the authors' published code does it.
    "authors": {
        "epochs": 60,
        "accumulation": 4,
        "lr": 0.005,
        "warmup_steps": 650,
        "milestones": (5, 10, 15, 25, 45),
        "gamma": 0.3,
        "precision": "fp16",
        "clip_value": 0.5,
        "augment": "randaugment",
    },
    # For the embedded city on a CPU: minutes. Chosen on its validation city. In float32, as all the
    # city's published numbers: "auto" would be another precision, so other numbers, on another CPU.
    "toy": {
        "epochs": 12,
        "places_per_batch": 24,
        "optimizer": "adamw",
        "lr": 3e-3,
        "weight_decay": 0.01,
        "schedule": "cosine",
        "warmup_steps": 20,
        "clip_norm": 1.0,
        "cache_prefix": True,
    },
    # The paper's future work: trained for motion blur and too little light.
    "robust": {"augment": "robust"},
}


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are the paper's recipe; `preset` has the named ones.

    Attributes:
        epochs: passes over the places; each shows every place once, save the last incomplete
            batch.
        places_per_batch: P. Each place brings the K images of its PlaceDataset, so the loss mines
            among P * K images.
        shuffle: "all" mixes the places of all cities in a batch; "city" takes those of a batch from
            one city, whose places look more alike, as GSV-Cities' own code does. Then the last
            incomplete batch of each city is left out.
        accumulation: batches whose gradients are averaged for one optimiser step. Each is mined
            for itself, as in the authors' code.
        optimizer: "sgd" or "adamw".
        lr: the schedule's highest learning rate.
        momentum: of SGD.
        weight_decay: of all trained parameters.
        schedule: "steps" multiplies the rate by gamma at each milestone (epochs that are over),
            "cosine" lets it fall to 0 after the warm-up, "constant" keeps it.
        warmup_steps: optimiser steps over which the rate first rises linearly from lr/warmup_steps.
        clip_value, clip_norm: bounds on each gradient entry, on the norm of all; None for none.
        precision: of forward and backward pass: "no" (float32), "fp16" (CUDA), "bf16", or "auto":
            the fastest of them here, see `runtime.fastest_precision`. Weights, loss and validation
            are in float32 always.
        compile: train through `torch.compile`. It is meant for GPUs (on a CPU it gained nothing,
            see benchmarks/RESULTS.md), takes a minute or so at first, and rounds differently.
        augment: "none", "randaugment" or "robust", see `images.train_transform`.
        cache_prefix: compute what the frozen blocks make of each image only once, and keep it on
            disk beside the runs: 4 bytes an entry of the map. It takes effect where nothing is
            augmented and the backbone can be cut there (`Backbone.has_prefix`).
        alpha, beta, base, epsilon: of `losses.multi_similarity_loss`.
        seed: of initial weights and of the order of places. (How images are drawn and augmented
            has the PlaceDataset's own seed.)
        workers: processes that load images; 0 loads in this one. No part of a run's identity.
        device: "auto", "cpu", "cuda", "cuda:1", "mps". No part of a run's identity.

    Raises:
        ValueError: a field has the wrong type or an impossible value.
    """

    epochs: int = 50
    places_per_batch: int = 80
    shuffle: str = "all"
    accumulation: int = 1
    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.001
    schedule: str = "steps"
    milestones: tuple[int, ...] = (5, 10, 15, 20, 25, 30, 35, 40, 45)
    gamma: float = 1 / 3
    warmup_steps: int = 0
    clip_value: float | None = None
    clip_norm: float | None = None
    precision: str = "no"
    compile: bool = False
    augment: str = "none"
    cache_prefix: bool = False
    alpha: float = 1.0
    beta: float = 50.0
    base: float = 0.0
    epsilon: float = 0.1
    seed: int = 0
    workers: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "places_per_batch", "accumulation"):
            self._whole(name, least=1)
        for name in ("warmup_steps", "seed", "workers"):
            self._whole(name, least=0)
        for name in ("lr", "gamma", "alpha", "beta"):
            self._real(name, above=0)
        for name in ("momentum", "weight_decay", "epsilon"):
            self._real(name, least=0)
        self._real("base")
        for name in ("clip_value", "clip_norm"):
            if getattr(self, name) is not None:
                self._real(name, above=0)
        self._choice("shuffle", ("all", "city"))
        self._choice("optimizer", ("sgd", "adamw"))
        self._choice("schedule", ("steps", "cosine", "constant"))
        self._choice("precision", ("no", "auto", "fp16", "bf16"))
        self._choice("augment", tuple(AUGMENTATIONS))
        for name in ("compile", "cache_prefix"):
            if type(getattr(self, name)) is not bool:
                self._refuse(name, "True or False")
        if self.augment != "none":  # no image stays the same from epoch to epoch
            object.__setattr__(self, "cache_prefix", False)
        if not isinstance(self.device, str):
            self._refuse("device", 'a name such as "auto", "cpu" or "cuda"')
        marks = self.milestones
        if not isinstance(marks, (tuple, list)) or any(type(m) is not int or m < 1 for m in marks):
            self._refuse("milestones", "a list of epochs, whole numbers from 1 on")
        if sorted(set(marks)) != list(marks):
            self._refuse("milestones", "a list of epochs that rises")
        object.__setattr__(self, "milestones", tuple(marks))  # JSON and YAML only have lists

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """A named recipe, "paper", "authors", "toy" or "robust", with some fields changed.

        Raises:
            ValueError: there is no such recipe or field.
        """
        if name not in PRESETS:
            raise ValueError(f"no training preset {name!r}; choose one of {sorted(PRESETS)}")
        return cls.from_dict({**PRESETS[name], **changes})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; fields that are left out keep their defaults.

        Raises:
            ValueError: a key is no field, or a field's value is none that it takes.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"a TrainConfig is made of named values, not of {values!r}")
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known), key=str)
        if unknown:
            raise ValueError(f"TrainConfig has no fields {unknown}; it has {known}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON can hold them."""
        return {**asdict(self), "milestones": list(self.milestones)}

    def identity(self) -> dict[str, Any]:
        """The fields that decide the result: `to_dict` without workers and device.

        And without `LATER` fields that have their first value: runs are named by a hash of this.
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

    def _whole(self, name: str, least: int) -> None:
        value = getattr(self, name)
        most = MOST.get(name, MOST_OTHERS)
        if type(value) is not int or not least <= value <= most:
            self._refuse(name, f"a whole number, at least {least} and at most {most:,}")

    def _real(self, name: str, *, above: float = -math.inf, least: float = -math.inf) -> None:
        value = getattr(self, name)
        if type(value) not in (int, float) or not abs(value) <= LARGEST:
            self._refuse(name, "a finite number (in YAML, write 5.0e-4 and not 5e-4)")
        if value <= above or value < least:
            self._refuse(
                name, f"above {above:g}" if math.isfinite(above) else f"at least {least:g}"
            )
        object.__setattr__(self, name, float(value))  # so that 1 and 1.0 name the same run

    def _choice(self, name: str, choices: tuple[str, ...]) -> None:
        if getattr(self, name) not in choices:
            self._refuse(name, f"one of {list(choices)}")

    def _refuse(self, name: str, expected: str) -> None:
        raise ValueError(f"TrainConfig.{name} is {getattr(self, name)!r}; it should be {expected}")
