"""A drive through the test city, for recognition from sequences of frames.

```
root/images/drive/database/@....jpg                            the same drive on a plain day
root/images/drive/queries_<condition>/<drive>-<frame>@....jpg  sorted by name: in driving order
root/drive.json                                                written last: the set is complete
```
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from toycity.camera import Camera
from toycity.city import City
from toycity.conditions import DAY, condition_named
from toycity.files import being_written, is_written, write_photos
from toycity.layouts import MappedCity, month, utm_name, year
from toycity.work import Shot
from toycity.writer import definition, read_config

MANIFEST = "drive.json"
SPLIT = "drive"
CROSSING = 12.0  # metres before and after a turn from which no frame is kept
STEADY = dataclasses.replace(DAY, turn=2.0, aside=0.3, along=0.3, zoom=0.0)


def write_drive(
    root: str | Path,
    conditions: Sequence[str] = ("dusk", "lowlight", "night"),
    spacing: float = 3.0,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Render a drive through the finished toy city `root`, by day and under each condition.

    The route crosses the test city from its west side to its north side and turns at crossings;
    every `spacing` metres a camera looks ahead along the street. From one turn to the next the
    frames are one drive. Drives are numbered on from condition to condition, so that a number
    stands for frames that follow each other. The route, its cameras and their random seeds are the
    same under every condition. As in data sets of drives, the database is an earlier drive along
    the same route, on a plain day, and from cameras that stand and turn a little differently.

    `TestSet(root, split="drive")` reads the frames in driving order, and `drive_of(test.queries)`
    tells which is which. Resumes and is left alone as `write_toycity` is. Returns `root`.

    Raises:
        FileNotFoundError: `root` holds no finished toy city.
        FileExistsError: another drive is there, or a folder of that name which is not ours.
        ValueError: no condition, one twice, or a spacing that is not above 0 or leaves no frame.
        KeyError: an unknown condition.
    """
    root = Path(root)
    config = read_config(root)
    if not len(conditions) or len(set(conditions)) < len(conditions):
        raise ValueError(f"conditions is {tuple(conditions)}: name at least one, and none twice")
    for condition in conditions:
        condition_named(condition)
    if not spacing > 0:
        raise ValueError(f"spacing is {spacing}: frames lie more than 0 m apart")
    chosen = {"conditions": list(conditions), "spacing": float(spacing)}
    asked = definition(config) | {"arguments": chosen}
    if is_written(root / MANIFEST, asked, owned=(root / "images" / SPLIT,)):
        return root
    shots = list(drive_shots(root, **chosen))
    if not shots:
        raise ValueError(f"spacing is {spacing}: no frame lies on the route; take a shorter one")
    with being_written(root / MANIFEST, asked, len(shots)):
        write_photos(shots, config.size, workers, progress)
    return root


def drive_of(paths: Sequence[str | Path]) -> tuple[np.ndarray, np.ndarray]:
    """Which drive each frame belongs to, and its number therein, from the file names.

    Returns:
        int64 (N,) and int64 (N,).

    Raises:
        ValueError: names the first file that is not a frame of a drive.
    """
    numbers = []
    for path in paths:
        found = re.match(r"(\d+)-(\d+)@", Path(path).name)
        if found is None:
            raise ValueError(
                f"{path} is not a frame of a drive: expected a name like 02-0017@0552027.53@..., "
                "as write_drive gives them"
            )
        numbers.append([int(number) for number in found.groups()])
    drives, frames = np.array(numbers, dtype=np.int64).reshape(-1, 2).T
    return drives, frames


def drive_shots(root: Path, conditions: Sequence[str], spacing: float) -> Iterator[Shot]:
    """Every frame of the drive, which is one of the toy city in `root`."""
    mapped = MappedCity.of(read_config(root), "test")
    city = mapped.city
    rng = np.random.default_rng([city.seed, 17])
    streets = [_cameras(street, spacing) for street in _route(city, rng)]
    drives = [
        [(STEADY.jitter(camera, rng), int(rng.integers(2**31))) for camera in cameras]
        for cameras in streets
    ]
    for number, camera in enumerate(camera for cameras in streets for camera in cameras):
        camera = DAY.jitter(camera, rng)
        name = utm_name(city, camera, "drive", number, "201506")
        path = root / "images" / SPLIT / "database" / name
        yield Shot(city.seed, mapped.blocks, "day", 1.0, camera, number, str(path))
    for round_number, condition in enumerate(conditions):
        when = f"{year(condition)}{month(condition_named(condition), rng):02d}"
        folder = root / "images" / SPLIT / f"queries_{condition}"
        scene = (city.seed, mapped.blocks, condition, 1.0)
        for number, frames in enumerate(drives, start=round_number * len(drives)):
            for frame, (camera, seed) in enumerate(frames):
                name = f"{number:02d}-{frame:04d}"
                path = folder / (name + utm_name(city, camera, f"{condition}-{name}", frame, when))
                yield Shot(*scene, camera, seed, str(path))


def _route(city: City, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Runs along one street each, (n, 2) crossings: now east, now north, to the far border."""
    columns = len(city.streets[0].nodes) - 1
    rows = len(city.streets) - columns - 2
    between = ["east"] * (columns - 2) + ["north"] * (rows - 2)
    moves = ["east", *(between[i] for i in rng.permutation(len(between))), "north"]
    row, column = 1, 0  # the first street inside the ring road, at its western end
    for move, run in groupby(moves):
        ahead = len(list(run))
        if move == "east":
            yield city.streets[row].nodes[column : column + ahead + 1]
            column += ahead
        else:
            yield city.streets[rows + 1 + column].nodes[row : row + ahead + 1]
            row += ahead


def _cameras(nodes: np.ndarray, spacing: float) -> list[Camera]:
    """Cameras every `spacing` metres along crossings (n, 2), looking along the street."""
    stations = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(nodes, axis=0), axis=1))])

    def point(at: np.ndarray) -> np.ndarray:  # (k,) metres -> (k, 2)
        return np.stack([np.interp(at, stations, nodes[:, axis]) for axis in (0, 1)], axis=1)

    at = np.arange(CROSSING, stations[-1] - CROSSING, spacing)
    east, north = (point(at + 4) - point(at - 4)).T  # turns gently where the street bends
    headings = np.degrees(np.arctan2(east, north)) % 360
    spots = zip(point(at).tolist(), headings.tolist(), strict=True)
    return [Camera(x, y, heading=heading) for (x, y), heading in spots]
