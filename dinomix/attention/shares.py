"""On what attention falls, where the class of each pixel is known."""

from collections.abc import Sequence
from itertools import repeat

import numpy as np
import pandas as pd

from dinomix.attention.heatmaps import resize

DRAWS = 1000  # of the bootstrap


def class_shares(heat: np.ndarray, classes: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """On what the heat falls: for each class of pixels, its share of an image's heat.

    Heat (B, h, w), at least 0, is upsampled here; classes, int (B, H, W), are indices into `names`;
    others raise ValueError.

    Returns:
        a row for each image and class: image (0 to B - 1), class, share of the heat, area (the
        class's share of the pixels), gain = share / area. Shares are NaN for an image without
        heat, gain for a class without pixels.
    """
    if heat.ndim != 3 or classes.ndim != 3 or len(heat) != len(classes):
        raise ValueError(
            f"heat must be (B, h, w) and classes (B, H, W), not {heat.shape} and {classes.shape}"
        )
    if not (heat >= 0).all():
        raise ValueError(f"heat must be at least 0, not {heat.min()}")
    if classes.size and not (classes.min() >= 0 and classes.max() < len(names)):
        raise ValueError(
            f"classes from {classes.min()} to {classes.max()} need as many names, not {names}"
        )
    rows = []
    pictures = resize(heat, classes.shape[1:]).astype(np.float64)
    for image, (picture, labels) in enumerate(zip(pictures, classes, strict=True)):
        area = np.bincount(labels.ravel(), minlength=len(names)) / labels.size
        share = np.bincount(labels.ravel(), picture.ravel(), minlength=len(names))
        share = share / (picture.sum() or np.nan)
        gain = share / np.where(area > 0, area, np.nan)
        rows += zip(repeat(image), names, share, area, gain)
    return pd.DataFrame(rows, columns=["image", "class", "share", "area", "gain"])


def share_change(before: pd.DataFrame, after: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """How much heat moved to or from each class, from `class_shares` of two models.

    Returns:
        indexed by class, in percentage points of the heat: before, after, change (mean over the
        images that have heat under both), low and high (95 % bootstrap interval of the change).

    Raises:
        ValueError: the tables are of different images or classes.
    """
    wide = {"index": "image", "columns": "class", "values": "share", "sort": False, "dropna": False}
    first, second = (table.pivot_table(**wide) for table in (before, after))
    if not (first.index.equals(second.index) and first.columns.equals(second.columns)):
        raise ValueError("shares of other images or classes cannot be compared: explain the same")
    both = ~(first.isna().any(axis=1) | second.isna().any(axis=1))
    first, second = 100 * first[both], 100 * second[both]
    change = (second - first).to_numpy()  # (images, classes)
    rng = np.random.default_rng(seed)
    draws = change[rng.integers(len(change), size=(DRAWS, len(change)))].mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    columns = {"before": first.mean(), "after": second.mean(), "change": change.mean(axis=0)}
    return pd.DataFrame(columns | {"low": low, "high": high})
