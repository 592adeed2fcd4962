"""Further splits of a finished toy city: queries of growing severity, and a drive.

```
root/images/limits/database                                    the very database of the test split
root/images/limits/queries_<condition>-<severity>/@....jpg     e.g. queries_blur-0.25
root/images/drive/database/@....jpg                            the same drive on a plain day
root/images/drive/queries_<condition>/<drive>-<frame>@....jpg  sorted by name: in driving order
root/{limits,drive}.json                                       written last: the split is complete
```
"""

import dataclasses
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain, groupby, product
from pathlib import Path

import numpy as np

from toycity import writer
from toycity.camera import Camera, heading_of
from toycity.city import City
from toycity.conditions import DAY, condition_named
from toycity.files import being_written, is_written, link_database
from toycity.work import Shot, write_photos
from toycity.writer import MappedCity, read_config

CROSSING = 12.0  # metres before and after a turn from which no frame is kept
STEADY = dataclasses.replace(DAY, turn=2.0, aside=0.3, along=0.3, zoom=0.0)


def write_limits(
    root: str | Path,
    conditions: Sequence[str] = ("blur", "lowlight", "changed"),
    severities: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    queries: int | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Render query sets by severity into the finished toy city `root`; return `root`.

    `TestSet(root, split="limits")` reads them, with conditions like "blur-0.25". A curve shows
    severity alone: spots (those of the test queries), cameras, clouds, parked cars, exposure,
    grain and the order of the files are the same at every severity of a condition. (`viewpoint`
    moves the camera further the same way; `occlusion` draws other traffic.) Resumes and is left
    alone as `write_toycity` is.

    Args:
        severities: from 0, the plain day, to 1, the condition; at most two decimals.
        queries: for each condition and severity; None takes the config's `test_queries`.

    Raises:
        FileNotFoundError, FileExistsError: `root` holds no finished toy city, or other limits.
        ValueError, KeyError: an argument that cannot be, or an unknown condition.
    """
    root = Path(root)
    queries = read_config(root).test_queries if queries is None else queries
    _check_distinct(conditions=conditions, severities=severities)
    for condition, severity in product(conditions, severities):
        condition_named(condition).at(severity)
    if long := [severity for severity in severities if round(severity, 2) != severity]:
        raise ValueError(f"severities {long} have more than two decimals: round them")
    asked = {"conditions": list(conditions), "severities": [float(s) for s in severities]}
    return _write_split(root, "limits", asked | {"queries": queries}, workers, progress)


def write_drive(
    root: str | Path,
    conditions: Sequence[str] = ("dusk", "lowlight", "night"),
    spacing: float = 3.0,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Render a drive through the finished toy city `root`, by day and under each condition.

    The route crosses the test city from west to north; every `spacing` metres a camera looks
    ahead, the same one under every condition. From one turn to the next the frames are one drive,
    numbered on from condition to condition. The database is an earlier drive along the route, on a
    plain day, from cameras that stand and turn a little differently.

    `TestSet(root, split="drive")` reads the frames in driving order, and `drive_of(test.queries)`
    tells which is which. Resumes and is left alone as `write_toycity` is. Returns `root`.

    Raises:
        FileNotFoundError, FileExistsError: `root` holds no finished toy city, or another drive.
        ValueError, KeyError: an argument that cannot be, or an unknown condition.
    """
    _check_distinct(conditions=conditions)
    for condition in conditions:
        condition_named(condition)
    if not spacing > 0:
        raise ValueError(f"spacing is {spacing}: frames lie more than 0 m apart")
    asked = {"conditions": list(conditions), "spacing": float(spacing)}
    return _write_split(Path(root), "drive", asked, workers, progress)


def drive_of(paths: Sequence[str | Path]) -> tuple[np.ndarray, np.ndarray]:
    """Which drive each frame belongs to, and its number therein, from file names: int64 (N,) each.

    Raises:
        ValueError: names the first file that is not a frame of a drive.
    """
    numbers = np.empty((2, len(paths)), np.int64)
    for i, path in enumerate(paths):
        found = re.match(r"(\d+)-(\d+)@", Path(path).name)
        if found is None:
            raise ValueError(f"{path} is not a frame of a drive: expected a name like 02-0017@...")
        numbers[:, i] = found.groups()
    return tuple(numbers)


def _check_distinct(**arguments: Sequence) -> None:
    for name, values in arguments.items():
        if not len(values) or len(set(values)) < len(values):
            raise ValueError(f"{name} is {tuple(values)}: name at least one, and none twice")


def _write_split(
    root: Path, split: str, arguments: dict, workers: int | None, progress: bool
) -> Path:
    config, manifest = read_config(root), root / f"{split}.json"
    asked = writer.definition(config) | {"arguments": arguments}
    if is_written(manifest, asked, owned=(root / "images" / split,)):
        return root
    shots = list(SPLITS[split](root, **arguments))
    with being_written(manifest, asked, len(shots)):
        if split == "limits":
            link_database(root / "images", split)
        write_photos(shots, config.size, workers, progress)
    return root


def _limits_shots(
    root: Path, conditions: Sequence[str], severities: Sequence[float], queries: int
) -> Iterator[Shot]:
    mapped = MappedCity.of(read_config(root), "test")
    seed = mapped.city.seed
    rng = np.random.default_rng([seed, writer.QUERY_DRAWS])
    asked = mapped.query_numbers(queries, rng, "queries")
    for condition, severity in product(conditions, severities):
        note = f"{condition}-{severity:.2f}"
        rng = np.random.default_rng([seed, 16, zlib.crc32(condition.encode())])
        folder = root / "images" / "limits" / f"queries_{note}"
        yield from mapped.visits(folder, asked, condition, severity, rng, note)


def _drive_shots(root: Path, conditions: Sequence[str], spacing: float) -> Iterator[Shot]:
    mapped = MappedCity.of(read_config(root), "test")
    city, images = mapped.city, root / "images" / "drive"
    rng = np.random.default_rng([city.seed, 17])
    streets = [_cameras(street, spacing) for street in _route(city, rng)]
    if not any(streets):
        raise ValueError(f"spacing is {spacing}: no frame lies on the route; take a shorter one")
    drives = [
        [(STEADY.jitter(camera, rng), int(rng.integers(2**31))) for camera in cameras]
        for cameras in streets
    ]
    for number, camera in enumerate(chain(*streets)):
        camera = DAY.jitter(camera, rng)
        path = images / "database" / writer.utm_name(city, camera, "drive", number, writer.MAPPED)
        yield Shot((city.seed, mapped.blocks, "day", 1.0), camera, number, str(path))
    for round_number, condition in enumerate(conditions):
        when = writer.timestamp(condition_named(condition), rng)
        scene = (city.seed, mapped.blocks, condition, 1.0)
        for number, frames in enumerate(drives, start=round_number * len(drives)):
            for frame, (camera, seed) in enumerate(frames):
                name = f"{number:02d}-{frame:04d}"
                file = name + writer.utm_name(city, camera, f"{condition}-{name}", frame, when)
                yield Shot(scene, camera, seed, str(images / f"queries_{condition}" / file))


SPLITS = {"limits": _limits_shots, "drive": _drive_shots}  # their photos, (root, **arguments)


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

    def point(at: float) -> np.ndarray:  # (2,)
        return np.array([np.interp(at, stations, axis) for axis in nodes.T])

    return [
        # Turns gently where the street bends.
        Camera(*point(at).tolist(), heading=heading_of(point(at + 4) - point(at - 4)) % 360)
        for at in np.arange(CROSSING, stations[-1] - CROSSING, spacing)
    ]
