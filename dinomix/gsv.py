"""The layout that GSV-Cities is published in: a CSV and a folder of images for each city."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dinomix.imagetables import shown, undecodable_line

COLUMNS = ["place_id", "year", "month", "northdeg", "city_id", "lat", "lon", "panoid"]
DEGREES = {"lat": 90, "lon": 180}  # how far from 0 they go
LARGEST = 2**53  # beyond it, float64 does not tell whole numbers apart
CITIES = (  # of the published set, by their CSV files
    *("Bangkok", "Barcelona", "Boston", "Brussels", "BuenosAires", "Chicago", "Lisbon", "London"),
    *("LosAngeles", "Madrid", "Medellin", "Melbourne", "MexicoCity", "Miami", "Minneapolis"),
    *("OSL", "Osaka", "PRG", "PRS", "Phoenix", "Rome", "TRT", "WashingtonDC"),
)


class CityImages(NamedTuple):
    """One city's images, place by place; the places by id, the images of one as in the CSV.

    Attributes:
        paths: bytes (images,), UTF-8, relative to the root.
        latlon: float64 (images, 2), degrees.
        counts: int64 (places,), how many images each place has.
    """

    paths: np.ndarray
    latlon: np.ndarray
    counts: np.ndarray


def find_cities(root: Path, cities: Iterable[str] | None = None) -> list[str]:
    """The cities asked for, or all that have a CSV, sorted.

    Raises:
        FileNotFoundError: the folder of CSV files or one of the cities is not there.
        ValueError: a city is asked for twice.
    """
    folder = root / "Dataframes"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{root} is not in the GSV-Cities layout: it should hold the folders Dataframes "
            "(one CSV a city) and Images (one folder a city)."
        )
    csvs = folder.glob("*.csv")
    found = sorted(path.stem for path in csvs if not path.name.startswith("."))  # half-written ones
    wanted = found if cities is None else list(cities)
    missing = sorted(set(wanted) - set(found))
    if missing or not wanted:
        raise FileNotFoundError(
            f"no CSV for the cities {missing or 'asked for'} in {folder}; there are {found}."
        )
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"cities are {wanted}, one of them twice; name each once.")
    return wanted


def read_city(root: Path, city: str) -> CityImages:
    """What one city's CSV says; no image is looked for.

    Images lie in `Images/<City>`, or where there is no such folder in `Images/<city_id>`: the
    README of GSV-Cities shows the one (`Paris`, whose city_id is PRS), its code reads the other.

    Raises:
        ValueError: the CSV lacks columns, or has a row that cannot be: the value is named.
    """
    csv = root / "Dataframes" / f"{city}.csv"
    table = _read_csv(csv)
    whole = {name: _whole_numbers(csv, table, name) for name in COLUMNS[:4]}
    latlon = np.stack([_degrees(csv, table, name) for name in DEGREES], axis=1)  # (images, 2)
    for name in ("city_id", "panoid"):
        _refuse(
            csv,
            table[name],
            table[name].str.contains(r"^$|[/\\]|\.\.").to_numpy(),
            "part of a file name, without / and ..",
        )
    own_folder = (root / "Images" / city).is_dir()
    folders = [city] * len(table) if own_folder else table["city_id"]
    # Latitude and longitude as text: they are part of the file name, digit by digit. One f-string
    # a row costs less than pandas' operations on columns of strings.
    columns = (*whole.values(), *(table[name] for name in COLUMNS[4:]))
    paths = [
        f"Images/{folder}/{city_id}_{place:07d}_{year}_{month:02d}_{north:03d}_{lat}_{lon}_{pano}.jpg"
        for folder, place, year, month, north, city_id, lat, lon, pano in zip(
            folders, *(column.tolist() for column in columns), strict=True
        )
    ]
    if len(set(paths)) < len(paths):
        _refuse_doubles(csv, pd.Series(paths))
    order = np.argsort(whole["place_id"], kind="stable")
    _, counts = np.unique(whole["place_id"], return_counts=True)
    encoded = np.array([path.encode() for path in paths], dtype=bytes)
    return CityImages(encoded[order], latlon[order], counts)


def missing_images(root: Path, paths: np.ndarray) -> list[str]:
    """Which of a city's images (bytes, as in `CityImages`) are not there."""
    names = [path.decode() for path in paths.tolist()]
    present: set[str] = set()
    for folder in dict.fromkeys(name.rsplit("/", 1)[0] for name in names):
        if (root / folder).is_dir():
            present.update(f"{folder}/{entry}" for entry in os.listdir(root / folder))
    return [name for name in names if name not in present]


def _read_csv(csv: Path) -> pd.DataFrame:
    """The columns of the layout, as text: nothing is read as a number or as missing."""
    try:
        # As a row: pandas would rename a column that is there twice.
        header = pd.read_csv(csv, nrows=1, header=None, dtype=str, keep_default_na=False)
        names = header.iloc[0].tolist()
        lacking = [name for name in COLUMNS if name not in names]
        if lacking:
            raise ValueError(f"it lacks the columns {lacking}; separated by commas, it has {names}")
        twice = [name for name in COLUMNS if names.count(name) > 1]
        if twice:
            raise ValueError(f"it has the columns {twice} twice; take one of each out")
        table = pd.read_csv(csv, dtype=str, keep_default_na=False)
        if not len(table):
            raise ValueError("it has no rows; remove it, or leave its city out")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{csv} is not in the GSV-Cities layout: line {undecodable_line(csv)} is not in UTF-8; "
            "save the table anew in that encoding"
        ) from error
    except ValueError as error:  # pandas' own errors are of this kind, too
        raise ValueError(f"{csv} is not in the GSV-Cities layout: {error}") from error
    return table[COLUMNS].fillna("")  # of rows that end early


def _whole_numbers(csv: Path, table: pd.DataFrame, column: str) -> np.ndarray:
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(float)
    whole = (values == np.floor(values)) & (np.abs(values) < LARGEST)  # NaN is neither
    _refuse(csv, table[column], ~whole, "a whole number")
    return values.astype(np.int64)


def _degrees(csv: Path, table: pd.DataFrame, column: str) -> np.ndarray:
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(float)
    most = DEGREES[column]
    _refuse(csv, table[column], ~(np.abs(values) <= most), f"degrees from -{most} to {most}")
    return values


def _refuse(csv: Path, column: pd.Series, wrong: np.ndarray, expected: str) -> None:
    """Name the first wrong value of a column, if there is one."""
    if wrong.any():
        row = int(wrong.argmax())
        more = f" (and so in {wrong.sum() - 1} more rows)" if wrong.sum() > 1 else ""
        raise ValueError(
            f"{csv}, row {row + 1} below the header: {column.name} is {shown(column.iloc[row])}, "
            f"expected {expected}{more}."
        )


def _refuse_doubles(csv: Path, paths: pd.Series) -> None:
    doubles = paths[paths.duplicated()]
    rows = (paths.index[paths == doubles.iloc[0]] + 1).tolist()
    raise ValueError(
        f"{csv} has {len(doubles)} rows for an image that another row has named, the first one "
        f"{doubles.iloc[0]} in rows {rows} below the header. Take the doubles out."
    )
