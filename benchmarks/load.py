"""What large numbers cost: a folder of 100,000 images, a file of a million descriptors.

Each row is measured in a process of its own, at a quarter of the size and at all of it: what should
not grow has the same memory in both. The reference is the plain way: a loop over the names, the
whole file in memory. (A table of 560,000 rows: gsv_table.py.)

    python benchmarks/load.py --folder /somewhere/with/2/GB
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from gsv_table import by_rows, write_city
from PIL import Image
from report import in_new_process, record
from search import K, make_queries, write_database

from dinomix import (
    ModelConfig,
    PlaceDataset,
    TestSet,
    build_model,
    describe,
    describe_to,
    open_descriptors,
    search,
)
from dinomix.datasets.layouts import read_folders

MIB = 2**20
TINY = ModelConfig("toy_vits14", 1, out_channels=1024, out_rows=4, image_size=28)


class Peak:
    """The most memory that this process has for itself while the block runs, in bytes.

    Pages of mapped files are left out, where the system tells them apart (Linux): it takes them
    back whenever it needs them.
    """

    def __enter__(self) -> "Peak":
        self.bytes = self.before = self._own()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._done.set()
        self._thread.join()
        self.bytes = max(self.bytes, self._own()) - self.before

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.bytes = max(self.bytes, self._own())

    @staticmethod
    def _own() -> int:
        status = Path("/proc/self/status")
        if not status.exists():
            return psutil.Process().memory_info().rss
        sizes = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return sum(int(sizes[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))


def write_names(folder: Path, count: int) -> None:
    """A test set of `count` database images and ten queries in the UTM layout, all empty files."""
    for side, images in (("database", count), ("queries", 10)):
        (folder / side).mkdir(parents=True)
        for i in range(images):
            name = (
                f"@{400000 + i % 1000:.2f}@{5000000 + i // 1000:.2f}@31@T@45.0@1.0@{i}@@@@@@@@.jpg"
            )
            (folder / side / name).touch()


def write_places(folder: Path, images: int) -> None:
    """A training set of one city, with empty files."""
    (folder / "Dataframes").mkdir(parents=True)
    write_city(folder, "Madeup", images // 8, images, np.random.default_rng(0))


def names_by_loop(folder: Path) -> int:
    """The plain way to a labelled test set: its sorted names, and two numbers of each."""
    found = 0
    for side in ("database", "queries"):
        names = sorted(os.listdir(folder / side))
        positions = [tuple(map(float, name.split("@")[1:3])) for name in names]
        found += len(np.array(positions))
    return found


def listing_by_loop(folder: Path) -> int:
    return sum(len(sorted(os.listdir(folder / side))) for side in ("database", "queries"))


def read_testset(folder: Path) -> int:
    test = TestSet(folder)
    return len(test.database) + len(test.queries)


def read_unlabelled(folder: Path) -> int:
    test = read_folders(folder / "database", folder / "queries")
    return len(test.database) + len(test.queries)


def read_places(folder: Path) -> int:
    return sum(map(len, PlaceDataset(folder, images_per_place=4).places))


def places_by_loop(folder: Path) -> int:
    return sum(map(len, by_rows(folder)))


def search_file(folder: Path) -> int:
    return len(search(np.load(folder / "d.npy", mmap_mode="r"), np.load(folder / "q.npy"), K)[0])


def search_at_once(folder: Path) -> int:
    """All similarities in one product, then sorted: memory of database and similarities."""
    similarities = np.load(folder / "q.npy") @ np.load(folder / "d.npy").T  # (Q, N)
    nearest = np.argpartition(-similarities, K, axis=1)[:, :K]
    order = np.argsort(-np.take_along_axis(similarities, nearest, axis=1), axis=1)
    return len(np.take_along_axis(nearest, order, axis=1))


def open_file(folder: Path) -> int:
    return len(open_descriptors(folder / "d.npy")[:10])


def read_file(folder: Path) -> int:
    return len(np.load(folder / "d.npy")[:10])


def describe_file(folder: Path) -> int:
    paths = [folder / "a.jpg"] * int((folder / "count").read_text())
    (folder / "out.npy").unlink(missing_ok=True)
    return len(describe_to(folder / "out.npy", build_model(TINY), paths, progress=False))


def describe_at_once(folder: Path) -> int:
    paths = [folder / "a.jpg"] * int((folder / "count").read_text())
    return len(describe(build_model(TINY), paths, progress=False))


def measured(function: Callable[[Path], int], folder: Path) -> tuple[int, float, float]:
    """What a function returned, seconds, and MiB that it added at its peak."""
    with Peak() as peak:
        started = time.perf_counter()
        found = function(folder)
        seconds = time.perf_counter() - started
    return found, seconds, peak.bytes / MIB


def rows(
    title: str, ours: Callable, plain: Callable, folders: dict[int, Path]
) -> list[dict[str, object]]:
    """Ours against the plain way on folders of several sizes."""
    table = []
    for count, folder in folders.items():
        found = {way: in_new_process(measured, way, folder) for way in (ours, plain)}
        if found[ours][0] != found[plain][0]:
            raise SystemExit(f"{title}: {found[ours][0]} and {found[plain][0]} found")
        (_, seconds, memory), (_, plain_seconds, plain_memory) = found[ours], found[plain]
        table.append(
            {
                "": title,
                "number": count,
                "seconds": seconds,
                "of the plain way's": seconds / plain_seconds,
                "memory, MiB": memory,
                "the plain way's": plain_memory,
            }
        )
        print(table[-1], flush=True)
    return table


def listing(root: Path, images: int) -> pd.DataFrame:
    """Data sets of many files, opened."""
    names, places = {}, {}
    for count in (images // 4, images):
        names[count], places[count] = root / f"names{count}", root / f"places{count}"
        write_names(names[count], count)
        write_places(places[count], count)
    return pd.DataFrame(
        [
            *rows("TestSet, UTM names", read_testset, names_by_loop, names),
            *rows("read_folders, no labels", read_unlabelled, listing_by_loop, names),
            *rows("PlaceDataset, one city", read_places, places_by_loop, places),
        ]
    )


def large_files(root: Path, descriptors: int, dim: int, described: int) -> pd.DataFrame:
    """Descriptor files, opened, searched and written."""
    searched, written = {}, {}
    for count in (descriptors // 4, descriptors):
        folder = searched[count] = root / f"descriptors{count}"
        folder.mkdir()
        write_database(folder / "d.npy", count, dim, "float32", 10_000)
        (folder / "d.json").write_text("{}")
        np.save(folder / "q.npy", make_queries(folder / "d.npy", 100))
    for count in (described // 4, described):
        folder = written[count] = root / f"images{count}"
        folder.mkdir()
        Image.new("RGB", (28, 28), "red").save(folder / "a.jpg")
        (folder / "count").write_text(str(count))
    return pd.DataFrame(
        [
            *rows("open_descriptors, ten rows", open_file, read_file, searched),
            *rows("search, 100 queries", search_file, search_at_once, searched),
            *rows(f"describe_to, {TINY.out_channels * TINY.out_rows} entries, from images of 28 px",
                  describe_file, describe_at_once, written),
        ]
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where made files go for the while")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--descriptors", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--described", type=int, default=8_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder)
        record(
            f"Opening {options.images:,} image files",
            listing(root, options.images),
            "The plain ways: sorted names, and two numbers out of each; for places, a loop over "
            "the CSV's rows that looks for each file. Memory is what one process adds for itself.",
        )
        record(
            f"{options.descriptors:,} descriptors of {options.dim} entries in a file",
            large_files(root, options.descriptors, options.dim, options.described),
            "The plain ways: the whole file in memory; all similarities in one product; `describe` "
            "into an array in memory. Memory is what one process adds for itself: pages of mapped "
            "files, which the system takes back at will, do not count.",
        )


if __name__ == "__main__":
    main()
