"""Writes a ground-to-aerial data set: street photos, and map tiles of the same places.

```
root/train/Dataframes/<City>.csv, root/train/Images/<City>/...  GSV-Cities: photos and tiles mixed
root/images/{val,test}/database/@UTM_east@....jpg               tiles
root/images/{val,test}/queries_<condition>/@....jpg             street photos
root/crossview.json                                             written last: the set is complete
```

The aligned protocol, as if every photo came with a compass: a tile is cut for a camera in the
street. Its top is where that camera looks, and the camera stands near the middle of its lower
edge, so that it shows what the camera sees. Its name and its row in the CSV give the position and
heading of that camera, not of its centre. In training there is a tile for each photo; in testing
for each view of the database, and the queries are other visits, which jitter by some degrees.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toycity import names
from toycity.camera import Camera, TopDown, top_down
from toycity.conditions import condition_named
from toycity.config import TRAIN_MIX, ToyCityConfig
from toycity.layouts import (
    MAPPED,
    MappedCity,
    Row,
    gsv_path,
    gsv_row,
    month,
    training_views,
    utm_name,
)
from toycity.work import Shot
from toycity.writer import QUERY_DRAWS, one_config, write_splits

MANIFEST = "crossview.json"
TILE = "tile"  # starts the panoid of a tile in training, and is its note in testing

# Flights: plain days and an overcast one. Parked cars go by the condition's name, so the names are
# others than those of the photos: no car may give a match away.
FLIGHTS: tuple[tuple[str, float], ...] = (("changed", 0.0), ("blur", 0.0), ("lowlight", 0.3))


@dataclass(frozen=True)
class CrossviewConfig(ToyCityConfig):
    """Sizes of a ground-to-aerial data set; `small()` is one that renders in seconds.

    `images_per_place` counts photos and tiles, half each. `test_places` counts spots, each with
    two tiles.

    Raises:
        ValueError, KeyError: as `ToyCityConfig`; an odd `images_per_place`; an extent that is not
            above 0.
    """

    train_places: int = 150
    val_places: int = 75
    test_places: int = 180
    val_queries: int = 100
    val_conditions: tuple[str, ...] = ("day",)
    test_conditions: tuple[str, ...] = ("day",)
    extent: float = 50.0  # metres from a tile's left to its right edge

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images_per_place % 2:
            raise ValueError(
                f"images_per_place is {self.images_per_place}: half are photos and half are "
                "tiles, so make it even"
            )
        if not self.extent > 0:
            raise ValueError(f"extent is {self.extent}: a tile must be wider than 0 m")


def write_crossview(
    root: str | Path,
    config: CrossviewConfig | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
    **sizes,
) -> Path:
    """Render the ground-to-aerial data set into `root`, a folder of its own; return `root`.

    `PlaceDataset(root / "train")` and `TestSet(root, split="val")` read it. Takes its config,
    resumes and is left alone as `write_toycity`.

    Raises:
        FileExistsError: `root` holds another set, or images that are not ours.
        ValueError, KeyError: see `CrossviewConfig`; or more places than a city of this size has.
        TypeError: both a config and sizes.
    """
    config = one_config(CrossviewConfig, config, sizes)
    return write_splits(Path(root), MANIFEST, config, _training, _testing, workers, progress)


def tile_for(camera: Camera, extent: float) -> TopDown:
    """The tile cut for a camera: turned to its heading, its centre 0.4 of the extent ahead."""
    heading, ahead = np.radians(camera.heading), 0.4 * extent
    x, y = camera.x + ahead * np.sin(heading), camera.y + ahead * np.cos(heading)
    return top_down(float(x), float(y), extent, camera.heading)


def crossview_shots(root: Path, config: CrossviewConfig) -> Iterator[Shot]:
    """Every photo and tile of the set in `root`."""
    yield from _testing(root / "images", config)
    yield from (shot for _, shot in _training(root / "train", config))


def _training(train: Path, config: CrossviewConfig) -> Iterator[tuple[Row, Shot]]:
    """Photos under the conditions of the toy city's training, each followed by its tile."""
    mixed, severities, shares = zip(*TRAIN_MIX, strict=True)
    count = config.images_per_place // 2
    visit = condition_named("viewpoint").at(0.2)  # headings within 9 degrees of the place's
    for seed in config.train_seeds:
        city, views = training_views(config, seed)
        rng = np.random.default_rng([seed, 18])
        number = 0
        for place_id, view in enumerate(views):
            # No condition twice, as long as there are others.
            for which in rng.choice(len(mixed), count, replace=count > len(mixed), p=shares):
                camera = visit.jitter(view, rng)
                flight, cover = FLIGHTS[int(rng.integers(len(FLIGHTS)))]
                for condition, severity, kind, eye in (
                    (mixed[which], severities[which], "photo", camera),
                    (flight, cover, TILE, tile_for(camera, config.extent)),
                ):
                    when = month(condition_named(condition), rng)
                    panoid = (kind + names.image_id(seed, kind, number))[:22]
                    row = gsv_row(city, camera, place_id, when, rng, panoid)
                    scene = (seed, config.blocks, condition, severity)
                    yield row, Shot(*scene, eye, number, gsv_path(train, row))
                number += 1


def _testing(images: Path, config: CrossviewConfig) -> Iterator[Shot]:
    """Tiles of one flight as the database, and photos of other visits as queries."""
    flight, cover = FLIGHTS[0]
    for split, queries, conditions in (
        ("val", config.val_queries, config.val_conditions),
        ("test", config.test_queries, config.test_conditions),
    ):
        mapped = MappedCity.of(config, split)
        for number, view in enumerate(mapped.views):
            path = images / split / "database" / utm_name(mapped.city, view, TILE, number, MAPPED)
            scene = (mapped.city.seed, config.blocks, flight, cover)
            yield Shot(*scene, tile_for(view, config.extent), number, str(path))
        rng = np.random.default_rng([mapped.city.seed, QUERY_DRAWS])
        asked = mapped.query_numbers(queries, rng, f"{split}_queries")
        for name in conditions:
            folder = images / split / f"queries_{name}"
            yield from mapped.visits(folder, asked, name, config.severity, rng)
