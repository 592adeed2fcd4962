"""Training places in the GSV-Cities layout: P places x K images a batch."""

import copy
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch.utils.data import Dataset

from dinomix.gsv import CityImages, find_cities, missing_images, read_city
from dinomix.images import Transform, read_image
from dinomix.testsets import TestSet

APART = 1e7  # metres between two cities in the coordinates of places that are held out


class PlaceDataset(Dataset):
    """Places with several images each, in the layout that GSV-Cities is published in.

    ```
    root/Dataframes/<City>.csv     place_id, year, month, northdeg, city_id, lat, lon, panoid
    root/Images/<City>/<City>_<place_id:07d>_<year>_<month:02d>_<northdeg:03d>_<lat>_<lon>_<panoid>.jpg
    ```

    Item `i` is a pair: K different images of place i as their transform gives them, (K, 3, H, W)
    (`images.Normalise` is for the whole batch), and the place's label as int64 (). Which images,
    and how they are augmented, depends only on (seed, epoch, i): never on the worker or on what
    was asked before, so a killed run can go on exactly where it stopped.

    Args:
        root: the folder that holds `Dataframes` and `Images`.
        cities: names of CSV files to use; None takes all of them.
        images_per_place: K.
        min_images: places with fewer images are left out; None means K.
        seed: of the draws.

    Attributes:
        places: for each place, the paths of its images: bytes (n,), UTF-8, relative to the root.
            All are views of one array, which processes that load images share: of a Python string
            each would get a copy, by counting references to it.
        cities: names of the CSV files in use.
        city_of: int64 (places,), the number in `cities` of each place's city.

    Raises:
        FileNotFoundError: the folder, a city's CSV or images are missing; up to five are named.
        ValueError: a CSV lacks columns, or has a row that cannot be (`gsv.read_city`); or no place
            has enough images.
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
        self.cities = find_cities(self.root, cities)
        tables = [read_city(self.root, city) for city in self.cities]
        _require_images(self.root, tables)
        counts = np.concatenate([table.counts for table in tables])  # (places,)
        enough = counts >= self.min_images
        if not enough.any():
            raise ValueError(
                f"none of the {len(counts)} places in {self.root} has {self.min_images} images; "
                "lower images_per_place."
            )
        rows = np.repeat(enough, counts)  # (images,)
        ends = np.cumsum(counts[enough])[:-1]
        self.places = np.split(np.concatenate([table.paths for table in tables])[rows], ends)
        self._latlon = np.split(np.concatenate([table.latlon for table in tables])[rows], ends)
        places_of = [len(table.counts) for table in tables]
        self.city_of = np.repeat(np.arange(len(tables)), places_of)[enough]

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
            digest.update(b"\n".join(paths.tolist()) + b"\n\n")
        return digest.hexdigest()[:16]

    def with_transform(self, transform: Transform) -> Self:
        """A copy whose images go through `transform`, such as `images.train_transform`."""
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
        return [path for place in self.places for path in self._under_root(place)]

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
        rest.city_of = self.city_of[remaining]
        paths = [self._under_root(self.places[i]) for i in aside]
        utm = _to_utm([self._latlon[i] for i in aside], self.city_of[aside].tolist())
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
        return self._under_root(paths[chosen])

    def _under_root(self, paths: np.ndarray) -> list[Path]:
        return [self.root / path.decode() for path in paths.tolist()]

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


def _require_images(root: Path, tables: Iterable[CityImages]) -> None:
    """Every image must be there, and all that are missing are reported together."""
    missing = [path for table in tables for path in missing_images(root, table.paths)]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} images that the CSV files name are missing under {root}, the first "
            f"ones: {missing[:5]}. Download them, or take their rows out."
        )


def _to_utm(latlon: Sequence[np.ndarray], city_of: Sequence[int]) -> list[np.ndarray]:
    """Latitude and longitude (n, 2) of each place as metres (n, 2).

    Each city is measured in one UTM zone, that of its first place, and moved east so that no place
    lies near one of another city.
    """
    import utm

    zones: dict[int, tuple[int, str]] = {}
    metres = []
    for place, city in zip(latlon, city_of, strict=True):
        if city not in zones:
            zones[city] = utm.from_latlon(*place[0])[2:]
        zone, letter = zones[city]
        east, north, _, _ = utm.from_latlon(
            *place.T, force_zone_number=zone, force_zone_letter=letter
        )
        metres.append(np.stack([east + city * APART, north], axis=1))
    return metres
