"""Writes a ground-to-aerial data set: street photos, and map tiles of the same places.

```
root/train/Dataframes/<City>.csv, root/train/Images/<City>/...  GSV-Cities: photos and tiles mixed
root/images/{val,test}/database/@UTM_east@....jpg               tiles
root/images/{val,test}/queries_<condition>/@....jpg             street photos
root/crossview.json                                             written last: the set is complete
```

The aligned protocol, as if every photo came with a compass: a tile is cut for a camera in the
street, which looks to its top from near the middle of its lower edge, and is named by the position
and heading of that camera. In training there is a tile for each photo; in testing for each view of
the database, and the queries are other visits.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from toycity.camera import Camera, TopDown
from toycity.config import STRICT, TRAIN_MIX, Conditions, Count, ToyCityConfig
from toycity.work import Shot
from toycity.writer import Row, one_config, testing, training_visits, write_splits

MANIFEST = "crossview.json"
TILE = "tile"  # starts the panoid of a tile in training, and is its note in testing

# Flights: plain days and an overcast one. Parked cars go by the condition's name, so the names are
# others than those of the photos: no car may give a match away.
FLIGHTS: tuple[tuple[str, float], ...] = (("changed", 0.0), ("blur", 0.0), ("lowlight", 0.3))


@dataclass(frozen=True, config=STRICT)
class CrossviewConfig(ToyCityConfig):
    """Sizes of a ground-to-aerial data set; ValueError as `ToyCityConfig`."""

    train_places: Count = 150
    images_per_place: Annotated[Count, Field(multiple_of=2)] = 8  # photos and tiles, half each
    val_places: Count = 75  # spots, each with two tiles
    test_places: Count = 180
    val_queries: Count = 100
    val_conditions: Conditions = ("day",)
    test_conditions: Conditions = ("day",)
    extent: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 50.0  # width of a tile, metres


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
    resumes, is left alone and raises as `write_toycity`.
    """
    config = one_config(CrossviewConfig, config, sizes)
    return write_splits(Path(root), MANIFEST, config, _training, _testing, workers, progress)


def tile_for(camera: Camera, extent: float) -> TopDown:
    """The tile cut for a camera: turned to its heading, its centre 0.4 of the extent ahead."""
    heading, ahead = np.radians(camera.heading), 0.4 * extent
    x, y = camera.x + ahead * np.sin(heading), camera.y + ahead * np.cos(heading)
    return TopDown(float(x), float(y), extent, camera.heading)


def crossview_shots(root: Path, config: CrossviewConfig) -> Iterator[Shot]:
    """Every photo and tile of the set in `root`."""
    yield from _testing(root / "images", config)
    yield from (shot for _, shot in _training(root / "train", config))


def _training(train: Path, config: CrossviewConfig) -> Iterator[tuple[Row, Shot]]:
    """Photos under the conditions of the toy city's training, each followed by its tile."""
    count = config.images_per_place // 2
    replace = count > len(TRAIN_MIX)  # no condition twice, as long as there are others
    # Headings lie within 9 degrees of the place's.
    for visit in training_visits(config, 18, apart=0.2, count=count, replace=replace):
        flight = FLIGHTS[int(visit.rng.integers(len(FLIGHTS)))]
        for kind, scene, eye in (
            ("photo", visit.scene, visit.camera),
            (TILE, visit.scene[:2] + flight, tile_for(visit.camera, config.extent)),
        ):
            panoid = (kind + visit.city.image_id(kind, visit.number))[:22]
            yield visit.photo(train, panoid, scene, eye)


def _testing(images: Path, config: CrossviewConfig) -> Iterator[Shot]:
    """Tiles of one flight as the database, and photos of other visits as queries."""
    flight, cover = FLIGHTS[0]
    eye = partial(tile_for, extent=config.extent)
    return testing(images, config, note=TILE, condition=flight, severity=cover, eye=eye)
