"""What a run asks of its machine: device, precision, processes, and randomness that repeats."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from dinomix.recipes import TrainConfig
from dinomix.retrieval import pick_device


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Accelerate on the config's device and precision.

    Raises:
        ValueError: this machine has no such device, the device has no such precision, or the
            processes cannot share a batch evenly.
    """
    try:
        device = pick_device(config.device)
    except RuntimeError as error:
        raise ValueError(f"TrainConfig.device is {config.device!r}: {error}") from error
    precision = config.precision
    if precision == "fp16" and device.type == "cpu":
        raise ValueError('precision "fp16" needs a GPU, and this run is on the CPU; use "auto"')
    if precision == "auto":
        has_half = device.type == "cuda"
        precision = (
            ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16")
            if has_half
            else "no"
        )
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
    AcceleratorState._reset_state(reset_partial_state=alone)  # or an earlier run's choices stay
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
    if accelerator.device.type != device.type:
        raise ValueError(
            f"TrainConfig.device is {config.device!r}, but this machine offers "
            f'{accelerator.device.type!r}; use "auto"'
        )
    if config.places_per_batch % accelerator.num_processes:
        raise ValueError(
            f"places_per_batch = {config.places_per_batch} cannot be shared out evenly among "
            f"{accelerator.num_processes} processes; take a multiple."
        )
    return accelerator


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Seed all generators and ask for deterministic kernels; put everything back afterwards."""
    generators = rng_state()
    strict = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what CUDA's matmuls need for it
    torch.use_deterministic_algorithms(True, warn_only=True)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        set_rng_state(generators)
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)


def rng_state() -> dict[str, Any]:
    """The states of all global random generators, as tensors and plain values."""
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what `rng_state` returned; CUDA's only on a machine with as many devices."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
