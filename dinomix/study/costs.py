"""What a model costs: parameters, arithmetic, time, memory, and the search among its descriptors.

Weights do not matter for any of it: a model runs with arbitrary ones.
"""

import json
import re
import statistics
import subprocess
import sys
import timeit
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dinomix.aggregators.base import check_counts
from dinomix.data import TestSet
from dinomix.evaluation import retrieve_described
from dinomix.images import size_text
from dinomix.model import ModelConfig, PlaceModel, outline
from dinomix.plumbing.configs import wholes
from dinomix.plumbing.summary import count_parameters
from dinomix.retrieval import describe, pick_device
from dinomix.scale.approximate import ApproximateIndex
from dinomix.scale.compression import Projection
from dinomix.scale.search import search
from dinomix.study.results import overall

MIB = 2**20
PRICE = ["method", "dim", "bytes", "recall", "lost", "search_ms", "dataset", "condition", "k"]
WARM_UP = 3  # passes before the first one that is timed


def costs(
    config: ModelConfig, *, device: str = "auto", batch_size: int = 1, repeats: int = 10
) -> dict[str, object]:
    """What describing images with a model costs, in float32 and evaluation mode.

    Returns:
        backbone, aggregator, dim (D), image_size (height x width), parameters (all of them),
        trained_parameters, device and batch_size, and
        flops: of one image, in matrix products (those of attention too) and convolutions; a
            multiplication and the addition after it count as two.
        latency_ms: of one image on the device: the median of `repeats` passes, by `batch_size`.
        memory_mib: what weights, a batch of images and one pass over it add at their peak. On CUDA
            to what PyTorch has allocated; on a CPU to the resident memory of a new process; nan
            elsewhere.

    Raises:
        ValueError: batch_size or repeats below 1, or a config that no model fits.
        RuntimeError: the process that measures the CPU's memory fails.
    """
    check_counts(batch_size=batch_size, repeats=repeats)
    device = pick_device(device)
    model = outline(config).eval()
    parameters, trained = count_parameters(model)
    flops = _flops(model)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    forward = _ready(model, device, batch_size)
    seconds = _median_seconds(forward, device, repeats)
    memory = float("nan")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        forward()
        memory = (torch.cuda.max_memory_allocated(device) - before) / MIB
    elif device.type == "cpu":
        memory = _memory_of_a_new_process(config, batch_size)
    return {
        "backbone": config.backbone,
        "aggregator": config.aggregator,
        "dim": model.dim,
        "image_size": size_text(config.size),
        "parameters": parameters,
        "trained_parameters": trained,
        "flops": flops,
        "latency_ms": 1000 * seconds / batch_size,
        "memory_mib": memory,
        "device": str(device),
        "batch_size": batch_size,
    }


def search_ms(dim: int, *, database: int = 10_000, queries: int = 100, repeats: int = 10) -> float:
    """Milliseconds a query that `dinomix.search` takes for random descriptors, its index included.

    The median of `repeats` searches of (queries, dim) for their nearest ten among (database, dim).

    Raises:
        ValueError: a number below 1.
    """
    check_counts(dim=dim, database=database, queries=queries, repeats=repeats)
    rng = np.random.default_rng(0)
    stored, asked = (rng.standard_normal((n, dim), np.float32) for n in (database, queries))
    for descriptors in (stored, asked):
        descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    seconds = _median_seconds(lambda: search(stored, asked), torch.device("cpu"), repeats)
    return 1000 * seconds / queries


