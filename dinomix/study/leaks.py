"""Leaks: training images that a test set shows again, and queries that lie in its database.

What is found is there to be looked at: two pictures of one scene may be alike without being copies.
"""

import filecmp
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import pandas as pd
import utm
from PIL import Image
from scipy.fft import dctn
from scipy.spatial import KDTree
from torch import nn
from tqdm.auto import tqdm

from dinomix.data import PlaceDataset, TestSet
from dinomix.images import read_image
from dinomix.plumbing.configs import real
from dinomix.plumbing.imagenames import list_images
from dinomix.plumbing.positions import read_names, read_zones
from dinomix.retrieval import describe, search

BITS = 32  # of 256: copies that were resized and recompressed differ by fewer, as a rule
SIMILARITY = 0.95
MOST = 5  # others that are looked at for an image, by each measure
FINDINGS = ["same file", "same picture", "alike", "near"]  # the worst first
COLUMNS = ["finding", "image", "part", "other", "other_part", "bits", "similarity", "metres"]
RADIUS = 6_371_000.0  # metres: of a round Earth, on which short ways are at most 0.6 % wrong
OFF_EARTH = 1e9  # metres: where maps of one's own lie


class Images(NamedTuple):
    """Image files and where they were taken: (N, 3) metres in space, NaN where it is unknown."""

    paths: list[Path]
    points: np.ndarray

    @classmethod
    def named(cls, paths: Sequence[Path]) -> "Images":
        """Images whose names may say where they were taken, as in the UTM layout."""
        metres, zones = read_names(paths)
        signed = read_zones(zones, metres[:, 1])
        points = np.insert(metres, 2, OFF_EARTH, axis=1)  # (N, 3)
        for zone in set(signed.tolist()) - {0}:
            rows, north = signed == zone, zone > 0
            degrees = utm.to_latlon(*metres[rows].T, abs(zone), northern=north, strict=False)
            points[rows] = on_earth(np.stack(degrees, axis=1))
        return cls(list(paths), points)

    @classmethod
    def open(cls, folder: str | Path) -> "Images":
        """All that one may have trained on: places in the layout of GSV-Cities, the database and
        the queries of a test set, or any folder of images with those below it.
        """
        folder = Path(folder)
        if (folder / "Dataframes").is_dir():
            places = PlaceDataset(folder, images_per_place=2)  # less is never trained on
            return cls(places.paths, on_earth(places.latlon))
        try:
            test = TestSet(folder)
        except (FileNotFoundError, ValueError):
            return cls.named(list_images(folder, nested=True))
        return cls.named([*test.database, *test.queries])


def on_earth(latlon: np.ndarray) -> np.ndarray:
    """Latitudes and longitudes (N, 2) in degrees as metres in space (N, 3)."""
    phi, lam = np.radians(latlon).T
    around = np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)
    return RADIUS * np.stack(around, axis=1)


def fingerprint(path: str | Path) -> np.ndarray:
    """256 bits of what a picture shows, uint8 (32,): copies differ by few, whatever their size.

    Of the 16 x 16 coarsest waves of a cosine transform, those above the median (pHash).
    """
    grey = read_image(path).convert("L").resize((64, 64), Image.Resampling.LANCZOS)
    waves = dctn(np.asarray(grey, dtype=np.float64), norm="ortho")[:16, :16].ravel()
    return np.packbits(waves > np.median(waves))


