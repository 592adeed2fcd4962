"""Many unlabelled street views of other cities: what the stand-in backbone is pre-trained on."""

import csv
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from toycity.camera import Camera
from toycity.city import City, make_city
from toycity.conditions import CONDITIONS, condition_named
from toycity.config import PRETRAIN_SEEDS, TEST_SEED, TRAIN_SEEDS, VAL_SEED
from toycity.files import atomic_path, is_written, write_text
from toycity.scene import Photo
from toycity.work import Shot, render_shots

COLUMNS = ("city", "condition", "spot", "x", "y", "heading", "pitch", "fov")


def write_views(
    folder: str | Path,
    seeds: Sequence[int] = PRETRAIN_SEEDS[:8],
    images: int = 20_000,
    image_size: int | tuple[int, int] = 112,
    *,
    conditions: Sequence[str] = tuple(CONDITIONS),
    group: int = 1,
    blocks: int = 4,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Render `images` views at random spots of the cities of `seeds`, in random conditions.

    Writes `views.npy`, uint8 (images, H, W, 3), and returns its path; `views.csv` with the camera
    of each row; and last `views.json` with the arguments. Every `group` consecutive rows show one
    spot through one camera, in different conditions if there are enough, as a webcam does. What is
    there is left as it is; after an interruption all is rendered anew.

    Raises:
        ValueError, KeyError: a number below 1, a seed of the study's cities, an unknown condition.
        FileExistsError: the folder holds views made with other arguments.
    """
    folder = Path(folder)
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    for name, value in (("images", images), ("group", group), ("image_size", min(size))):
        if value < 1:
            raise ValueError(f"{name} is {value}: it must be at least 1")
    studied = sorted(set(seeds) & {*TRAIN_SEEDS, VAL_SEED, TEST_SEED})
    if studied or not len(seeds):
        raise ValueError(
            f"seeds {list(seeds)} hold the study's own {studied}: take some of PRETRAIN_SEEDS, "
            f"{PRETRAIN_SEEDS[0]} to {PRETRAIN_SEEDS[-1]}"
        )
    for name in conditions:
        condition_named(name)
    asked = {"seeds": list(seeds), "images": images, "image_size": list(size)}
    asked |= {"conditions": list(conditions), "group": group, "blocks": blocks}
    target, manifest = folder / "views.npy", folder / "views.json"
    if is_written(manifest, asked, owned=()):
        return target
    shots, rows = _plan(seeds, images, conditions, group, blocks)
    with atomic_path(target) as partial_file:
        np.lib.format.open_memmap(partial_file, "w+", np.uint8, (images, *size, 3))
        if hasattr(os, "posix_fallocate"):  # else a full disk ends the process with a bus error
            with partial_file.open("rb+") as file:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(partial_file))
        render_shots(shots, partial(_store, str(partial_file)), size, workers, progress)
    with atomic_path(folder / "views.csv") as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    write_text(manifest, json.dumps(asked, indent=1))
    return target


def _plan(
    seeds: Sequence[int], images: int, conditions: Sequence[str], group: int, blocks: int
) -> tuple[list[Shot], list[tuple]]:
    """The shots, their numbers as targets, and a row of `COLUMNS` for each."""
    cities = {seed: make_city(seed, blocks) for seed in seeds}
    rng = np.random.default_rng([*seeds, 13])
    shots, rows = [], []
    for spot in range(-(-images // group)):
        city = cities[seeds[rng.integers(len(seeds))]]
        camera = random_camera(city, rng)
        order = rng.permutation(len(conditions))
        for i in range(min(group, images - len(shots))):
            name, index = conditions[order[i % len(order)]], len(shots)
            shots.append(Shot((city.seed, blocks, name, 1.0), camera, index, index))
            pose = (camera.x, camera.y, camera.heading, camera.pitch, camera.fov)
            rows.append((city.seed, name, spot, *(round(v, 3) for v in pose)))
    return shots, rows


def random_camera(city: City, rng: np.random.Generator) -> Camera:
    """A camera somewhere on a street of the city, most often looking along the facades."""
    place = city.places[rng.integers(len(city.places))]
    ahead, aside = rng.uniform(-6, 6), rng.uniform(-1, 1)  # between the rows of parked cars
    a = np.radians(place.heading)
    free, along = rng.uniform(0, 360), place.heading + rng.choice((0, 180)) + rng.normal(15, 30)
    return Camera(
        x=float(place.x + ahead * np.sin(a) + aside * np.cos(a)),
        y=float(place.y + ahead * np.cos(a) - aside * np.sin(a)),
        z=float(rng.uniform(1.5, 2.4)),
        heading=float((along if rng.random() < 0.75 else free) % 360),
        pitch=float(rng.uniform(0, 14)),
        fov=float(rng.uniform(55, 92)),
    )


def _store(path: str, photo: Photo, index: int) -> None:
    np.lib.format.open_memmap(path, "r+")[index] = photo.rgb
