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
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from toycity.camera import Camera, TopDown
from toycity.city import LETTER, ZONE, City, make_city
from toycity.conditions import Condition, condition_named
from toycity.config import TRAIN_MIX, ToyCityConfig
from toycity.files import being_written, is_written, write_table
from toycity.work import SceneKey, Shot, write_photos

RECIPE = 1  # raised whenever the same config would give other images
MANIFEST = "toycity.json"
QUERY_DRAWS = 15  # stream of random numbers: which views are asked for, and from where
MAPPED = "201506"  # year and month of the database
Row = dict[str, int | float | str]  # of a city's CSV


def write_toycity(
    root: str | Path,
    config: ToyCityConfig | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
    **sizes,
) -> Path:
    """Render the toy data set into `root`, or what is still missing of it; return `root`.

    Takes a `ToyCityConfig`, or its fields by name. A finished set is left as it is, and so is every
    complete image of an interrupted one.

    Raises:
        FileExistsError: `root` holds another toy city, or images that are not a toy city's.
        ValueError: as `ToyCityConfig`; or more places than a city of this size has.
        TypeError: both a config and sizes.
    """
    config = one_config(ToyCityConfig, config, sizes)
    return write_splits(Path(root), MANIFEST, config, _training, testing, workers, progress)


def one_config(kind: type, config: Any, sizes: dict) -> Any:
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
    """Write the CSV files, photos and manifest of a set, as `write_toycity` promises."""
    asked = definition(config)
    train, images = root / "train", root / "images"
    if is_written(root / name, asked, owned=(train, images)):
        return root
    rows, shots = zip(*training(train, config), strict=True)
    shots = [*shots, *testing(images, config)]
    with being_written(root / name, asked, len(shots)):
        for city, table in groupby(rows, key=itemgetter("city_id")):
            write_table(train / "Dataframes" / f"{city}.csv", list(table))
        write_photos(shots, config.size, workers, progress)
    return root


def definition(config: ToyCityConfig) -> dict:
    """What defines a set, as JSON reads it back."""
    return json.loads(json.dumps({"recipe": RECIPE, "config": dataclasses.asdict(config)}))


def read_config(root: Path, name: str = MANIFEST, kind: type = ToyCityConfig) -> Any:
    """The config, of class `kind`, of the set in `root` whose manifest is called `name`.

    Raises:
        FileNotFoundError: there is none, or it is not finished.
        ValueError: its manifest is damaged, or of a version that drew other images.
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
    yield from testing(root / "images", config)
    yield from (shot for _, shot in _training(root / "train", config))


# ---------------------------------------------------------------------- training: GSV-Cities


def _training(train: Path, config: ToyCityConfig) -> Iterator[tuple[Row, Shot]]:
    for visit in training_visits(config, 14, apart=0.4, count=config.images_per_place):
        panoid = visit.city.image_id(visit.number)
        yield visit.photo(train, panoid, visit.scene, visit.camera)


@dataclass(frozen=True)
class Visit:
    """One visit to a training place; what else is drawn for it comes from `rng`."""

    city: City
    place: int
    number: int  # tells it from all others in its city
    camera: Camera
    scene: SceneKey
    rng: np.random.Generator

    def photo(
        self, train: Path, panoid: str, scene: SceneKey, eye: Camera | TopDown
    ) -> tuple[Row, Shot]:
        """The row in the city's CSV, and the shot, of a photo that `eye` takes of `scene`."""
        month = self.rng.choice(condition_named(scene[2]).months)
        latitude, longitude = self.city.latlon(self.camera.x, self.camera.y)
        row = {
            "place_id": self.place,
            "year": int(self.rng.integers(2009, 2021)),
            "month": int(month),
            "northdeg": round(self.camera.heading) % 360,
            "city_id": self.city.name,
            "lat": round(latitude, 7),
            "lon": round(longitude, 7),
            "panoid": panoid,
        }
        name = (  # composed of the row as GSV-Cities does
            f"{row['city_id']}_{row['place_id']:07d}_{row['year']}_{row['month']:02d}_"
            f"{row['northdeg']:03d}_{row['lat']}_{row['lon']}_{row['panoid']}.jpg"
        )
        path = train / "Images" / self.city.name / name
        return row, Shot(scene, eye, self.number, str(path))


