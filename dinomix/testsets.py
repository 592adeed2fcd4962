"""Test sets: a database, queries, and where each image was taken."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dinomix.imagenames import IMAGE_SUFFIXES, is_visible_image

QUERY_PREFIX = "queries"
FARTHEST = 1e7  # metres: no UTM coordinate is larger, nor any distance from equator to pole
UNITS = ("m", "frames", "places")


class TestSet:
    """Database and queries in the UTM layout that most of the field's formatters write.

    ```
    folder/images/<split>/database/@UTM_east@UTM_north@....jpg
    folder/images/<split>/queries/...                 one query set, or
    folder/images/<split>/queries_<condition>/...     one for each condition
    ```

    `folder` may also be the split's own folder, the one that holds `database`. `layouts` reads
    others: CSV files, sequences numbered by frame, folders without labels; `benchmarks` opens the
    published sets by name.

    Args:
        folder: see above.
        split: "val" or "test"; None takes "test" where there are splits.
        name: of the data set in results tables; None takes it from the folder.
        threshold: a database image within this many metres of a query is a positive.

    Attributes:
        database, queries: lists of paths, sorted by name (queries: by condition, then name).
        database_utm, query_utm: positions, float64 (N, 2) in `unit`: easting and northing in
            metres, (frame, 0), or (number of the place, 0). None where the set is unlabelled.
        unit: "m", "frames" or "places".
        threshold: in `unit`; a database image at most this far from a query is a positive.
        conditions: one name a query; "" for a plain `queries` folder.
        convention: how a positive is decided, as it stands in results tables.

    Raises:
        FileNotFoundError: a folder is missing or holds no images; says what was expected.
        ValueError: a file name has no coordinates, or impossible ones; the file is named.
    """

    __test__ = False  # for pytest, which would collect a class of this name

    def __init__(
        self,
        folder: str | Path,
        split: str | None = None,
        name: str | None = None,
        threshold: float = 25.0,
    ) -> None:
        folder = Path(folder)
        root = _split_folder(folder, split)
        self.name = name or (folder.name if root == folder else f"{folder.name}-{root.name}")
        self.threshold, self.unit = threshold, "m"
        self.database = list_images(root / "database")
        self.queries: list[Path] = []
        self.conditions: list[str] = []
        query_folders = sorted(path for path in root.glob(f"{QUERY_PREFIX}*") if path.is_dir())
        if not query_folders:
            raise FileNotFoundError(
                f"{root} has no query folder; expected `queries` or `queries_<condition>`."
            )
        for query_folder in query_folders:
            images = list_images(query_folder)
            condition = query_folder.name.removeprefix(QUERY_PREFIX).removeprefix("_")
            self.queries += images
            self.conditions += [condition] * len(images)
        self.database_utm = read_utm(self.database)
        self.query_utm = read_utm(self.queries)
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
        unit: str = "m",
        positions_in_names: bool = True,
    ) -> "TestSet":
        """A test set of images that lie anywhere.

        Args:
            database_utm, query_utm: positions (N, 2) in `unit`; both None for an unlabelled set.
            threshold: in `unit`.
            conditions: one a query; None for a single set of queries.
            positions_in_names: whether file names tell positions, as in the UTM layout; where
                they do not, the fingerprint covers the positions too.

        Raises:
            ValueError: lists of different lengths, an unknown unit, positions of one side only
                or that are not finite.
        """
        test = cls.__new__(cls)
        test.name, test.threshold, test.unit = name, threshold, unit
        test.database, test.queries = list(database), list(queries)
        test.conditions = [""] * len(test.queries) if conditions is None else list(conditions)
        test.database_utm, test.query_utm = database_utm, query_utm
        test.positions_in_names = positions_in_names
        if unit not in UNITS:
            raise ValueError(f"unit is {unit!r}; choose one of {', '.join(UNITS)}")
        if len(test.conditions) != len(test.queries):
            raise ValueError(f"{len(test.conditions)} conditions for {len(test.queries)} queries")
        if (database_utm is None) != (query_utm is None):
            raise ValueError("positions of one side only: give those of database and queries")
        if test.labelled:
            for positions, paths in ((database_utm, test.database), (query_utm, test.queries)):
                if np.shape(positions) != (len(paths), 2):
                    raise ValueError(
                        f"positions of {len(paths)} images should be ({len(paths)}, 2), "
                        f"but are {np.shape(positions)}"
                    )
                lost = np.flatnonzero(~np.isfinite(positions).all(axis=1))
                if len(lost):
                    raise ValueError(
                        f"the positions of {len(lost)} images are no finite numbers, the first "
                        f"one that of {paths[lost[0]]}: {np.asarray(positions)[lost[0]].tolist()}"
                    )
        return test

    @property
    def labelled(self) -> bool:
        """Whether it is known where the images were taken."""
        return self.database_utm is not None

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
        conditions = ", ".join(dict.fromkeys(self.conditions)).strip()
        shown = f", conditions: {conditions}" if conditions else ""
        return (
            f"TestSet({self.name}: {len(self.database)} database images, "
            f"{len(self.queries)} queries, positives: {self.convention}{shown})"
        )


def convention(threshold: float, unit: str) -> str:
    """How a positive is decided, as it stands in results tables."""
    if unit == "places":
        return "same place"
    if unit == "frames":
        return f"+-{threshold:g} frame{'s' if threshold != 1 else ''}"
    return f"{threshold:g} m"


def read_utm(paths: list[Path]) -> np.ndarray:
    """Easting and northing in metres from names like `@0400000.00@5000000.00@31@T@....jpg`.

    Returns:
        float64 (N, 2).

    Raises:
        ValueError: names the first file whose name has no two finite numbers there, or one beyond
            10,000 km, which no UTM coordinate is.
    """
    coordinates = np.empty((len(paths), 2))
    for i, path in enumerate(paths):
        fields = path.name.split("@")
        try:
            coordinates[i] = as_number(fields[1]), as_number(fields[2])
        except (IndexError, ValueError):
            coordinates[i] = np.nan
        if not np.isfinite(coordinates[i]).all():
            raise ValueError(
                f"no coordinates in the name of {path}: expected "
                "@UTM_east@UTM_north@..., both in metres, for example "
                "@0400000.00@5000000.00@31@T@.jpg"
            )
    too_far = np.flatnonzero((np.abs(coordinates) > FARTHEST).any(axis=1))
    if len(too_far):
        east, north = coordinates[too_far[0]]
        raise ValueError(
            f"the coordinates in {len(too_far)} names are out of range, first in that of "
            f"{paths[too_far[0]]}: ({east:.10g}, {north:.10g}) is beyond 10,000 km, which UTM "
            "metres never are"
        )
    return coordinates


def as_number(text: str) -> float:
    """The number that text stands for, as tables and file names have it: in ASCII digits.

    Raises:
        ValueError: for anything else, such as `4_0`, which Python takes for 40.
    """
    if not text.isascii() or "_" in text:
        raise ValueError(f"{text!r} is no number")
    return float(text)


def list_images(folder: Path) -> list[Path]:
    """The images of a folder, sorted by name, without hidden files (half-written ones are).

    Raises:
        FileNotFoundError: there is no such folder, or it holds no images.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    # Of strings: paths would take twice as long in a folder of a hundred thousand.
    images = sorted(filter(is_visible_image, os.listdir(folder)))
    if not images:
        raise FileNotFoundError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
    return [folder / name for name in images]


def _split_folder(folder: Path, split: str | None) -> Path:
    candidates = [folder / "images" / (split or "test")]
    if split is None:
        candidates.append(folder)
    for candidate in candidates:
        if (candidate / "database").is_dir():
            return candidate
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; {_EXPECTED}")
    raise FileNotFoundError(f"{folder} holds no database of a test set; {_EXPECTED}")


_EXPECTED = (
    "expected <folder>/images/<split>/database and <folder>/images/<split>/queries, "
    "or a folder that holds database and queries itself."
)
