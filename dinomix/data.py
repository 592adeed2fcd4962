"""Images and where they were taken: test sets in the UTM layout, places in that of GSV-Cities."""

import copy
import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from scipy.spatial import KDTree
from torch.utils.data import Dataset

from dinomix.images import Transform, read_image
from dinomix.plumbing.configs import real, whole
from dinomix.plumbing.csvtables import Table
from dinomix.plumbing.files import atomic_path
from dinomix.plumbing.imagenames import is_visible_image, list_images
from dinomix.plumbing.positions import degrees_of, plane_of_degrees, read_names, read_utm

UNITS = ("m", "frames", "places")
LARGEST = 2**53 - 1  # beyond it, float64 does not tell whole numbers apart
TWO = ": the loss needs two images of a place"
DECIMAL = re.compile(r"(?<=_)-?\d+(\.\d*)?(e-?\d+)?(?=_)", re.ASCII)  # in file names
FRAME = re.compile(r"(\d+)-\d+@", re.ASCII)  # how names of a drive's frames begin
LEADS_OUT = re.compile(r"[/\\]|\.\.")  # what no part of a file name may hold
# Of the CSV files in the GSV-Cities layout: four whole numbers, then what is text in file names.
COLUMNS = ["place_id", "year", "month", "northdeg", "city_id", "lat", "lon", "panoid"]


