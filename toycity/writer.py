"""Writes the toy data set in the field's own layouts, so that the real loaders read it.

```
root/train/Dataframes/<City>.csv                   GSV-Cities: one row an image
root/train/Images/<City>/<City>_<place_id>_....jpg
root/images/{val,test}/database/@UTM_east@....jpg  the UTM layout of most test sets
root/images/{val,test}/queries_<condition>/@....jpg
root/toycity.json                                  written last: the set is complete
```
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from toycity import names
from toycity.conditions import condition_named
from toycity.config import TRAIN_MIX, ToyCityConfig
from toycity.files import being_written, is_written, write_photos, write_table
from toycity.layouts import (
    MappedCity,
    Row,
    gsv_path,
    gsv_row,
    gsv_tables,
    month,
    training_views,
)
from toycity.work import Shot

RECIPE = 1  # raised whenever the same config would give other images
MANIFEST = "toycity.json"
QUERY_DRAWS = 15  # stream of random numbers: which views are asked for, and from where


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
        ValueError: see `ToyCityConfig`; or more places than a city of this size has.
        TypeError: both a config and sizes.
    """
    config = one_config(ToyCityConfig, config, sizes)
    return write_splits(Path(root), MANIFEST, config, _training, _testing, workers, progress)


def one_config(kind: type, config: Any, sizes: dict) -> Any:
    """The config, or one of `sizes`; TypeError if there are both."""
    if config is not None and sizes:
        raise TypeError(f"pass a config or its fields {sorted(sizes)}, not both")
    return config or kind(**sizes)


def write_splits(
    root: Path,
    name: str,
    config: ToyCityConfig,
    training: Callable[[Path, Any], Iterable[tuple[Row, Shot]]],
    testing: Callable[[Path, Any], Iterable[Shot]],
    workers: int | None,
    progress: bool,
) -> Path:
    """Write the photos that `training(folder, config)` and `testing(folder, config)` name, the
    CSV files of the former, and last the manifest called `name`; as `write_toycity` promises.
    """
    asked = definition(config)
    train, images = root / "train", root / "images"
    if is_written(root / name, asked, owned=(train, images)):
        return root
    rows, shots = zip(*training(train, config), strict=True)
    shots = [*shots, *testing(images, config)]
    with being_written(root / name, asked, len(shots)):
        for path, table in gsv_tables(train, rows).items():
            write_table(path, table)
        write_photos(shots, config.size, workers, progress)
    return root


def definition(config: ToyCityConfig) -> dict:
    """What defines a set, as JSON reads it back."""
    return json.loads(json.dumps({"recipe": RECIPE, "config": dataclasses.asdict(config)}))


def read_config(root: Path, name: str = MANIFEST, kind: type = ToyCityConfig) -> Any:
    """The config, of class `kind`, of the finished set in `root` whose manifest is called `name`.

    Raises:
        FileNotFoundError: there is none, or it is not finished.
        ValueError: another version of this package rendered it, which drew other images.
    """
    if not (root / name).exists():
        raise FileNotFoundError(f"{root} holds no finished toy city; render one: write_toycity")
    try:
        manifest = json.loads((root / name).read_text(encoding="utf-8"))
        recipe, fields = manifest["recipe"], dict(manifest["config"])
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{root / name} is damaged, or no toy city's: {error}") from error
    if recipe != RECIPE:
        raise ValueError(
            f"{root} was rendered by recipe {recipe}, and this is recipe {RECIPE}: "
            "render it anew, into another folder"
        )
    return kind(**fields)


def toycity_shots(root: Path, config: ToyCityConfig) -> Iterator[Shot]:
    """Every photo of the toy city in `root`."""
    yield from _testing(root / "images", config)
    yield from (shot for _, shot in _training(root / "train", config))


def _training(train: Path, config: ToyCityConfig) -> Iterator[tuple[Row, Shot]]:
    """The photos of the training cities, each with its row in the CSV."""
    mixed, severities, shares = zip(*TRAIN_MIX, strict=True)
    visit = condition_named("viewpoint").at(0.4)  # how far visits of one place lie apart
    for seed in config.train_seeds:
        city, views = training_views(config, seed)
        rng = np.random.default_rng([seed, 14])
        number = 0
        for place_id, view in enumerate(views):
            for which in rng.choice(len(mixed), config.images_per_place, p=shares):
                camera, when = visit.jitter(view, rng), month(condition_named(mixed[which]), rng)
                panoid = names.image_id(seed, number)
                row = gsv_row(city, camera, place_id, when, rng, panoid)
                scene = (seed, config.blocks, mixed[which], severities[which])
                yield row, Shot(*scene, camera, number, gsv_path(train, row))
                number += 1


def _testing(images: Path, config: ToyCityConfig) -> Iterator[Shot]:
    """The validation and the test city: a daytime database, and queries of the same spots under
    every condition, each from a camera of its own.
    """
    for split, queries, conditions in (
        ("val", config.val_queries, config.val_conditions),
        ("test", config.test_queries, config.test_conditions),
    ):
        mapped = MappedCity.of(config, split)
        yield from mapped.database(images / split / "database")
        rng = np.random.default_rng([mapped.city.seed, QUERY_DRAWS])
        asked = mapped.query_numbers(queries, rng, f"{split}_queries")
        for name in conditions:
            folder = images / split / f"queries_{name}"
            yield from mapped.visits(folder, asked, name, config.severity, rng)
