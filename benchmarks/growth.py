"""How time and memory grow with batch, image size, images and dimension, and what the limit is.

    python benchmarks/growth.py --folder /somewhere/with/room

A series changes one thing and measures a few points, each in a new process. Its slope is that of
the line through the points, both axes logarithmic: 1 is linear, 0 does not grow.

The limit of a point is the least time that its arithmetic takes at the rate at which this machine
multiplies matrices, or its bytes at the rate at which they come from memory or from the file,
whichever is most; the rates are measured in the same run. Arithmetic is counted in matrix products
and convolutions. Bytes are those that cannot be saved: weights once a pass, activations that the
backward pass needs, the images' files, the descriptors that are searched.

Memory is what a job adds at its peak to a process that has everything loaded; of a training step,
the bytes that autograd keeps between forward and backward.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image
from report import forget_cached, in_new_process, record, timed
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dinomix.losses import multi_similarity_loss
from dinomix.model import ModelConfig, PlaceModel, build_model, outline
from dinomix.retrieval import describe
from dinomix.scale.search import search
from dinomix.study.costs import peak_memory
from dinomix.study.probes import saved_activations

MIB, GB = 2**20, 1e9
PICTURE = Path(__file__).parents[1] / "figures" / "benchmarks" / "growth.png"
REPEATS = 3
PER_PLACE = 4  # images of a place in a training batch
BATCH = 16  # images that are described at once
BLOCK = 2**24  # bytes of a block of a search, so small that every database has several
LEAST = 2**20  # bytes: what a process adds below that is chance
# What we say of a slope, and up to which one.
KINDS = {"not at all": 0.15, "less than linearly": 0.85, "linearly": 1.15, "faster": float("inf")}


@dataclass(frozen=True)
class Point:
    """A job that was measured, and what it needs at least."""

    seconds: float
    memory: float  # bytes added
    flops: float
    memory_bytes: float
    file_bytes: float = 0.0


@dataclass(frozen=True)
class Rates:
    """What this machine does in a second."""

    flops: float
    memory_bytes: float
    file_bytes: float

    def limit(self, point: Point) -> tuple[str, float]:
        """What limits a point, and the seconds that this alone takes."""
        needs = {
            "arithmetic": point.flops / self.flops,
            "bytes (memory)": point.memory_bytes / self.memory_bytes,
            "bytes (file)": point.file_bytes / self.file_bytes,
        }
        return max(needs.items(), key=lambda need: need[1])


# ------------------------------------------------------------------------------------- the jobs


def train_step(images: int = 8, side: int = 224, channels: int = 1024) -> Point:
    """A step of DINO-Mix with three trained blocks and SGD, in float32."""
    config = ModelConfig(backbone="dinov2_vits14", image_size=side, out_channels=channels)
    model = build_model(config).train()
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=1e-3, momentum=0.9)
    batch = torch.randn(images, 3, side, side)

    labels = torch.arange(images) // PER_PLACE

    def step() -> None:
        multi_similarity_loss(model(batch), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # allocates momentum
    seconds = statistics.median(timed(step) for _ in range(REPEATS))
    kept = saved_activations(model, batch)[1]
    # Weights are read; those that learn also backward and with momentum and gradient in the
    # optimiser's step, which writes them and the momentum; the gradient is written before.
    moved = 4 * (elements(model.parameters()) + 7 * elements(learning)) + 2 * kept + nbytes(batch)
    passes = flops(config, images, lambda model, batch: model(batch).sum().backward())
    similarities = 3 * 2 * images**2 * model.dim  # of the loss, there and back
    return Point(seconds, kept, passes + similarities, moved)


def describing(folder: str, images: int = 32, side: int = 224) -> Point:
    """`describe` of the JPEG files in a folder, some of them several times, in float32."""
    config = ModelConfig(backbone="dinov2_vits14", image_size=side)
    model = build_model(config).eval()
    files = sorted(Path(folder).glob("*.jpg"))
    paths = [files[i % len(files)] for i in range(images)]
    run = partial(describe, model, batch_size=BATCH, device="cpu", progress=False)
    run(paths[:1])  # imports
    before = peak_memory()
    seconds = timed(partial(run, paths))
    added = peak_memory() - before
    from_file = sum(path.stat().st_size for path in paths)
    passes = -(-images // BATCH)
    moved = 4 * (passes * elements(model.parameters()) + images * (3 * side**2 + model.dim))
    forward = torch.inference_mode()(lambda model, batch: model(batch))
    return Point(seconds, added, flops(config, images, forward), moved, from_file)


def searching(
    folder: str, images: int = 50_000, dim: int = 1024, queries: int = 1000, k: int = 10
) -> Point:
    """`search` of a file of descriptors in blocks, in float32."""
    rng = np.random.default_rng(0)
    file = Path(folder) / "database.npy"
    write_unit_rows(file, images, dim)
    asked = rng.standard_normal((queries, dim), np.float32)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    search(asked[:2], asked[:2], 1)  # imports
    database = np.load(file, mmap_mode="r")
    run = partial(search, database, asked, k, block_bytes=BLOCK)
    before, seconds = peak_memory(), []
    for _ in range(REPEATS):
        forget_cached(file)
        seconds.append(timed(run))
    added = peak_memory() - before
    read = 4 * images * dim
    moved = 2 * read + nbytes(torch.from_numpy(asked))  # into a buffer, and out of it
    return Point(statistics.median(seconds), added, 2 * queries * images * dim, moved, read)


JOBS: dict[str, Callable[..., Point]] = {
    "training step": train_step,
    "describe": describing,
    "search": searching,
}


@dataclass(frozen=True)
class Series:
    """One job at several sizes: what grows -> the arguments that differ from the job's own."""

    job: str
    grows_with: str
    settings: dict[int, dict] = field(hash=False)