class TestSet:
    """Database and queries in the UTM layout that most of the field's formatters write.

    ```
    folder/images/<split>/database/@UTM_east@UTM_north@....jpg
    folder/images/<split>/queries/...                 one query set, or
    folder/images/<split>/queries_<condition>/...     one for each condition
    ```

    `folder` may also be the one that holds `database`. For other layouts see `datasets.layouts`,
    for the published sets `datasets.benchmarks`.

    Args:
        split: "val" or "test"; None takes "test" where there are splits.
        name: of the data set in results tables; None takes it from the folder.
        threshold: a database image within this many metres of a query is a positive.
        condition: the queries of this alone, "" for those in `queries`; None takes all.

    Attributes:
        database, queries: paths, sorted by name (queries: by condition, then name).
        database_utm, query_utm: positions, float64 (N, 2) in `unit`: easting and northing in
            metres of one plane, even where names give several UTM zones, (frame, 0), or (number
            of the place, 0). None where the set is unlabelled.
        unit: "m", "frames" or "places", of positions and threshold.
        conditions: one name a query; "" for a plain `queries` folder.
        groups: one name a query, which those share that are not independent.

    Raises:
        FileNotFoundError: a folder is missing or holds no images.
        ValueError: a file name has no coordinates, or impossible ones; the file is named.
    """

    __test__ = False  # for pytest, which would collect a class of this name

    def __init__(
        self,
        folder: str | Path,
        split: str | None = None,
        name: str | None = None,
        threshold: float = 25.0,
        condition: str | None = None,
    ) -> None:
        folder = Path(folder)
        root = _split_folder(folder, split)
        self.name = name or (folder.name if root == folder else f"{folder.name}-{root.name}")
        self.threshold, self.unit = real("threshold", threshold), "m"
        self.database = list_images(root / "database")
        self.queries: list[Path] = []
        self.conditions: list[str] = []
        wanted = "queries*" if condition is None else f"queries_{condition}".removesuffix("_")
        for query_folder in sorted(path for path in root.glob(wanted) if path.is_dir()):
            images = list_images(query_folder)
            which = query_folder.name.removeprefix("queries").removeprefix("_")
            self.queries += images
            self.conditions += [which if condition is None else ""] * len(images)
        if not self.queries:
            expected = "`queries` or `queries_<condition>`" if condition is None else f"`{wanted}`"
            raise FileNotFoundError(f"{root} has no query folder; expected {expected}.")
        metres = read_utm([*self.database, *self.queries])
        self.database_utm, self.query_utm = np.split(metres, [len(self.database)])
        self.positions_in_names = True

    @classmethod
    def from_lists(
        cls,
        name: str,
        database: list[Path],
        queries: list[Path],
        database_utm: np.ndarray | None,
        query_utm: np.ndarray | None,
        threshold: float = 25.0,
        *,
        conditions: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        unit: str = "m",
        positions_in_names: bool = True,
    ) -> "TestSet":
        """A test set of images that lie anywhere; without positions (both None) it is unlabelled.

        Args:
            groups: of the queries; None takes what `TestSet.groups` makes of names and positions.
            positions_in_names: whether file names give positions, as in the UTM layout; where
                they do not, the fingerprint covers the positions too.

        Raises:
            ValueError: lists of different lengths, an unknown unit, positions of one side only
                or that are not finite.
        """
        test = cls.__new__(cls)
        test.name, test.threshold, test.unit = name, real("threshold", threshold), unit
        test.database, test.queries = list(database), list(queries)
        test.conditions = [""] * len(test.queries) if conditions is None else list(conditions)
        test.database_utm, test.query_utm = database_utm, query_utm
        test.positions_in_names = positions_in_names
        if unit not in UNITS:
            raise ValueError(f"unit is {unit!r}; choose one of {', '.join(UNITS)}")
        if groups is not None:
            test.groups = list(groups)
        for what, names in (("conditions", conditions), ("groups", groups)):
            if names is not None and len(names) != len(queries):
                raise ValueError(f"{len(names)} {what} for {len(queries)} queries")
        if (database_utm is None) != (query_utm is None):
            raise ValueError("positions of one side only: give those of database and queries")
        for paths, positions in ((test.database, database_utm), (test.queries, query_utm)):
            if test.labelled:
                _check_positions(paths, positions)
        return test

    @cached_property
    def groups(self) -> list[str]:
        """One name a query: those that share it see one place, and are not independent of others.

        The database position nearest to it, if that is a positive, by the name of its first image:
        one for all cut-outs of a panorama, and for all conditions of a place. The frames of a
        drive (names like 02-0017@...) are in the group of its first. Else its own name.
        """
        names = [f"{c}/{path.name}" for c, path in zip(self.conditions, self.queries, strict=True)]
        if self.labelled:
            places, first = np.unique(self.database_utm, axis=0, return_index=True)
            away, nearest = KDTree(places).query(self.query_utm)  # (Q,), (Q,)
            for query in np.flatnonzero(away <= self.threshold):
                names[query] = self.database[first[nearest[query]]].name
        of_drive: dict[str, str] = {}
        for query, path in enumerate(self.queries):
            if drive := FRAME.match(path.name):
                names[query] = of_drive.setdefault(drive[1], names[query])
        return names

    @property
    def labelled(self) -> bool:
        """Whether it is known where the images were taken."""
        return self.database_utm is not None

    @cached_property
    def degrees(self) -> np.ndarray:
        """Latitude and longitude (WGS 84) of database, then queries, float64 (N + Q, 2): NaN where
        they are unknown, as of metres without a UTM zone.
        """
        paths = [*self.database, *self.queries]
        if not (self.labelled and self.unit == "m" and self.positions_in_names):
            return np.full((len(paths), 2), np.nan)
        return degrees_of(*read_names(paths))

    @property
    def convention(self) -> str:
        """How a positive is decided, as it stands in results tables."""
        return convention(self.threshold, self.unit) if self.labelled else "no positions"

    @property
    def fingerprint(self) -> str:
        """Names what is evaluated: threshold, conditions and file names, not where they lie."""
        digest = hashlib.sha256(self.convention.encode())
        for path in self.database:
            digest.update(f"database/{path.name}\n".encode(errors="surrogateescape"))
        for condition, path in zip(self.conditions, self.queries, strict=True):
            digest.update(f"{condition}/{path.name}\n".encode(errors="surrogateescape"))
        if self.labelled and not self.positions_in_names:
            for positions in (self.database_utm, self.query_utm):
                # by centimetres: the last bits of a projection depend on the machine
                digest.update((np.rint(100 * positions) + 0.0).tobytes())
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        names = ", ".join(dict.fromkeys(self.conditions))
        return (
            f"TestSet({self.name}: {len(self.database)} database images, {len(self.queries)} "
            f"queries, positives: {self.convention}{f', conditions: {names}' if names else ''})"
        )


