"""What a run asks of its machine: device, precision, processes, and randomness that repeats."""

import os
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from dinomix.retrieval import pick_device
from dinomix.training import TrainConfig


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Accelerate on the config's device and precision.

    Raises:
        ValueError: this machine has no such device, the device has no such precision, nothing here
            compiles, or the processes cannot share a batch evenly.
    """
    device = pick_device(config.device)
    precision = config.precision
    if precision == "fp16" and device.type == "cpu":
        raise ValueError('precision "fp16" needs a GPU, and this run is on the CPU; use "auto"')
    if precision == "auto":
        precision = fastest_precision(device)
    if config.compile and device.type == "cpu" and not has_compiler():
        raise ValueError(
            "TrainConfig.compile is True, and torch.compile needs a C++ compiler, which is not "
            "here: install g++, name another one in the variable CXX, or leave compile out"
        )
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
    AcceleratorState._reset_state(reset_partial_state=alone)  # or an earlier run's choices stay
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
    if config.places_per_batch % accelerator.num_processes:
        raise ValueError(
            f"places_per_batch = {config.places_per_batch} cannot be shared out evenly among "
            f"{accelerator.num_processes} processes; take a multiple."
        )
    return accelerator


def fastest_precision(device: torch.device) -> str:
    """What precision "auto" means on a device: "bf16", "fp16" or "no", for float32.

    bf16 where the hardware multiplies it natively: a CUDA device, or a CPU with AMX or
    AVX512-BF16; on others it is no faster than float32, or slower. fp16 on older CUDA devices.
    A release of PyTorch that cannot tell what a CPU has gets float32 on it.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu":
        has = getattr(torch.cpu, "get_capabilities", dict)()
        return "bf16" if has.get("amx_bf16") or has.get("avx512_bf16") else "no"
    return "no"


def has_compiler() -> bool:
    """Whether there is the C++ compiler that torch.compile calls for a CPU."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    return shutil.which(os.environ.get("CXX", usual)) is not None


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