SIDES = (112, 168, 224, 308)
SERIES = [
    Series("training step", "images in the batch", {n: {"images": n} for n in (4, 8, 16, 32)}),
    Series("training step", "pixels of an image", {s * s: {"side": s} for s in SIDES}),
    Series("training step", "dimension", {4 * c: {"channels": c} for c in (128, 512, 2048)}),
    Series("describe", "images", {n: {"images": n} for n in (32, 64, 128, 256)}),
    Series("describe", "pixels of an image", {s * s: {"side": s} for s in SIDES}),
    Series("search", "images", {n: {"images": n} for n in (12_500, 25_000, 50_000, 100_000)}),
    Series("search", "dimension", {d: {"dim": d} for d in (256, 512, 1024, 2048)}),
    Series("search", "queries", {q: {"queries": q} for q in (16, 64, 256, 1024)}),
]


# ------------------------------------------------------------------------- counting and measuring


def elements(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def flops(config: ModelConfig, images: int, action: Callable[[PlaceModel, Tensor], object]) -> int:
    """What `action(model, batch)` multiplies and adds; counted without memory and without work."""
    model, batch = outline(config), torch.empty(images, 3, *config.size, device="meta")
    # Attention as matrix products: not every release of PyTorch can count all its fused kernels.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        action(model, batch)
    return counter.get_total_flops()


def write_unit_rows(file: Path, rows: int, dim: int, block: int = 500) -> None:
    """Random descriptors, a few at a time: what writes them must not be what is measured."""
    rng = np.random.default_rng(1)
    with file.open("wb") as opened:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
        np.lib.format.write_array_header_1_0(opened, header)
        for start in range(0, rows, block):
            part = rng.standard_normal((min(block, rows - start), dim), np.float32)
            opened.write(part / np.linalg.norm(part, axis=1, keepdims=True))


def write_pictures(folder: Path, count: int) -> None:
    """JPEG files of 640 x 480, random blobs of eight pixels."""
    rng = np.random.default_rng(2)
    for i in range(count):
        blobs = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        picture = blobs.resize((640, 480), Image.Resampling.BICUBIC)
        picture.save(folder / f"{i:05d}.jpg", quality=90)


def measure_rates(folder: Path, size: int = 2**28, repeats: int = 5) -> Rates:
    """The best of several tries: products of the shapes of a ViT-S and of a search, a copy, a file.

    Args:
        size: bytes that are copied and read.
    """
    products = []
    for m, k, n in ((2048, 384, 1536), (1000, 1024, 4096), (2048, 2048, 2048)):
        a, b = torch.randn(m, k), torch.randn(k, n)
        seconds = min(timed(partial(torch.mm, a, b)) for _ in range(2 * repeats))
        products.append(2 * m * k * n / seconds)
    source, target = torch.ones(size // 4), torch.ones(size // 4)
    copied = 2 * size / min(timed(partial(target.copy_, source)) for _ in range(repeats))

    file = folder / "bytes.npy"
    write_unit_rows(file, size // 4096, 1024)
    buffer, read = bytearray(BLOCK), []
    for _ in range(repeats):
        forget_cached(file)
        with file.open("rb", buffering=0) as opened:
            started = time.perf_counter()
            count = sum(iter(partial(opened.readinto, buffer), 0))
            read.append(count / (time.perf_counter() - started))
    file.unlink()
    return Rates(max(products), copied, max(read))


def measure(series: Series, folder: Path) -> list[Point]:
    """All points of a series, each in a process that has done nothing before.

    Args:
        folder: of JPEG files, with room for descriptors.
    """
    points = []
    for size, setting in series.settings.items():
        place = {} if series.job == "training step" else {"folder": str(folder)}
        points.append(in_new_process(JOBS[series.job], **setting, **place))
        print(f"{series.job}, {size:,} {series.grows_with}: {points[-1]}", flush=True)
    return points


# --------------------------------------------------------------------------------- what it shows


def slope(sizes: list[float], values: list[float]) -> float:
    """The exponent b of the power law a * size ** b nearest to the values, to two digits."""
    return round(float(np.polyfit(np.log(sizes), np.log(values), 1)[0]), 2) + 0.0  # no -0


def points_table(measured: dict[Series, list[Point]], rates: Rates) -> pd.DataFrame:
    """A row a point: job, grows with, size, seconds, MiB, limit and limit_seconds."""
    rows = []
    for series, points in measured.items():
        for size, point in zip(series.settings, points, strict=True):
            limit, seconds = rates.limit(point)
            rows.append(
                {
                    "job": series.job,
                    "grows with": series.grows_with,
                    "size": size,
                    "seconds": point.seconds,
                    "MiB": max(point.memory, LEAST) / MIB,
                    "limit": limit,
                    "limit_seconds": seconds,
                }
            )
    return pd.DataFrame(rows)


def growth_table(points: pd.DataFrame) -> pd.DataFrame:
    """A row a series; seconds, MiB and the share of the limit are those of its largest point."""
    rows = []
    for (job, grows_with), part in points.groupby(["job", "grows with"], sort=False):
        sizes, last = part["size"].tolist(), part.iloc[-1]
        rows.append(
            {
                "job": job,
                "grows with": grows_with,
                "from - to": f"{sizes[0]:,} - {sizes[-1]:,}",
                "slope of time": slope(sizes, part["seconds"].tolist()),
                "slope of memory": slope(sizes, part["MiB"].tolist()),
                "seconds": last["seconds"],
                "MiB": last["MiB"],
                "limit": ", then ".join(dict.fromkeys(part["limit"])),
                "of the limit, %": 100 * last["limit_seconds"] / last["seconds"],
            }
        )
    return pd.DataFrame(rows)


def in_words(table: pd.DataFrame, rates: Rates) -> str:
    """The machine's rates, and which series grow how in time and in memory."""
    words = [
        f"The machine: {rates.flops / GB:,.0f} GFLOP/s in float32, {rates.memory_bytes / GB:.1f} "
        f"GB/s in memory, {rates.file_bytes / GB:.1f} GB/s from the file."
    ]
    for what in ("time", "memory"):
        kinds: dict[str, list[str]] = {kind: [] for kind in KINDS}
        for _, row in table.iterrows():
            kind = next(kind for kind, most in KINDS.items() if row[f"slope of {what}"] <= most)
            kinds[kind].append(f"{row['job']} with {row['grows with']}")
        grown = [f"{kind}: {', '.join(which)}" for kind, which in kinds.items() if which]
        words.append(f"{what.capitalize()} grows {'; '.join(grown)}.")
    return " ".join(words)


def draw(points: pd.DataFrame) -> Figure:
    """Time (dashed: its limit) and memory of each job, over how many times the smallest size."""
    from dinomix.figures.theme import COLOURS, MARKERS, panels

    jobs = list(dict.fromkeys(points["job"]))
    figure, axes = panels(2, len(jobs), ("page", 40), sharex="col", sharey="row")
    for column, job in enumerate(jobs):
        time_axis, memory_axis = axes[:, column]
        of_job = points[points["job"] == job]
        for i, (name, part) in enumerate(of_job.groupby("grows with", sort=False)):
            times = part["size"] / part["size"].iloc[0]
            style = {"color": COLOURS[i], "marker": MARKERS[i], "ms": 4, "lw": 1.3}
            first, last = part["size"].iloc[[0, -1]]
            label = f"{name}, {first:,} to {last:,}"
            time_axis.plot(times, part["seconds"], label=label, **style)
            time_axis.plot(times, part["limit_seconds"], "--", color=COLOURS[i], lw=1)
            memory_axis.plot(times, part["MiB"], **style)
        for axis, what in ((time_axis, "seconds"), (memory_axis, "MiB")):
            most = (of_job["size"] / of_job.groupby("grows with")["size"].transform("min")).max()
            ends = np.array([1, most])
            axis.plot(ends, of_job[what].min() * ends, color="0.75", lw=3, zorder=0)
            axis.set(xscale="log", yscale="log")
        memory_axis.set_xscale("log", base=2)
        memory_axis.xaxis.set_major_formatter("{x:g}")
        memory_axis.set_xlabel("times the smallest")
        time_axis.set_title(job)
        time_axis.legend(loc="lower left", bbox_to_anchor=(0, 1.12), frameon=False, fontsize=7)
    axes[0, 0].set_ylabel("seconds\n(dashed: limit)")
    axes[1, 0].set_ylabel("memory added (MiB)\n(grey: linear)")
    return figure


def main() -> None:
    from dinomix.figures import save_figure

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where files lie for the while: 1 GB")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rates = measure_rates(Path(folder))
        write_pictures(Path(folder), 32)
        measured = {series: measure(series, Path(folder)) for series in SERIES}
    points = points_table(measured, rates)
    table = growth_table(points)
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    save_figure(draw(points), options.picture)
    record("Growth: slopes, and how near the machine's limit is", table, in_words(table, rates))


if __name__ == "__main__":
    main()