def convention(threshold: float, unit: str) -> str:
    """How a positive is decided, as it stands in results tables."""
    frames = f"+-{threshold:g} frame{'s' if threshold != 1 else ''}"
    return {"m": f"{threshold:g} m", "frames": frames, "places": "same place"}[unit]


def _split_folder(folder: Path, split: str | None) -> Path:
    candidates = [folder / "images" / (split or "test"), *([folder] if split is None else [])]
    for candidate in candidates:
        if (candidate / "database").is_dir():
            return candidate
    lacking = f"{folder} holds no database of a test set"
    raise FileNotFoundError(
        f"{lacking if folder.is_dir() else f'there is no folder {folder}'}; expected "
        "<folder>/images/<split>/database and <folder>/images/<split>/queries, or a folder that "
        "holds database and queries itself."
    )


def _check_positions(paths: Sequence[Path], positions: np.ndarray) -> None:
    if np.shape(positions) != (len(paths), 2):
        raise ValueError(
            f"positions of {len(paths)} images should be ({len(paths)}, 2), but are "
            f"{np.shape(positions)}"
        )
    lost = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if len(lost):
        raise ValueError(
            f"positions of {len(lost)} images are no finite numbers, first that of "
            f"{paths[lost[0]]}: {np.asarray(positions)[lost[0]].tolist()}"
        )


