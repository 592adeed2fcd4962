"""Writes the toy data set in the field's own layouts, so that the real loaders read it.

```
root/train/Dataframes/<City>.csv                   GSV-Cities: one row an image
root/train/Images/<City>/<City>_<place_id>_....jpg
root/images/{val,test}/database/@UTM_east@....jpg  the UTM layout of most test sets
root/images/{val,test}/queries_<condition>/@....jpg
root/toycity.json                                  written last: the set is complete
```
"""

import csv
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dinomix import __version__
from dinomix.storage import atomic_path
from dinomix.toycity import names
from dinomix.toycity.camera import Camera
from dinomix.toycity.city import City, make_city
from dinomix.toycity.conditions import Condition, condition_named
from dinomix.toycity.config import TRAIN_MIX, ToyCityConfig
from dinomix.toycity.scene import Photo
from dinomix.toycity.work import Shot, render_shots

RECIPE = 1  # raised whenever the same config would give other images
MANIFEST, STARTED = "toycity.json", "toycity.started.json"
CSV_COLUMNS = ("place_id", "year", "month", "northdeg", "city_id", "lat", "lon", "panoid")
JPEG_QUALITY = 92


def write_toycity(
    root: str | Path,
    config: ToyCityConfig | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
    **sizes,
) -> Path:
    """Render the toy data set into `root`, or what is still missing of it; return `root`.

    Pass a `ToyCityConfig`, or its fields by name. A finished set is left as it is, at once. An
    interrupted one is resumed: images are renamed into place when complete, so that each one that
    is there stays. The same config gives the same bytes on the same machine.

    Raises:
        FileExistsError: `root` holds another toy city, or images that are not a toy city's.
        ValueError, KeyError: see `ToyCityConfig`; or more places than a city of this size has.
        TypeError: both a config and sizes.
    """
    if config is not None and sizes:
        raise TypeError(f"pass a config or its fields {sorted(sizes)}, not both")
    config = config or ToyCityConfig(**sizes)
    root = Path(root)
    asked = json.loads(json.dumps({"recipe": RECIPE, "config": dataclasses.asdict(config)}))
    if _begin(root, asked):
        return root
    shots = [*_training(root / "train", config), *_testing(root / "images", config)]
    missing = _missing(shots)
    render_shots(missing, save_jpeg, config.size, workers, progress)
    manifest = asked | {"version": __version__, "images": len(shots)}
    with atomic_path(root / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n")
    (root / STARTED).unlink(missing_ok=True)
    return root


def save_jpeg(photo: Photo, path: str) -> None:
    """Write a photo so that `path` is complete or absent."""
    partial = path + ".part"  # not *.jpg: no loader takes it for an image
    Image.fromarray(photo.rgb).save(partial, "JPEG", quality=JPEG_QUALITY)
    os.replace(partial, path)


def _begin(root: Path, asked: dict) -> bool:
    """Check what is in `root` and leave a note of what is being written; True if it is finished."""
    for name in (MANIFEST, STARTED):
        if (root / name).exists():
            manifest = json.loads((root / name).read_text())
            there = {key: manifest.get(key) for key in asked}
            if there != asked:
                raise FileExistsError(
                    f"{root} holds a toy city of {json.dumps(there)}, but asked for is "
                    f"{json.dumps(asked)}: choose another folder, or remove this one yourself."
                )
            return name == MANIFEST
    foreign = [name for name in ("train", "images") if (root / name).exists()]
    if foreign:
        raise FileExistsError(
            f"{root} holds {' and '.join(foreign)} but no {MANIFEST}: these are not a toy city's, "
            "and are left alone. Choose another folder."
        )
    with atomic_path(root / STARTED) as temporary:
        temporary.write_text(json.dumps(asked, indent=1) + "\n")
    return False


def _missing(shots: list[Shot]) -> list[Shot]:
    folders = {os.path.dirname(shot.target) for shot in shots}
    for folder in folders:
        os.makedirs(folder, exist_ok=True)
    there = {os.path.join(folder, name) for folder in folders for name in os.listdir(folder)}
    return [shot for shot in shots if shot.target not in there]


def _training(folder: Path, config: ToyCityConfig) -> Iterator[Shot]:
    """The training cities: writes each city's CSV and yields its photos."""
    mixed, severities, shares = zip(*TRAIN_MIX, strict=True)
    visit = condition_named("viewpoint").at(0.4)  # how far visits of one place lie apart
    for seed in config.train_seeds:
        city = make_city(seed, config.blocks)
        # A place is a spot and a side of the street. Spots lie 36 m apart, so that two places of a
        # batch never show the same facades.
        views = [view for place in city.places[::3] for view in place.views()]
        _check_places("train_places", config.train_places, len(views), city, config)
        rng = np.random.default_rng([seed, 14])
        rows = []
        for place_id, view in enumerate(views[: config.train_places]):
            for which in rng.choice(len(mixed), config.images_per_place, p=shares):
                camera, month = visit.jitter(view, rng), _month(condition_named(mixed[which]), rng)
                latitude, longitude = city.latlon(camera.x, camera.y)
                number = len(rows)
                row = {
                    "place_id": place_id,
                    "year": int(rng.integers(2009, 2021)),
                    "month": month,
                    "northdeg": round(camera.heading) % 360,
                    "city_id": city.name,
                    "lat": round(latitude, 7),
                    "lon": round(longitude, 7),
                    "panoid": names.image_id(seed, number),
                }
                rows.append(row)
                target = str(folder / "Images" / city.name / names.gsv_name(row))
                scene = (seed, config.blocks, mixed[which], severities[which])
                yield Shot(*scene, camera, number, target)
        with (
            atomic_path(folder / "Dataframes" / f"{city.name}.csv") as temporary,
            temporary.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, CSV_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _testing(folder: Path, config: ToyCityConfig) -> Iterator[Shot]:
    """The validation and the test city: a daytime database, and queries of the same spots under
    every condition, each from a camera of its own.
    """
    splits = (
        ("val", config.val_seed, config.val_places, config.val_queries, config.val_conditions),
        ("test", config.test_seed, config.test_places, config.test_queries, config.test_conditions),
    )
    for split, seed, places, queries, conditions in splits:
        city = make_city(seed, config.blocks)
        _check_places(f"{split}_places", places, len(city.places), city, config)
        views = [view for place in city.places[:places] for view in place.views()]
        rng = np.random.default_rng([seed, 15])
        for number, view in enumerate(views):
            path = folder / split / "database" / _utm_name(city, view, "database", number, "201506")
            yield Shot(seed, config.blocks, "day", 1.0, view, number, str(path))
        asked = rng.permutation(len(views))[:queries]
        if queries > len(views):
            raise ValueError(
                f"{split}_queries is {queries}: there are {len(views)} views to ask for"
            )
        for name in conditions:
            condition = condition_named(name).at(config.severity)
            for number in asked:
                camera = condition.jitter(views[number], rng)
                when = f"{2019 + 5 * (name == 'changed')}{_month(condition, rng):02d}"
                path = folder / split / f"queries_{name}"
                path /= _utm_name(city, camera, name, int(number), when)
                photo = 100_000 + int(rng.integers(2**31))
                yield Shot(seed, config.blocks, name, config.severity, camera, photo, str(path))


def _month(condition: Condition, rng: np.random.Generator) -> int:
    return int(condition.months[int(rng.integers(len(condition.months)))])


def _utm_name(city: City, camera: Camera, note: str, number: int, timestamp: str) -> str:
    east, north = city.utm(camera.x, camera.y)
    return names.utm_name(
        east,
        north,
        pano=names.image_id(city.seed, note, number),
        heading=camera.heading,
        pitch=camera.pitch,
        timestamp=timestamp,
        note=note,
    )


def _check_places(name: str, asked: int, there: int, city: City, config: ToyCityConfig) -> None:
    if asked > there:
        raise ValueError(
            f"{name} is {asked}, but {city.name} with blocks={config.blocks} has {there}: "
            "ask for fewer places or more blocks"
        )
