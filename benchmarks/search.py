"""Searching descriptors: block by block from disk, in low precision, and approximately.

The reference is FAISS' flat index, which holds all of the database in memory. Descriptors are
those of made places: a random centre each, and images around it, so that queries have neighbours
to be told apart, as in a city.

    python benchmarks/search.py --images 100000 --dim 4096 --folder /somewhere/with/room
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from report import record

from dinomix.neighbours import search

GIB = 2**30
K = 10
PER_PLACE = 10
# As the field uses them: coarse cells and product quantisation, a graph, fewer dimensions first.
APPROXIMATE = {
    "IVF1024, PQ64, 32 cells": ("IVF1024,PQ64", "nprobe=32"),
    "IVF1024, flat, 32 cells": ("IVF1024,Flat", "nprobe=32"),
    "HNSW32": ("HNSW32,Flat", "efSearch=64"),
    "PCA256, flat": ("PCA256,Flat", ""),
}


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_database(file: Path, images: int, dim: int, dtype: str, block: int = 5000) -> None:
    """Made descriptors (images, dim) on disk, the images of a place beside each other."""
    rng = np.random.default_rng(0)
    written = np.lib.format.open_memmap(file, "w+", dtype, (images, dim))
    for start in range(0, images, block):
        count = min(block, images - start)
        written[start : start + count] = around(rng, -(-count // PER_PLACE), dim)[:count]
    written.flush()


def around(rng: np.random.Generator, places: int, dim: int) -> np.ndarray:
    """PER_PLACE descriptors around each of `places` centres: similarities of about 0.6 to 0.8."""
    centres = np.repeat(rng.standard_normal((places, dim), np.float32), PER_PLACE, axis=0)
    spread = 0.4 + 0.4 * rng.random((len(centres), 1), np.float32)
    return unit(centres + spread * rng.standard_normal(centres.shape, np.float32))


def make_queries(file: Path, count: int) -> np.ndarray:
    """Queries near to database images that are drawn at random."""
    database = np.load(file, mmap_mode="r")
    rng = np.random.default_rng(1)
    rows = np.sort(rng.choice(len(database), count, replace=False))
    seen = database[rows].astype(np.float32)
    noise = rng.standard_normal(seen.shape, np.float32) / np.sqrt(seen.shape[1])
    return unit(seen + 0.8 * noise).astype(np.float32)


def flat(file: Path, queries: np.ndarray, block_bytes: int) -> tuple:
    import faiss

    database = np.load(file).astype(np.float32, copy=False)
    index = faiss.IndexFlatIP(database.shape[1])
    index.add(database)
    started = time.perf_counter()
    return *index.search(queries, K), time.perf_counter() - started


def streamed(file: Path, queries: np.ndarray, block_bytes: int, scan: str = "float32") -> tuple:
    database = np.load(file, mmap_mode="r")
    started = time.perf_counter()
    found = search(database, queries, K, scan=scan, block_bytes=block_bytes)
    return *found, time.perf_counter() - started


def low_precision(file: Path, queries: np.ndarray, block_bytes: int) -> tuple:
    return streamed(file, queries, block_bytes, "bfloat16")


EXACT: dict[str, Callable] = {
    "FAISS flat, in memory": flat,
    "streamed from disk": streamed,
    "streamed, bfloat16 first": low_precision,
}


def measured(name: str, file: Path, queries: np.ndarray, block_bytes: int) -> dict:
    """One way of exact search, in a process of its own: what it found, seconds, memory it added."""
    search(queries[:2], queries[:2], 1)  # imports
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    similarities, ranked, seconds = EXACT[name](file, queries, block_bytes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"found": (similarities, ranked), "seconds": seconds, "memory": (peak - before) / GIB}


def exact_table(file: Path, queries: np.ndarray, block_bytes: int) -> tuple[pd.DataFrame, tuple]:
    """The ways of exact search side by side, and what the reference found."""
    runs = {}
    for name in EXACT:
        with get_context("spawn").Pool(1) as pool:
            runs[name] = pool.apply(measured, (name, file, queries, block_bytes))
        print(f"{name}: {runs[name]['seconds']:.1f} s", flush=True)
    reference = next(iter(runs.values()))
    rows = []
    for name, run in runs.items():
        similarities, ranked = run["found"]
        off = np.abs(similarities - reference["found"][0]).max()
        if off > 1e-5:
            raise SystemExit(f"{name} is not exact: a similarity differs by {off:.1g}")
        rows.append(
            {
                "search": name,
                "queries/s": len(queries) / run["seconds"],
                "speed": reference["seconds"] / run["seconds"],
                "memory, GiB": run["memory"],
                "same neighbours, %": 100 * float((ranked == reference["found"][1]).mean()),
            }
        )
    return pd.DataFrame(rows), reference["found"]


def approximate_table(file: Path, queries: np.ndarray, exact: np.ndarray) -> pd.DataFrame:
    """FAISS' approximate indexes: what they lose, keep in memory, and gain.

    Recall is the share of the K exact neighbours that are found.
    """
    import faiss

    database = np.load(file).astype(np.float32, copy=False)
    started = time.perf_counter()
    search(database, queries, K)
    flat_seconds = time.perf_counter() - started
    rows = []
    for name, (factory, parameters) in APPROXIMATE.items():
        index = faiss.index_factory(database.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        started = time.perf_counter()
        index.train(database[:: max(1, len(database) // 50_000)])
        index.add(database)
        built = time.perf_counter() - started
        if parameters:
            faiss.ParameterSpace().set_index_parameters(index, parameters)
        started = time.perf_counter()
        _, ranked = index.search(queries, K)
        seconds = time.perf_counter() - started
        found = np.mean([np.isin(e, r).mean() for e, r in zip(exact, ranked, strict=True)])
        first = np.mean([e[0] in r[:1] for e, r in zip(exact, ranked, strict=True)])
        rows.append(
            {
                "index": name,
                "first neighbour found, %": 100 * float(first),
                f"of {K} found, %": 100 * float(found),
                "bytes an image": len(faiss.serialize_index(index)) // len(database),
                "queries/s": len(queries) / seconds,
                "speed": flat_seconds / seconds,
                "built in s": built,
            }
        )
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--block-mib", type=int, default=256)
    parser.add_argument("--folder", type=Path, help="where the descriptors lie for the while")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        file = Path(folder) / "database.npy"
        write_database(file, options.images, options.dim, options.dtype)
        queries = make_queries(file, options.queries)
        table, (_, ranked) = exact_table(file, queries, options.block_mib * 2**20)
        size = f"{options.images:,} descriptors of {options.dim} entries ({options.dtype})"
        record(f"Exact search among {size}", table, "Memory is what the search added at its peak.")
        record(f"Approximate search among {size}", approximate_table(file, queries, ranked))


if __name__ == "__main__":
    main()
