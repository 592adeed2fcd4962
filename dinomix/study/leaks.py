"""Leaks: training images that a test set shows again, and queries that lie in its database."""

import warnings
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import pandas as pd
import utm
from numpy import cos, sin
from PIL import Image
from scipy.fft import dctn
from scipy.spatial import KDTree
from torch import nn
from tqdm.auto import tqdm

from dinomix.data import PlaceDataset, TestSet
from dinomix.images import read_image
from dinomix.plumbing.imagenames import list_images
from dinomix.plumbing.positions import read_names, read_zones
from dinomix.retrieval import describe, search

MOST = 5  # others that are looked at for an image, by each measure
FINDINGS = ["same picture", "alike", "near"]  # the worst first
PAIRS = [("queries", "training"), ("database", "training"), ("queries", "database")]
RADIUS = 6_371_000.0  # metres: on a round Earth, short ways are at most 0.6 % wrong


class Images(NamedTuple):
    """Image files and where they were taken: metres in space (N, 3); NaN: unknown."""

    paths: list[Path]
    points: np.ndarray


def open_images(folder: str | Path) -> Images:
    """Places in the layout of GSV-Cities, or any folder of images, with those below it."""
    if (Path(folder) / "Dataframes").is_dir():
        places = PlaceDataset(folder, images_per_place=2)  # with less, nothing is trained
        return Images(places.paths, _on_earth(places.latlon))
    return named_images(list_images(Path(folder), nested=True))


def named_images(paths: Sequence[Path]) -> Images:
    """Images whose names may say where they were taken, as in the UTM layout, with a zone."""
    metres, zones = read_names(paths)
    signed = read_zones(zones, metres[:, 1])
    points = np.full((len(paths), 3), np.nan)
    for zone in set(signed.tolist()) - {0}:
        rows = signed == zone
        degrees = utm.to_latlon(*metres[rows].T, abs(zone), northern=zone > 0, strict=False)
        points[rows] = _on_earth(np.stack(degrees, axis=1))
    return Images(list(paths), points)


def _on_earth(latlon: np.ndarray) -> np.ndarray:
    """Degrees (N, 2) as metres in space (N, 3)."""
    phi, lam = np.radians(latlon).T
    return RADIUS * np.stack([cos(phi) * cos(lam), cos(phi) * sin(lam), sin(phi)], axis=1)


def fingerprint(path: str | Path) -> np.ndarray:
    """pHash, uint8 (32,): which of a picture's 16 x 16 coarsest waves are above the median. Of the
    256 bits, few differ in a copy of another size or quality, unless there is no detail to see.
    """
    grey = read_image(path).convert("L").resize((64, 64), Image.Resampling.LANCZOS)
    waves = dctn(np.asarray(grey, dtype=np.float64), norm="ortho")[:16, :16].ravel()
    return np.packbits(waves > np.median(waves))


def audit(
    training: Images,
    test: TestSet,
    model: nn.Module | None = None,
    *,
    bits: int = 32,
    similarity: float = 0.95,
    progress: bool = True,
    **options,
) -> pd.DataFrame:
    """What a test set shares with the training images, and its queries with its database.

    Args:
        model: whose descriptors are compared, too; `options` are those of `describe`.
        bits: by which the `fingerprint` of the same picture differs at most.
        similarity: of descriptors that are alike, at least. What else comes so near depends on
            the model: look at what is found.

    Returns:
        a row a pair, the worst first: finding, image, part, other, other_part, bits, similarity,
        metres. finding is "same picture", by bits; "alike", by similarity (NaN without a model); or
        "near": within the test set's threshold of a training image, as far as both positions stand
        in the layout's names or tables; a warning says where none does. Of each image, the nearest
        `MOST` others are looked at by each measure.

    Raises:
        ValueError: bits or similarity are out of range.
        UnreadableImageError, OSError: an image cannot be read; the file is named.
    """
    if not (0 <= bits <= 256 and -1 <= similarity <= 1):
        raise ValueError(f"bits {bits} should be 0 to 256, similarity {similarity} -1 to 1")
    sides = {"training": training}
    sides |= {part: named_images(getattr(test, part)) for part in ("database", "queries")}
    if nowhere := [part for part, images in sides.items() if np.isnan(images.points).all()]:
        warnings.warn(f"no positions are compared: those of {nowhere} are unknown", stacklevel=2)
    prints, descriptors, tables = {}, {}, []
    for part, images in sides.items():
        with ThreadPool() as pool:
            read, count = pool.imap(fingerprint, images.paths, 16), len(images.paths)
            prints[part] = np.array([*tqdm(read, part, count, disable=not progress)])  # (N, 32)
        descriptors[part] = np.full((count, 1), np.nan, np.float32)  # without a model
        if model is not None:
            descriptors[part] = describe(model, images.paths, progress=progress, **options)
    for part, other in PAIRS:
        index = faiss.IndexBinaryFlat(256)
        index.add(prints[other])
        apart, found = index.search(prints[part], min(MOST, len(prints[other])))
        cosines, alike = search(descriptors[other], descriptors[part], MOST)
        pairs = [_pairs(found, apart <= bits), _pairs(alike, cosines >= similarity)]
        if other == "training" and test.unit == "m":
            pairs.append(_near(sides[other].points, sides[part].points, test.threshold))
        i, j = np.unique(np.concatenate(pairs), axis=0).T
        both = list(zip(i, j, strict=True))
        columns = {
            "image": [sides[part].paths[m] for m, _ in both],
            "part": part,
            "other": [sides[other].paths[n] for _, n in both],
            "other_part": other,
            "bits": np.bitwise_count(prints[part][i] ^ prints[other][j]).sum(axis=1, dtype=int),
            "similarity": np.array([descriptors[part][m] @ descriptors[other][n] for m, n in both]),
            "metres": np.linalg.norm(sides[part].points[i] - sides[other].points[j], axis=1),
        }
        tables.append(pd.DataFrame(columns))
    table = pd.concat(tables, ignore_index=True)
    judged = [table["bits"] <= bits, table["similarity"] >= similarity]
    finding = np.select(judged, FINDINGS[:2], FINDINGS[2])
    table.insert(0, "finding", pd.Categorical(finding, FINDINGS, ordered=True))
    worst = {"by": ["finding", "similarity", "bits"], "ascending": [True, False, True]}
    return table.sort_values(**worst, ignore_index=True)


def _near(others: np.ndarray, asked: np.ndarray, reach: float) -> np.ndarray:
    """Pairs (n, 2) of points at most `reach` apart, the nearest MOST of each."""
    tree = KDTree(np.nan_to_num(others, nan=1e9))  # what is unknown lies off the Earth
    bound = np.nextafter(reach, np.inf)  # which is left out
    apart, found = tree.query(np.nan_to_num(asked, nan=-1e9), MOST, distance_upper_bound=bound)
    return _pairs(found, np.isfinite(apart))


def _pairs(found: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(n, 2): the row of each chosen one in (Q, k), and its number."""
    return np.stack([np.nonzero(chosen)[0], found[chosen]], axis=1)
