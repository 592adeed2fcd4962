"""Photos in the field's two layouts: GSV-Cities to train on, UTM names to test on.

It says which photo is taken and what its file is called; nothing here writes a file.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toycity import names
from toycity.camera import Camera
from toycity.city import City, make_city
from toycity.conditions import Condition, condition_named
from toycity.config import ToyCityConfig
from toycity.work import Shot

Row = dict[str, int | float | str]  # of a city's CSV
CSV_COLUMNS = ("place_id", "year", "month", "northdeg", "city_id", "lat", "lon", "panoid")
MAPPED = "201506"  # year and month of the database


def training_views(config: ToyCityConfig, seed: int) -> tuple[City, list[Camera]]:
    """A training city and the view of each of its places.

    A place is a spot and a side of the street. Spots lie 36 m apart, so that two places of a
    batch never show the same facades.

    Raises:
        ValueError: more places than the city has.
    """
    city = make_city(seed, config.blocks)
    views = [view for place in city.places[::3] for view in place.views()]
    _check_places("train_places", config.train_places, len(views), city, config)
    return city, views[: config.train_places]


def gsv_row(
    city: City, camera: Camera, place_id: int, when: int, rng: np.random.Generator, panoid: str
) -> Row:
    """The row of a training photo in its city's CSV. `when` is the month; the year is drawn."""
    latitude, longitude = city.latlon(camera.x, camera.y)
    values = (
        place_id,
        int(rng.integers(2009, 2021)),
        when,
        round(camera.heading) % 360,
        city.name,
        round(latitude, 7),
        round(longitude, 7),
        panoid,
    )
    return dict(zip(CSV_COLUMNS, values, strict=True))


def gsv_path(train: Path, row: Row) -> str:
    """Where the training photo of `row` lies."""
    return str(train / "Images" / str(row["city_id"]) / names.gsv_name(row))


def gsv_tables(train: Path, rows: Iterable[Row]) -> dict[Path, list[Row]]:
    """The CSV files, by path: one a city."""
    tables: dict[Path, list[Row]] = {}
    for row in rows:
        tables.setdefault(train / "Dataframes" / f"{row['city_id']}.csv", []).append(row)
    return tables


def month(condition: Condition, rng: np.random.Generator) -> int:
    """A month in which such photos are taken."""
    return int(condition.months[int(rng.integers(len(condition.months)))])


def year(condition: str) -> int:
    """When the test city was visited: `changed` is years later."""
    return 2019 + 5 * (condition == "changed")


def utm_name(city: City, camera: Camera, note: str, number: int, timestamp: str) -> str:
    """File name of a test photo; in its city, `note` and `number` tell it from all others."""
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


@dataclass(frozen=True)
class MappedCity:
    """The validation or test city, and the views of its database: two for each mapped place."""

    city: City
    blocks: int
    views: list[Camera]

    @classmethod
    def of(cls, config: ToyCityConfig, split: str) -> "MappedCity":
        """The city of "val" or "test".

        Raises:
            ValueError: more places than the city has.
        """
        city = make_city(getattr(config, f"{split}_seed"), config.blocks)
        places = getattr(config, f"{split}_places")
        _check_places(f"{split}_places", places, len(city.places), city, config)
        views = [view for place in city.places[:places] for view in place.views()]
        return cls(city, config.blocks, views)

    def query_numbers(self, count: int, rng: np.random.Generator, name: str) -> list[int]:
        """Numbers of the views that `count` queries ask for, in random order.

        Raises:
            ValueError: more queries than views; `name` is what the argument is called.
        """
        if count > len(self.views):
            raise ValueError(
                f"{name} is {count}: there are {len(self.views)} views to ask for; ask for fewer"
            )
        return rng.permutation(len(self.views))[:count].tolist()

    def database(self, folder: Path) -> Iterator[Shot]:
        """Every view by day."""
        for number, view in enumerate(self.views):
            path = folder / utm_name(self.city, view, "database", number, MAPPED)
            yield Shot(self.city.seed, self.blocks, "day", 1.0, view, number, str(path))

    def visits(
        self,
        folder: Path,
        numbers: Iterable[int],
        condition: str,
        severity: float,
        rng: np.random.Generator,
        note: str | None = None,
    ) -> Iterator[Shot]:
        """Other visits to the views of `numbers`: queries.

        What is drawn does not depend on the severity: the same `rng` gives the same visits.
        """
        blended = condition_named(condition).at(severity)
        for number in numbers:
            camera = blended.jitter(self.views[number], rng)
            when = f"{year(condition)}{month(blended, rng):02d}"
            path = folder / utm_name(self.city, camera, note or condition, number, when)
            seed = 100_000 + int(rng.integers(2**31))
            yield Shot(self.city.seed, self.blocks, condition, severity, camera, seed, str(path))


def _check_places(name: str, asked: int, there: int, city: City, config: ToyCityConfig) -> None:
    if asked > there:
        raise ValueError(
            f"{name} is {asked}, but {city.name} with blocks={config.blocks} has {there}: "
            "ask for fewer places or more blocks"
        )