def training_visits(
    config: ToyCityConfig, stream: int, apart: float, count: int, replace: bool = True
) -> Iterator[Visit]:
    """`count` visits to each place of the training cities, under conditions of `TRAIN_MIX`.

    A place is a spot and a side of the street. Spots lie 36 m apart, so that two places of a
    batch never show the same facades. `apart`: how far visits lie apart, as a severity of
    "viewpoint"; `stream`: of random numbers; `replace`: whether conditions come twice.
    """
    *_, shares = zip(*TRAIN_MIX, strict=True)
    jittered = condition_named("viewpoint").at(apart)
    for seed in config.train_seeds:
        city = make_city(seed, config.blocks)
        views = [view for place in city.places[::3] for view in place.views()]
        places = _check_places("train_places", config, len(views), city)
        rng = np.random.default_rng([seed, stream])
        for place, view in enumerate(views[:places]):
            drawn = rng.choice(len(shares), count, replace=replace, p=shares)
            for number, which in enumerate(drawn, start=place * count):
                scene = (seed, config.blocks, *TRAIN_MIX[which][:2])
                yield Visit(city, place, number, jittered.jitter(view, rng), scene, rng)


# ---------------------------------------------------------------------- testing: UTM names


def testing(images: Path, config: ToyCityConfig, **database) -> Iterator[Shot]:
    """Of both mapped cities the database, with options of `MappedCity.database`, and queries."""
    for split, queries, conditions in (
        ("val", config.val_queries, config.val_conditions),
        ("test", config.test_queries, config.test_conditions),
    ):
        mapped = MappedCity.of(config, split)
        yield from mapped.database(images / split / "database", **database)
        rng = np.random.default_rng([mapped.city.seed, QUERY_DRAWS])
        asked = mapped.query_numbers(queries, rng, f"{split}_queries")
        for name in conditions:
            folder = images / split / f"queries_{name}"
            yield from mapped.visits(folder, asked, name, config.severity, rng)


@dataclass(frozen=True)
class MappedCity:
    """The validation or test city, and the views of its database: two for each mapped place."""

    city: City
    blocks: int
    views: list[Camera]

    @classmethod
    def of(cls, config: ToyCityConfig, split: str) -> "MappedCity":
        city = make_city(getattr(config, f"{split}_seed"), config.blocks)
        count = _check_places(f"{split}_places", config, len(city.places), city)
        views = [view for place in city.places[:count] for view in place.views()]
        return cls(city, config.blocks, views)

    def query_numbers(self, count: int, rng: np.random.Generator, name: str) -> list[int]:
        """Which views `count` queries, the argument called `name`, ask for."""
        if not 1 <= count <= len(self.views):
            raise ValueError(f"{name} is {count}: there are {len(self.views)} views to ask for")
        return rng.permutation(len(self.views))[:count].tolist()

    def database(
        self,
        folder: Path,
        note: str = "database",
        condition: str = "day",
        severity: float = 1.0,
        eye: Callable[[Camera], Camera | TopDown] = lambda view: view,
    ) -> Iterator[Shot]:
        """Every view, seen by `eye`."""
        scene = (self.city.seed, self.blocks, condition, severity)
        for number, view in enumerate(self.views):
            path = folder / utm_name(self.city, view, note, number, MAPPED)
            yield Shot(scene, eye(view), number, str(path))

    def visits(
        self,
        folder: Path,
        numbers: Iterable[int],
        condition: str,
        severity: float,
        rng: np.random.Generator,
        note: str | None = None,
    ) -> Iterator[Shot]:
        """Other visits to the views of `numbers`: what `rng` draws does not depend on severity."""
        blended = condition_named(condition).at(severity)
        scene = (self.city.seed, self.blocks, condition, severity)
        for number in numbers:
            camera = blended.jitter(self.views[number], rng)
            when = timestamp(blended, rng)
            path = folder / utm_name(self.city, camera, note or condition, number, when)
            seed = 100_000 + int(rng.integers(2**31))
            yield Shot(scene, camera, seed, str(path))


def utm_name(city: City, camera: Camera, note: str, number: int, timestamp: str) -> str:
    """File name of a test photo: the `@`-separated fields that VPR test sets agree on. In its city,
    `note` and `number` tell it from all others.
    """
    east, north = city.utm(camera.x, camera.y)
    latitude, longitude = city.latlon(camera.x, camera.y)
    return (
        f"@{east:010.2f}@{north:010.2f}@{ZONE}@{LETTER}@{latitude:09.5f}@{longitude:010.5f}"
        f"@{city.image_id(note, number)}@@{camera.heading:03.0f}@{camera.pitch:.0f}"
        f"@@@{timestamp}@{note}@.jpg"
    )


def timestamp(condition: Condition, rng: np.random.Generator) -> str:
    """When the test city was visited: `changed` is years later."""
    return f"{2019 + 5 * (condition.name == 'changed')}{rng.choice(condition.months):02d}"


def _check_places(name: str, config: ToyCityConfig, there: int, city: City) -> int:
    """The number of places asked for."""
    asked = getattr(config, name)
    if asked > there:
        raise ValueError(
            f"{name} is {asked}, but {city.name} with blocks={config.blocks} has {there}: "
            "ask for fewer places or more blocks"
        )
    return asked
