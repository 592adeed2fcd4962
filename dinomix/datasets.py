"""Training places in the GSV-Cities layout: P places x K images a batch."""

import copy
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from dinomix.images import Transform, read_image
from dinomix.testsets import TestSet

GSV_COLUMNS = ["place_id", "year", "month", "northdeg", "city_id", "lat", "lon", "panoid"]
CITY_STRIDE = 100_000  # place ids start again at 0 in each city, so city c counts from c * this


class PlaceDataset(Dataset):
    """Places with several images each, in the layout that GSV-Cities is published in.

    ```
    root/Dataframes/<City>.csv     place_id, year, month, northdeg, city_id, lat, lon, panoid
    root/Images/<City>/<City>_<place_id:07d>_<year>_<month:02d>_<northdeg:03d>_<lat>_<lon>_<panoid>.jpg
    ```

    Item `i` is a pair: K different images of place i as float32 (K, 3, H, W), and the place's
    label as int64 (). Which images, and how they are augmented, depends only on
    (seed, epoch, i): never on the worker or on what was asked before, so a killed run can go on
    exactly where it stopped.

    Args:
        root: the folder that holds `Dataframes` and `Images`.
        cities: names of CSV files to use; None takes all of them.
        images_per_place: K.
        min_images: places with fewer images are left out; None means K.
        seed: of the draws.

    Raises:
        FileNotFoundError: the folder, a city's CSV or images are missing; up to five are named.
        ValueError: a CSV lacks columns, or no place has enough images.
    """

    def __init__(
        self,
        root: str | Path,
        cities: Iterable[str] | None = None,
        images_per_place: int = 4,
        min_images: int | None = None,
        seed: int = 0,
    ) -> None:
        self.root = Path(root)
        self.name = self.root.name
        self.images_per_place = images_per_place
        self.min_images = images_per_place if min_images is None else min_images
        self.seed = seed
        self.epoch = 0
        self.transform: Transform | None = None
        self.begun: Mapping[Path, torch.Tensor] | None = None
        if self.min_images < images_per_place:
            raise ValueError(
                f"min_images is {min_images}, less than images_per_place ({images_per_place}): "
                "a place would have too few images to draw from. Raise min_images."
            )
        self.cities = _find_cities(self.root, cities)
        tables = [_read_city(self.root, city, i) for i, city in enumerate(self.cities)]
        images = pd.concat(tables, ignore_index=True)
        _require_files(self.root, images["path"])
        kept = [p for _, p in images.groupby("label") if len(p) >= self.min_images]
        self.places = [place["path"].to_numpy() for place in kept]  # relative paths
        self._latlon = [place[["lat", "lon"]].to_numpy(dtype=float) for place in kept]  # (n, 2)
        if not self.places:
            raise ValueError(
                f"none of the {images['label'].nunique()} places in {self.root} has "
                f"{self.min_images} images; lower images_per_place."
            )

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        images = sum(map(len, self.places))
        return f"PlaceDataset({self.name}: {len(self)} places, {images} images, {self.cities})"

    @property
    def fingerprint(self) -> str:
        """Names what is trained on: file names by place, K and the seed, not where they lie."""
        digest = hashlib.sha256(f"{self.images_per_place} {self.seed}".encode())
        for paths in self.places:
            digest.update("\n".join(paths).encode() + b"\n\n")
        return digest.hexdigest()[:16]

    def with_transform(self, transform: Transform) -> Self:
        """A copy whose images go through `transform`: PIL image -> (3, H, W) tensor."""
        other = copy.copy(self)
        other.transform = transform
        return other

    def with_begun(self, begun: Mapping[Path, torch.Tensor]) -> Self:
        """A copy whose items hold, for each image, what a frozen prefix made of it."""
        other = copy.copy(self)
        other.begun = begun
        return other

    @property
    def paths(self) -> list[Path]:
        """All images, place by place."""
        return [self.root / path for place in self.places for path in place]

    def hold_out(self, share: float = 0.1, threshold: float = 25.0) -> tuple[Self, TestSet]:
        """Set places aside to validate on: the places that remain, and a test set of the others.

        Of each place held out, drawn at random by the seed, the first image is a database image
        and the others are queries.

        Raises:
            ValueError: `share` leaves no place on one of the sides.
        """
        count = round(share * len(self))
        if not 0 < count < len(self):
            raise ValueError(
                f"share is {share!r}, which sets {count} of {len(self)} places aside; both sides "
                "need at least one."
            )
        order = np.random.default_rng(self.seed).permutation(len(self))
        aside, remaining = sorted(order[:count]), sorted(order[count:])
        rest = copy.copy(self)
        rest.places = [self.places[i] for i in remaining]
        rest._latlon = [self._latlon[i] for i in remaining]
        paths = [[self.root / path for path in self.places[i]] for i in aside]
        utm = _to_utm([self._latlon[i] for i in aside])
        val = TestSet.from_lists(
            name=f"{self.name}-held-out",
            database=[images[0] for images in paths],
            queries=[path for images in paths for path in images[1:]],
            database_utm=np.stack([positions[0] for positions in utm]),
            query_utm=np.concatenate([positions[1:] for positions in utm]),
            threshold=threshold,
        )
        return rest, val

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next draws belong to."""
        self.epoch = epoch

    def draw(self, index: int) -> list[Path]:
        """The K images of place `index` in this epoch."""
        paths = self.places[index]
        rng = np.random.default_rng([self.seed, self.epoch, index])
        chosen = rng.choice(len(paths), size=self.images_per_place, replace=False)
        return [self.root / paths[i] for i in chosen]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.begun is not None:
            return torch.stack([self.begun[path] for path in self.draw(index)]), torch.tensor(index)
        if self.transform is None:
            raise ValueError("this PlaceDataset has no transform yet; call with_transform first")
        seed = np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1)[0]
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global state
            torch.manual_seed(int(seed))
            images = [self.transform(read_image(path)) for path in self.draw(index)]
        return torch.stack(images), torch.tensor(index)  # (K, 3, H, W), ()


def _find_cities(root: Path, cities: Iterable[str] | None) -> list[str]:
    folder = root / "Dataframes"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{root} is not in the GSV-Cities layout: it should hold the folders Dataframes "
            "(one CSV a city) and Images (one folder a city)."
        )
    found = sorted(path.stem for path in folder.glob("*.csv"))
    wanted = found if cities is None else list(cities)
    missing = sorted(set(wanted) - set(found))
    if missing or not wanted:
        raise FileNotFoundError(
            f"no CSV for the cities {missing or 'asked for'} in {folder}; there are {found}."
        )
    return wanted


def _read_city(root: Path, city: str, number: int) -> pd.DataFrame:
    """One city's images: `label` (unique over cities), `path` (relative to the root), lat, lon.

    Latitude and longitude are read as text: they are part of the file name, digit by digit.
    """
    table_path = root / "Dataframes" / f"{city}.csv"
    table = pd.read_csv(table_path, dtype={"lat": str, "lon": str, "panoid": str})
    lacking = [column for column in GSV_COLUMNS if column not in table]
    if lacking:
        raise ValueError(f"{table_path} lacks the columns {lacking}; it has {list(table)}.")
    try:
        names = [_file_name(row) for row in table[GSV_COLUMNS].itertuples(index=False)]
    except ValueError as error:
        raise ValueError(f"{table_path} has a row whose numbers cannot be read: {error}") from error
    folder = f"Images/{city}/"
    labels = table["place_id"].to_numpy() + number * CITY_STRIDE
    return pd.DataFrame(
        {
            "label": labels,
            "path": [folder + name for name in names],
            "lat": table["lat"],
            "lon": table["lon"],
        }
    )


def _to_utm(latlon: list[np.ndarray]) -> list[np.ndarray]:
    """Latitude and longitude (n, 2) of each place as metres (n, 2), all in one UTM zone."""
    import utm

    _, _, zone, letter = utm.from_latlon(*latlon[0][0])
    return [
        np.stack(
            utm.from_latlon(*place.T, force_zone_number=zone, force_zone_letter=letter)[:2], axis=1
        )
        for place in latlon
    ]


def _file_name(row: Sequence) -> str:
    return (
        f"{row.city_id}_{int(row.place_id):07d}_{int(row.year)}_{int(row.month):02d}"
        f"_{int(row.northdeg):03d}_{row.lat}_{row.lon}_{row.panoid}.jpg"
    )


def _require_files(root: Path, paths: Iterable[str]) -> None:
    """Every image must be there, and all that are missing are reported together."""
    folders: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = path.rsplit("/", 1)
        if folder not in folders:
            whole = root / folder
            folders[folder] = {entry.name for entry in whole.iterdir()} if whole.is_dir() else set()
        if name not in folders[folder]:
            missing.append(path)
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} images that the CSV files name are missing under {root}, the first "
            f"ones: {missing[:5]}. Download them, or take their rows out."
        )