class PlaceDataset(Dataset):
    """Places with several images each, in the layout that GSV-Cities is published in.

    ```
    root/Dataframes/<City>.csv     place_id, year, month, northdeg, city_id, lat, lon, panoid
    root/Images/<City>/<City>_<place_id:07d>_<year>_<month:02d>_<northdeg:03d>_<lat>_<lon>_<panoid>.jpg
    ```

    Item `i` is a pair: K images of place i, (K, 3, H, W) as `transform` gives them, and the label
    i, int64 (). What is drawn, and how it is augmented, depends only on (seed, epoch, i), never on
    the worker or on earlier draws, so a killed run goes on exactly where it stopped.

    Args:
        cities: names of CSV files; None takes all of them.
        images_per_place: K, at least 2.
        min_images: places with fewer images are left out; None means K.

    Attributes:
        places: for each place, the paths of its images: bytes (n,), UTF-8, relative to the root,
            views of one array: processes that load images share it, but would copy strings.
        city_of: int64 (places,), the number in `cities` of each place's city.

    Raises:
        FileNotFoundError: the folder, a city's CSV or images are missing; the first are named.
        ValueError: a CSV has a column or row that cannot be, no place has enough images, or K < 2.
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
        self.images_per_place = whole("images_per_place", images_per_place, 2, why=TWO)
        self.seed, self.epoch = whole("seed", seed), 0
        self.transform: Transform | None = None
        self.frozen: Mapping[Path, torch.Tensor] | None = None
        least = whole("min_images", self.images_per_place if min_images is None else min_images)
        if least < self.images_per_place:
            raise ValueError(
                f"min_images is {least}, too few to draw images_per_place = {images_per_place} from"
            )
        self.cities = _find_cities(self.root, cities)
        found = [read_city(self.root, city) for city in self.cities]
        paths, latlon, counts = map(np.concatenate, zip(*found, strict=True))
        paths = _find_images(self.root, paths)

        enough = counts >= least  # (places,)
        if not enough.any():
            raise ValueError(
                f"none of the {len(counts)} places in {self.root} has {least} images; "
                "lower images_per_place."
            )
        rows = np.repeat(enough, counts)  # (images,)
        ends = np.cumsum(counts[enough])[:-1]
        self.places = np.split(paths[rows], ends)
        self._latlon = np.split(latlon[rows], ends)
        self.city_of = np.repeat(np.arange(len(found)), [len(c.counts) for c in found])[enough]

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

    @property
    def paths(self) -> list[Path]:
        """All images, place by place."""
        return [path for place in self.places for path in self._under_root(place)]

    @property
    def latlon(self) -> np.ndarray:
        """Where the images of `paths` were taken: degrees, float64 (N, 2)."""
        return np.concatenate(self._latlon)

    def with_transform(self, transform: Transform) -> Self:
        """A copy whose images go through `transform`."""
        other = copy.copy(self)
        other.transform = transform
        return other

    def with_frozen(self, frozen: Mapping[Path, torch.Tensor]) -> Self:
        """A copy whose items hold, for each image, what a frozen prefix made of it."""
        other = copy.copy(self)
        other.frozen = frozen
        return other

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next draws belong to."""
        self.epoch = epoch

    def draw(self, index: int) -> list[Path]:
        """The K images of place `index` in this epoch."""
        paths = self.places[index]
        rng = np.random.default_rng([self.seed, self.epoch, index])
        chosen = rng.choice(len(paths), size=self.images_per_place, replace=False)
        return self._under_root(paths[chosen])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        drawn, label = self.draw(index), torch.tensor(index)
        if self.frozen is not None:
            return torch.stack([self.frozen[path] for path in drawn]), label
        if self.transform is None:
            raise ValueError("this PlaceDataset has no transform yet; call with_transform first")
        seed = np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1)[0]
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global state
            torch.manual_seed(int(seed))
            images = [self.transform(read_image(path)) for path in drawn]
        return torch.stack(images), label  # (K, 3, H, W), ()

    def hold_out(
        self, share: float = 0.1, threshold: float = 25.0, crops: str | Path | None = None
    ) -> tuple[Self, TestSet]:
        """Set places aside to validate on: the places that remain, and a test set of the others.

        Of each place aside, drawn by the seed, the first image is in the database, the others ask.

        Args:
            crops: a folder for parts of the queries, 30 to 100 % of their area, which then ask in
                their place. Whole images of fixed cameras show no change of viewpoint, and a
                model chosen on them may bear none.
        """
        count = round(real("share", share) * len(self))
        if not 0 < count < len(self):
            raise ValueError(f"share is {share!r}, which sets {count} of {len(self)} places aside")
        order = np.random.default_rng(self.seed).permutation(len(self))
        aside, remaining = sorted(order[:count]), sorted(order[count:])
        rest = copy.copy(self)
        rest.places = [self.places[i] for i in remaining]
        rest._latlon = [self._latlon[i] for i in remaining]
        rest.city_of = self.city_of[remaining]

        paths = [self._under_root(self.places[i]) for i in aside]
        plane = plane_of_degrees(np.concatenate([self._latlon[i] for i in aside]), [*chain(*paths)])
        metres = np.split(plane, np.cumsum([len(images) for images in paths])[:-1])
        queries = [path for images in paths for path in images[1:]]
        if crops is not None:
            queries = [_cropped(path, Path(crops)) for path in queries]
        val = TestSet.from_lists(
            f"{self.name}-held-out",
            [images[0] for images in paths],
            queries,
            np.stack([positions[0] for positions in metres]),
            np.concatenate([positions[1:] for positions in metres]),
            threshold,
            conditions=None if crops is None else ["cropped"] * len(queries),
        )
        return rest, val

    def _under_root(self, paths: np.ndarray) -> list[Path]:
        return [self.root / path.decode() for path in paths.tolist()]


def _cropped(path: Path, folder: Path) -> Path:
    """The image of a part of `path`, of its own shape, under the same name in `folder`.

    The name decides which part, so whatever lies there already is the same one.
    """
    rng = np.random.default_rng(list(os.fsencode(path.name)))
    side, left, top = math.sqrt(rng.uniform(0.3, 1.0)), *rng.random(2)
    if not (target := folder / path.name).exists():
        image = read_image(path)
        width, height = (max(1, round(side * length)) for length in image.size)
        x, y = round(left * (image.width - width)), round(top * (image.height - height))
        with atomic_path(target) as temporary:
            image.crop((x, y, x + width, y + height)).save(temporary, quality=95)
    return target