def price(
    model: nn.Module,
    training: Sequence[Path],
    test: TestSet,
    dims: Sequence[int] = (),
    *,
    k: int = 1,
    candidates: int = 100,
    repeats: int = 3,
    **options,
) -> pd.DataFrame:
    """What smaller descriptors of a model save, and what they cost.

    As they are, and by PCA and whitening to each of `dims`; each of these in float32, in int8 (a
    byte an entry) and binary (a bit: above the training median or not; after PCA of entries that
    are rotated at random), and the latter with the first `candidates` compared in float32, too.

    Args:
        training: images like those that it was trained on, more than the largest of `dims`. All
            is fitted on their descriptors, nothing on those of the test set.
        options: of `describe`.

    Returns:
        a row each, of columns `PRICE`; bytes: of an image in what is searched (to compare again
        takes 4 * dim more, maybe on disk); recall: `results.overall`; lost: points of it, to the
        first row, where nothing is reduced; search_ms: of a query among all at once, the median
        of `repeats` searches in an index that is there.

    Raises:
        ValueError: as `Retrieval.table`, `Projection.fit` and `ApproximateIndex.search`.
    """
    check_counts(k=k, candidates=candidates, repeats=repeats)
    dims = wholes("dims", dims, least=1) if len(dims) else []
    learned = describe(model, training, **options)
    reductions = {("", learned.shape[1]): np.asarray}
    if dims:
        pca = Projection.fit(learned, max(dims))
        for name, whiten in {"PCA": False, "whitening": True}.items():
            reductions |= {(name, dim): pca.first(dim, whiten) for dim in dims}
    described = [describe(model, paths, **options) for paths in (test.database, test.queries)]
    found, tables = retrieve_described(test, *described, k), []
    for (name, dim), reduced in reductions.items():
        database, queries = map(reduced, described)
        bits = "LSHrt" if name else "LSHt"  # not rotated, the last components' would say little
        codes = {"": "Flat", "int8": "SQ8", "binary": bits, "binary, compared again": bits}
        for code, factory in codes.items():
            index = ApproximateIndex.build(database, factory, learn_from=reduced(learned))
            again = {"database": database, "candidates": candidates} if "again" in code else {}
            look = partial(index.search, queries, k, **again)
            seconds = _median_seconds(look, torch.device("cpu"), repeats)
            row = overall(replace(found, ranked=look()[1]).table([k])).assign(
                method=", ".join(filter(None, [name, code])) or "as it is",
                dim=dim,
                bytes=index.bytes_per_image,
                search_ms=1000 * seconds / len(queries),
            )
            tables.append(row)
    table = pd.concat(tables, ignore_index=True)
    table["lost"] = table["recall"].iloc[0] - table["recall"]
    return table[PRICE]


def peak_memory() -> int:
    """Bytes of memory that this process has had at most."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose ru_maxrss starts from the parent's peak
        return 1024 * int(re.search(r"^VmHWM:\s+(\d+)", status.read_text(), re.MULTILINE)[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes, on macOS


def _flops(model: PlaceModel) -> int:
    # Attention as matrix products: not every release of PyTorch can count all its fused kernels.
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(torch.empty(1, 3, *model.config.size, device="meta"))
    return counter.get_total_flops()


def _ready(model: nn.Module, device: torch.device, batch_size: int) -> Callable[[], object]:
    """Move a model without memory to the device; return what passes a batch through it."""
    model.to_empty(device=device)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0, 0.02)  # buffers may be variances, so nothing negative
        else:
            tensor.data.zero_()
    images = torch.randn(batch_size, 3, *model.config.size, device=device)
    return torch.inference_mode()(lambda: model(images))


def _median_seconds(action: Callable[[], object], device: torch.device, repeats: int) -> float:
    def pass_once() -> None:
        action()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    return statistics.median(timeit.repeat(pass_once, number=1, repeat=WARM_UP + repeats)[WARM_UP:])


def _memory_of_a_new_process(config: ModelConfig, batch_size: int) -> float:
    """MiB by which one pass raises the peak; this process' earlier peaks would hide it."""
    code = "import sys; from dinomix.study.costs import _report_memory; _report_memory(sys.argv[1])"
    order = json.dumps([config.to_dict(), batch_size])
    done = subprocess.run([sys.executable, "-c", code, order], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"cannot measure the memory of {config}:\n{done.stderr}")
    return float(done.stdout.splitlines()[-1])


def _report_memory(order: str) -> None:
    config, batch_size = json.loads(order)
    model = outline(ModelConfig.from_dict(config)).eval()
    before = peak_memory()
    _ready(model, torch.device("cpu"), batch_size)()
    print((peak_memory() - before) / MIB)
