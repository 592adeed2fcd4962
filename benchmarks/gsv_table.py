"""What loading a data set of GSV-Cities' size costs, against a plain loop over its rows.

Both read the same made set: 23 cities, about 67,000 places and 560,000 images (empty files), and
both find the same places: images named as published, every file looked for, places with too few
images left out. Each has a process of its own, so that its peak of memory can be read.

    python benchmarks/gsv_table.py

appends a table to benchmarks/RESULTS.md. It writes 560,000 empty files into a temporary folder;
`--folder` says where, for example in a file system in memory.
"""

import argparse
import hashlib
import resource
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
from report import in_new_process, record

from dinomix.data import COLUMNS, PlaceDataset
from dinomix.datasets.benchmarks import GSV_CITIES

LETTERS = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))
FEWEST = 4  # images a place must have


def write_city(root: Path, city: str, places: int, images: int, rng: np.random.Generator) -> int:
    """One made city: its CSV, rows mixed as in the published ones, and its images, empty."""
    counts = np.minimum(3 + rng.geometric(1 / (images / places - 3), places), 40)
    ids = np.repeat(np.arange(places), counts)
    rows = len(ids)
    table = pd.DataFrame(
        {
            "place_id": ids,
            "year": rng.integers(2007, 2022, rows),
            "month": rng.integers(1, 13, rows),
            "northdeg": rng.integers(0, 360, rows),
            "city_id": city,
            "lat": 45 + rng.normal(0, 0.1, rows),
            "lon": 3 + rng.normal(0, 0.1, rows),
            "panoid": ["".join(line) for line in LETTERS[rng.integers(0, 64, (rows, 22))]],
        }
    )
    table = table.sample(frac=1, random_state=int(rng.integers(2**31)))
    table.to_csv(root / "Dataframes" / f"{city}.csv", index=False)
    folder = root / "Images" / city
    folder.mkdir(parents=True)
    for row in table.astype({"lat": str, "lon": str}).itertuples(index=False):
        (folder / image_name(row)).touch()
    return rows


def image_name(row: tuple) -> str:
    """The published name of a row's image."""
    return (
        f"{row.city_id}_{row.place_id:07d}_{row.year}_{row.month:02d}_{row.northdeg:03d}"
        f"_{row.lat}_{row.lon}_{row.panoid}.jpg"
    )


def by_rows(root: Path) -> list[np.ndarray]:
    """Paths of each place's images, by a plain loop over all rows."""
    places = defaultdict(list)
    for csv in sorted((root / "Dataframes").glob("*.csv")):
        table = pd.read_csv(csv, dtype={"lat": str, "lon": str, "panoid": str})[COLUMNS]
        for row in table.itertuples(index=False):
            path = f"Images/{csv.stem}/{image_name(row)}"
            if not (root / path).is_file():
                raise FileNotFoundError(path)
            places[csv.stem, row.place_id].append(path)
    return [np.array(places[key]) for key in sorted(places) if len(places[key]) >= FEWEST]


def by_package(root: Path) -> list[np.ndarray]:
    """The same by `PlaceDataset`."""
    return PlaceDataset(root, images_per_place=FEWEST).places


def measured(load: str, root: Path) -> dict[str, float | str]:
    """Seconds by the clock and of the processor; MB that loading adds at its peak, and those of the
    whole process; what was found."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # what ru_maxrss counts in, per MB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    started, busy_before = time.perf_counter(), time.process_time()
    places = {"plain loop": by_rows, "PlaceDataset": by_package}[load](root)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy_before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    digest = hashlib.sha256()
    for paths in places:
        digest.update("\n".join(p if isinstance(p, str) else p.decode() for p in paths).encode())
    found = f"{len(places):,} places, {sum(map(len, places)):,} images, {digest.hexdigest()[:8]}"
    return {"seconds": seconds, "busy": busy, "added": peak - before, "peak": peak, "found": found}


def report(found: dict[str, dict], rows: int) -> None:
    """Write the benchmark's section of RESULTS.md."""
    reference = found["plain loop"]
    table = [
        {
            "": name,
            "seconds": one["seconds"],
            "of the processor": one["busy"],
            "ratio of these": one["busy"] / reference["busy"],
            "memory, MB": one["added"],
            "ratio of memory": one["added"] / reference["added"],
            "whole process, MB": one["peak"],
        }
        for name, one in found.items()
    ]
    record(
        f"Loading GSV-Cities: {rows:,} images in {len(GSV_CITIES)} cities",
        pd.DataFrame(table),
        "A made set in memory, file names of published length; both find "
        f"{reference['found'].rsplit(',', 1)[0]}. Memory is what loading adds to a process that "
        "has imported everything.",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the made set goes for the while")
    parser.add_argument("--places", type=int, default=67_000)
    parser.add_argument("--images", type=int, default=560_000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder)
        (root / "Dataframes").mkdir()
        shares = [part // len(GSV_CITIES) for part in (options.places, options.images)]
        rows = sum(write_city(root, city, *shares, rng) for city in GSV_CITIES)
        found = {}
        for load in ("plain loop", "PlaceDataset"):
            found[load] = in_new_process(measured, load, root)
            print(load, found[load], flush=True)
    if len({one["found"] for one in found.values()}) > 1:
        raise SystemExit("the two do not find the same places")
    report(found, rows)


if __name__ == "__main__":
    main()
