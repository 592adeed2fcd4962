"""A training step of ours against the authors' scheme in plain PyTorch.

Both take the same batch of P places x 4 images through DINO-Mix with three trained blocks, the
same loss and SGD with momentum. The authors' scheme leaves class token and positional embedding
trainable, so that autograd keeps a graph through every frozen block.

    python benchmarks/train_step.py --backbones dinov2_vits14 dinov2_vitb14

The schemes take turns, so that what else the machine does falls on all of them; the figure is the
median step. What runs in half precision is compared with the authors' scheme in float16 where there
is a GPU for it, and with it in float32 on a CPU, which has no float16.

Memory on a GPU is what a step adds to weights and optimiser at its peak; on a CPU the activations:
bytes that autograd keeps between forward and backward.
"""

import argparse
import statistics
from collections.abc import Container

import pandas as pd
import torch
from report import record, timed
from torch import nn

from dinomix.losses import multi_similarity_loss
from dinomix.model import ModelConfig, build_model
from dinomix.retrieval import pick_device
from dinomix.study.probes import saved_activations

MIB = 2**20
AUTHORS, AUTHORS_HALF = "authors' scheme", "authors' scheme, fp16"
SCHEMES: dict[str, dict] = {
    AUTHORS: {"train_tokens": True},
    AUTHORS_HALF: {"train_tokens": True, "dtype": torch.float16},
    "frozen prefix": {},
    "frozen prefix, fused SGD": {"fused": True},
    "frozen prefix, fused SGD, bf16": {"fused": True, "dtype": torch.bfloat16},
    "frozen prefix, fused SGD, bf16, compiled": {
        "fused": True,
        "dtype": torch.bfloat16,
        "compile": True,
    },
}


class Scheme:
    """One way to take a training step."""

    def __init__(
        self,
        backbone: str,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        train_tokens: bool = False,
        fused: bool = False,
        dtype: torch.dtype | None = None,
        compile: bool = False,
    ) -> None:
        torch.manual_seed(0)
        size = images.shape[-1]
        config = ModelConfig(backbone=backbone, train_tokens=train_tokens, image_size=size)
        self.model = build_model(config).to(images.device).train()
        self.images, self.labels, self.dtype = images, labels, dtype
        self.forward: nn.Module = torch.compile(self.model) if compile else self.model
        learning = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(learning, lr=1e-3, momentum=0.9, fused=fused or None)
        self.scaler = torch.amp.GradScaler(images.device.type, enabled=dtype is torch.float16)

    def loss(self) -> torch.Tensor:
        enabled = self.dtype is not None
        with torch.autocast(self.images.device.type, self.dtype, enabled=enabled):
            descriptors = self.forward(self.images)
        return multi_similarity_loss(descriptors.float(), self.labels)

    def step(self) -> float:
        """Seconds of one step."""

        def step() -> None:
            self.optimizer.zero_grad()
            self.scaler.scale(self.loss()).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            synchronise(self.images.device)

        synchronise(self.images.device)
        return timed(step)

    def memory(self) -> float:
        """MiB that a step adds at its peak, on a GPU; that autograd keeps, on a CPU."""
        device = self.images.device
        if device.type == "cuda":
            self.optimizer.zero_grad()  # gradients belong to the step
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self.step()
            return (torch.cuda.max_memory_allocated() - before) / MIB
        with torch.autocast(device.type, self.dtype, enabled=self.dtype is not None):
            return saved_activations(self.forward, self.images)[1] / MIB


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def reference_of(name: str, schemes: Container[str]) -> str:
    """Whom a scheme is compared with: the authors' one, in half precision if this one is."""
    half = "dtype" in SCHEMES[name]
    return AUTHORS_HALF if half and AUTHORS_HALF in schemes else AUTHORS


def compare(backbone: str, places: int, size: int, repeats: int) -> pd.DataFrame:
    """Steps of all schemes that this machine has, by the clock and by memory."""
    device = pick_device()
    images = torch.randn(4 * places, 3, size, size, device=device)
    labels = torch.arange(places, device=device).repeat_interleave(4)
    schemes = {
        name: Scheme(backbone, images, labels, **options)
        for name, options in SCHEMES.items()
        if device.type == "cuda" or options.get("dtype") is not torch.float16
    }
    for scheme in schemes.values():  # compiles, allocates
        scheme.step()
    times = {name: [] for name in schemes}
    for _ in range(repeats):
        for name, scheme in schemes.items():
            times[name].append(scheme.step())
    seconds = {name: statistics.median(taken) for name, taken in times.items()}
    memory = {name: scheme.memory() for name, scheme in schemes.items()}
    reference = {name: reference_of(name, schemes) for name in schemes}
    return pd.DataFrame(
        [
            {
                "backbone": backbone,
                "scheme": name,
                "images/s": len(images) / seconds[name],
                "speed": seconds[reference[name]] / seconds[name],
                "memory, MiB": memory[name],
                "of reference": memory[name] / memory[reference[name]],
                "reference": reference[name],
            }
            for name in schemes
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", default=["dinov2_vits14", "dinov2_vitb14"])
    parser.add_argument("--places", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    tables = [
        compare(backbone, options.places, options.size, options.repeats)
        for backbone in options.backbones
    ]
    title = f"Training step: {options.places} places x 4 images of {options.size} px"
    memory = "what a step adds at its peak" if torch.cuda.is_available() else "activations"
    record(title, pd.concat(tables), f"Speed and memory against the reference; memory: {memory}.")


if __name__ == "__main__":
    main()
