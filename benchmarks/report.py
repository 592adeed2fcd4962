"""What benchmarks share: seconds, processes of their own, and a section of RESULTS.md."""

import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch

RESULTS = Path(__file__).with_name("RESULTS.md")
VERSIONS = ("torch", "faiss-cpu", "numpy", "pandas")


def record(title: str, table: pd.DataFrame, note: str = "") -> None:
    """Print a section and append it to RESULTS.md: the command, the machine, the table, a note.

    Args:
        table: text and numbers; numbers are shown with three digits.
    """
    command = f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip()
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    lines = [
        f"## {title}",
        "",
        f"`{command}`; {machine()}, {time.strftime('%Y-%m-%d')}.",
        "",
        *(f"| {' | '.join(row)} |" for row in [list(table), ["---"] * table.shape[1], *rows]),
        *(["", note] if note else []),
        "",
    ]
    text = "\n".join(lines)
    print(text)
    with RESULTS.open("a") as file:
        file.write("\n" + text)


def machine() -> str:
    """Processor, cores, GPU and the versions that matter."""
    gpu = f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""
    packages = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    return f"{platform.machine()}, {cores()} cores{gpu}, {packages}"


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def timed(action: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def in_new_process(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """What a function returns in a process whose peak of memory is the function's own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args, kwargs)


def forget_cached(file: Path) -> None:
    """Let the system drop what it keeps of a file in memory, so that the disk is read."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
