"""What the ablation over mixer depth and descriptor dimension costs, against running it naively.

Naively: one `train` after the other, each with all threads of this machine, each computing the
frozen blocks of every image in every epoch anew. Against that a `Study`: frozen blocks computed
once for all variants, variants side by side on single-threaded processes. Same variants, same
recipe, same data, one after the other in one run. (Both start without a single run; the study's
time includes starting its processes and filling the cache.)

    python benchmarks/ablation.py data/toycity

appends a table to benchmarks/RESULTS.md.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from report import record

import dinomix
from dinomix.runs.cluster import available_workers
from dinomix.study.results import overall
from dinomix.study.study import Study, variants

DEPTHS = range(8)
SHAPES = ((64, 2), (128, 2), (128, 4), (256, 4), (512, 4), (1024, 4), (2048, 4))


def ablation(epochs: int, seeds: list[int]) -> list:
    """All variants; the one that both series hold (L = 2, 512-d) stands there once."""
    methods = {f"L = {depth}": {"mix_depth": depth} for depth in DEPTHS}
    methods |= {f"{d * r}-d": {"out_channels": d, "out_rows": r} for d, r in SHAPES if d * r != 512}
    recipe = dinomix.TrainConfig.preset("toy", epochs=epochs)
    return variants(methods, dinomix.PRESETS["dino_mix_toy"], recipe, seeds=seeds)


def naively(study: Study, listed: list) -> tuple[pd.DataFrame, float]:
    """Tables and seconds of the plain loop."""
    plain = [
        dataclasses.replace(v, train=dataclasses.replace(v.train, cache_prefix=False))
        for v in listed
    ]
    started = time.perf_counter()
    tables = []
    for variant in plain:
        tables.append(study.test(variant))
        print(f"  {variant.method}, seed {variant.seed}", flush=True)
    return pd.concat(tables), time.perf_counter() - started


def studied(study: Study, listed: list) -> tuple[pd.DataFrame, float]:
    """Tables and seconds of the study."""
    started = time.perf_counter()
    return study.run(listed, progress=False), time.perf_counter() - started


def report(naive: tuple, study: tuple, epochs: int, count: int) -> None:
    """Write the benchmark's section of RESULTS.md."""
    recalls = [
        overall(t[t["k"] == 1]).groupby("method", sort=False)["recall"] for t, _ in (naive, study)
    ]
    first, second = (group.mean() for group in recalls)
    difference = (second - first).abs()
    ways = {
        f"plain loop, {torch.get_num_threads()} threads": naive[1],
        f"study, {available_workers()} processes, cached prefix": study[1],
    }
    rows = [(name, seconds, seconds / naive[1]) for name, seconds in ways.items()]
    note = (
        f"R@1 of the same variant differs between the two by {difference.mean():.1f} points on "
        f"average, at most {difference.max():.1f}"
    )
    spread = (recalls[0].max() - recalls[0].min()).mean()
    if recalls[0].size().max() > 1:
        note += f"; between the seeds of one variant it spreads over {spread:.1f}"
    record(
        f"Ablation over depth and dimension: {count} runs of {epochs} epochs, toy_vits14",
        pd.DataFrame(rows, columns=["", "seconds", "ratio"]),
        f"{note}.",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("city", type=Path, help="a rendered toy city (make demo renders one)")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    listed = ablation(options.epochs, options.seeds)
    with tempfile.TemporaryDirectory() as folder:
        city = options.city
        fast, slow = (
            Study(city / "train", city, [city], Path(folder) / name) for name in ("study", "plain")
        )
        study = studied(fast, listed)
        print(f"study: {study[1]:.0f} s; now the plain loop", flush=True)
        naive = naively(slow, listed)
    report(naive, study, options.epochs, len(listed))


if __name__ == "__main__":
    main()
