"""Where photos were taken, by the database photos that are most like them."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from torch import nn

from dinomix.errors import first_of
from dinomix.localization.estimate import RADIUS, estimate_position
from dinomix.localization.photoindex import PhotoIndex, default_file
from dinomix.localization.photos import Photos, find_photos
from dinomix.localization.positions import Position
from dinomix.localization.result import Localization
from dinomix.neighbours import search
from dinomix.retrieval import SkippedImageWarning, describe

UNKNOWN = Position(np.nan, np.nan, np.nan, np.nan, "")


def localize(
    model: nn.Module,
    database: str | Path,
    queries: str | Path | Sequence[str | Path],
    *,
    k: int = 5,
    radius: float = RADIUS,
    index: str | Path | Literal["auto"] | None = "auto",
    progress: bool = True,
    **options: Any,
) -> Localization:
    """Find where photos were taken, among the photos of a database.

    Positions are read from the database's CSV file, from names in the UTM layout or from EXIF GPS
    tags; photos without one are found as well. `estimate_position` says how the estimate is made
    of the k matches. A query that lies in the database itself is found there, with similarity 1.

    Args:
        model: such as `dinomix.load_model(file)`, or `dinomix.localization.stand_in()` to try it.
        database: a folder, whose folders are searched too, or a CSV file; see `find_photos`.
        queries: a photo, a folder or a CSV file, or several of them.
        k: how many matches; all where there are fewer.
        radius: matches within so many metres of each other agree.
        index: the file where the database's descriptors are kept (see `PhotoIndex`). "auto": the
            hidden file .dinomix.sqlite in the database's folder, or if nothing can be written
            there, a file in `localize` in the data folder. None keeps nothing.
        progress: show bars.
        options: of `describe`: batch_size, workers, device.

    Raises:
        FileNotFoundError: there is no such photo, folder or CSV file, or no image in a folder.
        UnreadableImageError: a query is damaged; it is named. Damaged photos of the database are
            skipped with a `SkippedImageWarning` that counts and names them, and are listed in the
            result.
        ValueError: k or radius is not positive, no photo of the database can be read, a CSV file
            is wrong, or the index is something else.
    """
    if k < 1 or not radius > 0:
        raise ValueError(f"k is {k} and radius {radius}: expected 1 or more, and more than 0")
    asked = [find_photos(source) for source in _as_list(queries)]
    photos = find_photos(database)
    every = [path for each in asked for path in each.paths]
    wanted = describe(model, every, progress=progress and len(every) > 1, **options)  # (Q, D)
    file = default_file(photos.root) if index == "auto" else index
    with PhotoIndex(file) as kept:
        known = kept.describe(model, photos, progress=progress, **options)
    if known.skipped:
        warnings.warn(_complaint(photos, known.skipped), SkippedImageWarning, stacklevel=2)
    if not known.paths:
        raise ValueError(f"no photo of {database} can be read; {_complaint(photos, known.skipped)}")
    similarities, ranked = search(known.descriptors, wanted, k)
    at = {row: photos.position(known.paths[row]) for row in np.unique(ranked).tolist()}
    truths = [each.position(path) for each in asked for path in each.paths]
    matches, estimates = [], []
    for path, truth, rows, scores in zip(every, truths, ranked, similarities, strict=True):
        found = [(known.paths[row], at[row]) for row in rows.tolist()]
        estimate = estimate_position([position for _, position in found], radius)
        for i, (image, position) in enumerate(found):
            matches.append(
                {
                    "query": str(path),
                    "rank": i + 1,
                    "image": str(image),
                    "similarity": float(scores[i]),
                    **_columns(position),
                    "metres": _metres(position, estimate.position),
                    "agrees": bool(estimate.agrees[i]),
                }
            )
        estimates.append(
            {
                "query": str(path),
                **_columns(estimate.position),
                "agreeing": int(estimate.agrees.sum()),
                "error": _metres(truth, estimate.position),
            }
        )
    return Localization(
        pd.DataFrame(matches),
        pd.DataFrame(estimates),
        photos=len(known.paths),
        fresh=known.fresh,
        skipped=known.skipped,
        index=None if file is None else Path(file),
        radius=radius,
    )


def _as_list(queries: str | Path | Sequence[str | Path]) -> list[str | Path]:
    listed = [queries] if isinstance(queries, str | Path) else list(queries)
    if not listed:
        raise ValueError("there are no queries")
    return listed


def _columns(position: Position | None) -> Mapping[str, float | str]:
    return asdict(position or UNKNOWN)


def _metres(one: Position | None, other: Position | None) -> float:
    return np.nan if one is None else one.metres_to(other)


def _complaint(photos: Photos, skipped: Sequence[Path]) -> str:
    names = first_of([str(path) for path in skipped])
    return f"{len(skipped)} of {len(photos.paths)} photos cannot be read: {names}"