def audit(
    training: Images,
    test: TestSet,
    model: nn.Module | None = None,
    *,
    bits: int = BITS,
    similarity: float = SIMILARITY,
    progress: bool = True,
    **options,
) -> pd.DataFrame:
    """Images of a test set beside what they are too like: training images, and queries' database.

    Args:
        model: whose descriptors are compared, too; `options` are those of `describe`.
        bits: of 256, by which the `fingerprint` of the same picture differs at most.
        similarity: of descriptors that are alike, at least. How near other images come depends on
            the model: look at what is found.

    Returns:
        a row a pair, the worst first, with the columns `COLUMNS`. finding: "same file", byte by
        byte; "same picture", by bits; "alike", by similarity; or "near", within the test set's
        threshold of a training image, where names or tables tell the positions of both.
        part: of the image, "queries" or "database"; other_part: "training" or "database". For
        each image, and by each measure, the nearest `MOST` are looked at. Without a model,
        similarity is NaN.

    Raises:
        UnreadableImageError, OSError: an image cannot be read; the file is named.
    """
    parts = {"training": training}
    for part in ("database", "queries"):
        parts[part] = Images.named(getattr(test, part))
    prints = {part: _fingerprints(images.paths, progress) for part, images in parts.items()}
    descriptors = {}
    if model is not None:
        for part, images in parts.items():
            descriptors[part] = describe(model, images.paths, progress=progress, **options)
    reach = real("threshold", test.threshold) if test.unit == "m" else 0.0
    tables = []
    for part, other in (("queries", "training"), ("database", "training"), ("queries", "database")):
        asked, others = parts[part], parts[other]
        apart, found = _nearest_prints(prints[other], prints[part])
        pairs = [_pairs(found, apart <= bits)]
        if descriptors:
            near, found = search(descriptors[other], descriptors[part], MOST)
            pairs.append(_pairs(found, near >= similarity))
        if other == "training":
            pairs.append(_near(others.points, asked.points, reach))
        i, j = np.unique(np.concatenate(pairs), axis=0).T
        measures = {
            "bits": np.bitwise_count(prints[part][i] ^ prints[other][j]).sum(axis=1),
            "similarity": np.nan,
            "metres": np.linalg.norm(asked.points[i] - others.points[j], axis=1),
        }
        if descriptors:
            a, b = descriptors[part], descriptors[other]
            measures["similarity"] = [float(a[m] @ b[n]) for m, n in zip(i, j, strict=True)]
        names = {"image": [asked.paths[n] for n in i], "other": [others.paths[n] for n in j]}
        tables.append(pd.DataFrame(names | measures).assign(part=part, other_part=other))
    table = pd.concat(tables, ignore_index=True)
    files = zip(table["bits"], table["image"], table["other"], strict=True)
    same = [not apart and filecmp.cmp(a, b, shallow=False) for apart, a, b in files]
    judged = [np.array(same, bool), table["bits"] <= bits, table["similarity"] >= similarity]
    finding = np.select(judged, FINDINGS[:3], FINDINGS[3])
    table["finding"] = pd.Categorical(finding, FINDINGS, ordered=True)
    return table.sort_values(["finding", "bits"], ignore_index=True)[COLUMNS]


def _fingerprints(paths: Sequence[Path], progress: bool) -> np.ndarray:
    """uint8 (N, 32), a thread a core: Pillow decodes beside Python."""
    found, block = [], 4096  # of images that are waiting
    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=len(paths), desc="fingerprint", unit="img", disable=not progress) as bar,
    ):
        for start in range(0, len(paths), block):
            for each in pool.map(fingerprint, paths[start : start + block]):
                found.append(each)
                bar.update()
    return np.array(found, dtype=np.uint8)


def _nearest_prints(others: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differing bits and indices of the nearest MOST, (Q, MOST)."""
    index = faiss.IndexBinaryFlat(8 * others.shape[1])
    index.add(others)
    return index.search(asked, min(MOST, len(others)))


def _near(others: np.ndarray, asked: np.ndarray, reach: float) -> np.ndarray:
    """Pairs (n, 2) of what lies at most `reach` apart, the nearest MOST of each."""
    known = [np.flatnonzero(np.isfinite(points).all(axis=1)) for points in (others, asked)]
    if not all(map(len, known)):
        return np.empty((0, 2), np.int64)
    tree = KDTree(others[known[0]])
    apart, found = tree.query(asked[known[1]], MOST, distance_upper_bound=np.nextafter(reach, 9e9))
    pairs = _pairs(found, np.isfinite(apart))
    return np.stack([known[1][pairs[:, 0]], known[0][pairs[:, 1]]], axis=1)


def _pairs(found: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(n, 2): the row of each chosen one in (Q, k), and its number."""
    return np.stack([np.nonzero(chosen)[0], found[chosen]], axis=1)
