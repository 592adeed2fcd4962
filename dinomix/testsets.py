"""Test sets: a database and queries whose file names tell where they were taken."""

import hashlib
from pathlib import Path

import numpy as np

from dinomix.images import IMAGE_SUFFIXES

QUERY_PREFIX = "queries"


class TestSet:
    """Database and queries in the UTM layout that most of the field's formatters write.

    ```
    folder/images/<split>/database/@UTM_east@UTM_north@....jpg
    folder/images/<split>/queries/...                 one query set, or
    folder/images/<split>/queries_<condition>/...     one for each condition
    ```

    `folder` may also be the split's own folder, the one that holds `database`.

    Args:
        folder: see above.
        split: "val" or "test"; None takes "test" where there are splits.
        name: of the data set in results tables; None takes it from the folder.
        threshold: a database image within this many metres of a query is a positive.

    Attributes:
        database, queries: lists of paths, sorted by name (queries: by condition, then name).
        database_utm, query_utm: float64 (N, 2), easting and northing in metres.
        conditions: one name a query; "" for a plain `queries` folder.
        convention: how a positive is decided, as it stands in results tables.

    Raises:
        FileNotFoundError: a folder is missing or holds no images; says what was expected.
        ValueError: a file name has no coordinates; the file is named.
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
        self.threshold = threshold
        self.database = _list_images(root / "database")
        self.queries: list[Path] = []
        self.conditions: list[str] = []
        query_folders = sorted(path for path in root.glob(f"{QUERY_PREFIX}*") if path.is_dir())
        if not query_folders:
            raise FileNotFoundError(
                f"{root} has no query folder; expected `queries` or `queries_<condition>`."
            )
        for query_folder in query_folders:
            images = _list_images(query_folder)
            condition = query_folder.name.removeprefix(QUERY_PREFIX).removeprefix("_")
            self.queries += images
            self.conditions += [condition] * len(images)
        self.database_utm = read_utm(self.database)
        self.query_utm = read_utm(self.queries)

    @classmethod
    def from_lists(
        cls,
        name: str,
        database: list[Path],
        queries: list[Path],
        database_utm: np.ndarray,
        query_utm: np.ndarray,
        threshold: float = 25.0,
    ) -> "TestSet":
        """A test set of images that lie anywhere, one condition; coordinates (N, 2) in metres."""
        test = cls.__new__(cls)
        test.name, test.threshold = name, threshold
        test.database, test.queries = list(database), list(queries)
        test.conditions = [""] * len(test.queries)
        test.database_utm, test.query_utm = database_utm, query_utm
        return test

    @property
    def convention(self) -> str:
        return f"{self.threshold:g} m"

    @property
    def fingerprint(self) -> str:
        """Names what is evaluated: threshold, conditions and file names, not where they lie."""
        digest = hashlib.sha256(self.convention.encode())
        for path in self.database:
            digest.update(f"database/{path.name}\n".encode())
        for condition, path in zip(self.conditions, self.queries, strict=True):
            digest.update(f"{condition}/{path.name}\n".encode())
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        conditions = ", ".join(dict.fromkeys(self.conditions)).strip()
        shown = f", conditions: {conditions}" if conditions else ""
        return (
            f"TestSet({self.name}: {len(self.database)} database images, "
            f"{len(self.queries)} queries, positives within {self.convention}{shown})"
        )


def read_utm(paths: list[Path]) -> np.ndarray:
    """Easting and northing in metres from names like `@0400000.00@5000000.00@31@T@....jpg`.

    Returns:
        float64 (N, 2).

    Raises:
        ValueError: names the first file whose name has no two finite numbers there.
    """
    coordinates = np.empty((len(paths), 2))
    for i, path in enumerate(paths):
        fields = path.name.split("@")
        try:
            coordinates[i] = float(fields[1]), float(fields[2])
        except (IndexError, ValueError):
            coordinates[i] = np.nan
        if not np.isfinite(coordinates[i]).all():
            raise ValueError(
                f"no coordinates in the name of {path}: expected "
                "@UTM_east@UTM_north@..., both in metres, for example "
                "@0400000.00@5000000.00@31@T@.jpg"
            )
    return coordinates


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


def _list_images(folder: Path) -> list[Path]:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
    return paths