class CityImages(NamedTuple):
    """One city's images, place by place; the places by id, the images of one as in the CSV."""

    paths: np.ndarray  # bytes (images,), UTF-8, relative to the root
    latlon: np.ndarray  # float64 (images, 2), degrees
    counts: np.ndarray  # int64 (places,), images of each


def read_city(root: Path, city: str) -> CityImages:
    """What one city's CSV says; no image is looked for, and a row that cannot be is named.

    Images lie in `Images/<City>`, or without such a folder in `Images/<city_id>`: the README of
    GSV-Cities shows the one (`Paris`, whose city_id is PRS), its code reads the other.
    """
    table = Table.read(root / "Dataframes" / f"{city}.csv", COLUMNS)
    numbers = [table.values(name, -LARGEST, LARGEST, whole=True) for name in COLUMNS[:4]]
    latlon = np.stack([table.values("lat", -90, 90), table.values("lon", -180, 180)], axis=1)
    for name in ("city_id", "panoid"):
        good = [bool(text) and not LEADS_OUT.search(text) for text in table.columns[name]]
        table.require(name, good, "part of a file name, without / and ..")
    own_folder = (root / "Images" / city).is_dir()
    whole = [column.astype(np.int64).tolist() for column in numbers]
    texts = [table.columns[name] for name in COLUMNS[4:]]  # degrees too: digit by digit in names
    paths = [
        f"Images/{city if own_folder else city_id}/"
        f"{city_id}_{place:07d}_{year}_{month:02d}_{north:03d}_{lat}_{lon}_{pano}.jpg"
        for place, year, month, north, city_id, lat, lon, pano in zip(*whole, *texts, strict=True)
    ]
    if doubles := len(paths) - len(set(paths)):
        first = Counter(paths).most_common(1)[0][0]
        rows = [number for number, path in zip(table.numbers, paths, strict=True) if path == first]
        raise ValueError(
            f"{table.path} has {doubles} rows too many for images that other rows have named, "
            f"such as {first} in rows {rows}"
        )
    order = np.argsort(numbers[0], kind="stable")  # by place
    _, counts = np.unique(numbers[0], return_counts=True)
    return CityImages(np.array([path.encode() for path in paths])[order], latlon[order], counts)


def _find_cities(root: Path, cities: Iterable[str] | None) -> list[str]:
    """The cities asked for, or all that have a CSV, sorted."""
    folder = root / "Dataframes"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{root} is not in the GSV-Cities layout: expected the folders Dataframes (one CSV a "
            "city) and Images (one folder a city)."
        )
    found = sorted(path.stem for path in folder.glob("[!.]*.csv"))  # hidden ones: half written
    wanted = found if cities is None else list(cities)
    missing = sorted(set(wanted) - set(found))
    if missing or not wanted:
        raise FileNotFoundError(
            f"no CSV for the cities {missing or 'asked for'} in {folder}; there are {found}."
        )
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"cities are {wanted}, one of them twice; name each once.")
    return wanted


def _find_images(root: Path, paths: np.ndarray) -> np.ndarray:
    """The paths as on the disk, where suffixes may differ, and 48.400000 be 48.4, as pandas saves
    it; all that are missing are reported together.
    """
    names = [path.decode() for path in paths.tolist()]
    folders = {name.rsplit("/", 1)[0] for name in names}
    there = [folder for folder in folders if (root / folder).is_dir()]
    present = {f"{folder}/{entry}" for folder in there for entry in os.listdir(root / folder)}
    if present.issuperset(names):
        return paths
    stems = {name: name.rpartition(".")[0] for name in sorted(present.union(names))}
    keys = {k: DECIMAL.sub(lambda m: f"{float(m[0]):.7f}", stem) for k, stem in stems.items()}
    alike = {key: name for name, key in keys.items() if name in present and is_visible_image(name)}
    found = [name if name in present else alike.get(keys[name]) for name in names]
    if missing := [name for name, image in zip(names, found, strict=True) if image is None]:
        raise FileNotFoundError(
            f"{len(missing)} images that the CSV files name are missing under {root}, the first "
            f"ones: {missing[:5]}. Download them, or take their rows out."
        )
    return np.array([image.encode() for image in found])
