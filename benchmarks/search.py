"""Searching descriptors: block by block from disk, in low precision, and approximately.

The reference is FAISS' flat index, which holds all of the database in memory. Descriptors are
those of made places: centres of areas, places around them, images around these, so that queries
have neighbours to be told apart, as in a city. Their variance is not spread evenly: it falls over
DIRECTIONS directions, turned at random, as a model's does (a trained DINO-Mix of 4096 dimensions
on the toy city has 93 % of it in 128 directions, so PCA loses less there than here).

    python benchmarks/search.py --images 200000 --folder /somewhere/with/room
    python benchmarks/search.py --images 2800000 --dtype float16 --flat-images 200000 --exact-only
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from report import forget_cached, in_new_process, record, timed

from dinomix.figures import save_figure
from dinomix.figures.theme import COLOURS, MARKERS, panels
from dinomix.scale.approximate import ApproximateIndex
from dinomix.scale.search import search
from dinomix.study.costs import peak_memory

GIB = 2**30
FIGURE = Path(__file__).parents[1] / "figures/benchmarks/search.png"
K = 10
PER_PLACE, PER_AREA = 5, 100  # images
DIRECTIONS = 1024
# As the field uses them: coarse cells, product quantisation, a graph, fewer dimensions first.
# Name: factory string, parameters, and whether candidates are compared again from the file.
APPROXIMATE = {
    "half the bytes": ("SQfp16", "", False),
    "PCA": ("PCA512,Flat", "", False),
    "cells": ("IVF1024,Flat", "nprobe=32", False),
    "cells, PQ": ("IVF1024,PQ64", "nprobe=32", False),
    "cells, PQ, compared again": ("IVF1024,PQ64", "nprobe=32", True),
    "PCA, cells, PQ": ("PCA512,IVF1024,PQ128", "nprobe=32", False),
    "PCA, cells, PQ, compared again": ("PCA512,IVF1024,PQ128", "nprobe=32", True),
    "graph": ("HNSW32,Flat", "efSearch=64", False),
    "PCA, graph": ("PCA512,HNSW32,Flat", "efSearch=64", False),
    "PCA, graph, compared again": ("PCA512,HNSW32,Flat", "efSearch=64", True),
}


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_database(file: Path, images: int, dim: int, dtype: str, block: int = 20_000) -> None:
    """Made descriptors (images, dim) on disk, the images of a place beside each other."""
    rng = np.random.default_rng(0)
    directions = min(DIRECTIONS, dim)
    falling = np.arange(1, directions + 1, dtype=np.float32)[:, None] ** -0.25  # variance: 1/sqrt
    turned = np.linalg.qr(rng.standard_normal((dim, directions), np.float32))[0].T  # (s, D)
    basis = torch.from_numpy(falling * turned)
    written = np.lib.format.open_memmap(file, "w+", dtype, (images, dim))
    for start in range(0, images, block):
        count = min(block, images - start)
        latent = around(rng, count, directions)  # (n, s)
        rows = torch.nn.functional.normalize(torch.from_numpy(latent) @ basis)  # (n, D)
        written[start : start + count] = rows.numpy()
    written.flush()


def around(rng: np.random.Generator, images: int, dim: int) -> np.ndarray:
    """Points (images, dim): similarities of about 0.7 within a place, and 0.5 within an area."""
    areas = rng.standard_normal((-(-images // PER_AREA), dim), np.float32)
    places = rng.standard_normal((-(-images // PER_PLACE), dim), np.float32)
    points = np.repeat(areas, PER_AREA, axis=0)[:images]
    points += 0.65 * np.repeat(places, PER_PLACE, axis=0)[:images]
    spread = 0.6 + 0.4 * rng.random((images, 1), np.float32)
    return points + spread * rng.standard_normal(points.shape, np.float32)


def make_queries(file: Path, count: int) -> np.ndarray:
    """Database images drawn at random, moved as far as two other images differ, times 0.8."""
    database = np.load(file, mmap_mode="r")
    drawn = np.random.default_rng(1).choice(len(database), 3 * count, replace=False)
    seen, a, b = np.split(np.stack([database[i] for i in drawn]).astype(np.float32), 3)
    return unit(seen + 0.8 * unit(a - b)).astype(np.float32)


def flat(file: Path, queries: np.ndarray, block_bytes: int, repeats: int) -> tuple:
    import faiss

    database = np.load(file).astype(np.float32, copy=False)
    index = faiss.IndexFlatIP(database.shape[1])
    index.add(database)
    del database
    return repeated(lambda: index.search(queries, K), repeats)


def streamed(
    file: Path, queries: np.ndarray, block_bytes: int, repeats: int, scan: str = "float32"
) -> tuple:
    database = np.load(file, mmap_mode="r")
    way = partial(search, database, queries, K, scan=scan, block_bytes=block_bytes)
    return repeated(way, repeats, before=lambda: forget_cached(file))


def repeated(way: Callable, repeats: int, before: Callable = lambda: None) -> tuple:
    """What a way of search finds, and its median seconds."""
    found, seconds = [], []
    for _ in range(repeats):
        before()
        seconds.append(timed(lambda: found.append(way())))
    return found[-1], statistics.median(seconds)


FLAT = "FAISS flat, in memory"
EXACT: dict[str, Callable] = {
    FLAT: flat,
    "streamed from disk": streamed,
    "streamed, bfloat16 first": partial(streamed, scan="bfloat16"),
}


def measured(name: str, file: Path, queries: np.ndarray, block_bytes: int, repeats: int) -> dict:
    """One way of exact search, in a process of its own: what it found, seconds, memory it added."""
    search(queries[:2], queries[:2], 1)  # imports
    before = peak_memory()
    found, seconds = EXACT[name](file, queries, block_bytes, repeats)
    return {"found": found, "seconds": seconds, "memory": (peak_memory() - before) / GIB}


def exact_table(
    file: Path, part: Path, queries: np.ndarray, block_bytes: int, repeats: int
) -> tuple[pd.DataFrame, np.ndarray]:
    """The ways of exact search side by side, and the neighbours they found.

    FAISS searches `part`; if that is not the whole `file`, its time is scaled to it.
    """
    images = len(np.load(file, mmap_mode="r"))
    runs = {}
    for name in EXACT:
        searched = part if name == FLAT else file
        run = in_new_process(measured, name, searched, queries, block_bytes, repeats)
        run["seconds"] *= images / len(np.load(searched, mmap_mode="r"))
        print(f"{name}: {run['seconds']:.1f} s", flush=True)
        runs[name] = run
    _check_equal({name: run for name, run in runs.items() if part == file or name != FLAT})
    table = pd.DataFrame(
        [
            {
                "search": name,
                "seconds": run["seconds"],
                "queries/s": len(queries) / run["seconds"],
                "speed": runs[FLAT]["seconds"] / run["seconds"],
                "memory, GiB": run["memory"],
            }
            for name, run in runs.items()
        ]
    )
    return table, runs["streamed from disk"]["found"][1]


def _check_equal(runs: dict[str, dict]) -> None:
    """Stop where one way found other similarities than the first."""
    similarities, ranked = next(iter(runs.values()))["found"]
    for name, run in runs.items():
        off = np.abs(run["found"][0] - similarities).max()
        same = 100 * (run["found"][1] == ranked).mean()
        print(f"{name}: similarities differ by {off:.1g} at most, {same:.2f} % same neighbours")
        if off > 1e-5:
            raise SystemExit(f"{name} is not exact")


def approximate_table(file: Path, queries: np.ndarray, exact: np.ndarray) -> pd.DataFrame:
    """FAISS' approximate indexes: what they lose, keep in memory, and gain.

    "10 found" is the share of the K exact neighbours that are found, recall@K of the index.
    """
    database = np.load(file, mmap_mode="r")
    flat_seconds = flat(file, queries, 0, 1)[1]
    rows, built = [], {}
    for name, (factory, parameters, again) in APPROXIMATE.items():
        if factory not in built:
            started = time.perf_counter()
            index = ApproximateIndex.build(database, factory)
            built = {factory: (index, time.perf_counter() - started, _bytes(index, file))}
        index, build_seconds, size = built[factory]
        source = database if again else None
        started = time.perf_counter()
        _, ranked = index.search(queries, K, parameters=parameters, database=source)
        seconds = time.perf_counter() - started
        found = [np.isin(e, r).mean() for e, r in zip(exact, ranked, strict=True)]
        rows.append(
            {
                "index": name,
                "factory": factory + (f" ({parameters})" if parameters else ""),
                "first found, %": 100 * float((exact[:, 0] == ranked[:, 0]).mean()),
                f"{K} found, %": 100 * float(np.mean(found)),
                "bytes an image": round(size / len(database)),
                "queries/s": len(queries) / seconds,
                "speed": flat_seconds / seconds,
                "built in s": build_seconds,
            }
        )
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def _bytes(index: ApproximateIndex, beside: Path) -> int:
    saved = beside.with_suffix(".faiss")
    index.save(saved)
    size = saved.stat().st_size
    saved.unlink()
    return size


def draw(table: pd.DataFrame) -> Figure:
    """What is found over speed, the bytes of an image beside each index."""
    figure, ((axis,),) = panels(1, 1, ("page", 34))
    ending = ", compared again"
    again = table["index"].str.endswith(ending)
    parts = {"index alone": ~again, "compared again": again}
    looks = zip(MARKERS, COLOURS, strict=False)
    for (label, rows), (marker, colour) in zip(parts.items(), looks, strict=False):
        shown, look = table[rows], {"marker": marker, "color": colour, "label": label}
        axis.scatter(shown["queries/s"], shown[f"{K} found, %"], **look)
    middle = np.sqrt(table["queries/s"].min() * table["queries/s"].max())
    for (_, row), above in zip(table.iterrows(), again, strict=True):
        right = row["queries/s"] < middle  # of its point is the text, or left
        axis.annotate(
            f"{row['index'].removesuffix(ending)}, {row['bytes an image']:,} B",
            (row["queries/s"], row[f"{K} found, %"]),
            (6 if right else -6, 4 if above else -9),
            textcoords="offset points",
            ha="left" if right else "right",
            fontsize=7,
        )
    axis.set(xscale="log", xlabel="queries a second", ylabel=f"of the {K} exact neighbours, %")
    axis.margins(x=0.15, y=0.08)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--block-mib", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="where the descriptors lie for the while")
    parser.add_argument("--keep", type=Path, help="a file of descriptors, made if it is not there")
    parser.add_argument(
        "--flat-images", type=int, help="let FAISS search so many; its time is scaled to all"
    )
    parser.add_argument("--exact-only", action="store_true", help="no approximate indexes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        file = part = options.keep or Path(folder) / "database.npy"
        if not file.exists():
            write_database(file, options.images, options.dim, options.dtype)
        note = f"Median of {options.repeats}. Memory is what the search adds at its peak. "
        note += "Nothing of the file is cached before."
        if options.flat_images:
            part = Path(folder) / "part.npy"
            np.save(part, np.load(file, mmap_mode="r")[: options.flat_images])
            note += f" FAISS searched {options.flat_images:,} of them; its time is scaled."
        queries = make_queries(file, options.queries)
        table, ranked = exact_table(file, part, queries, options.block_mib * 2**20, options.repeats)
        size = f"{options.images:,} descriptors of {options.dim} entries ({options.dtype})"
        record(f"Exact search among {size}, {options.queries:,} queries", table, note)
        if not options.exact_only:
            table = approximate_table(file, queries, ranked)
            title = f"Approximate search among {size}, {options.queries:,} queries"
            note = "Speed against FAISS' flat index. ![](../figures/benchmarks/search.png)"
            record(title, table, note)
            save_figure(draw(table), FIGURE)


if __name__ == "__main__":
    main()
