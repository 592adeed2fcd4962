"""What `localize` found: as tables, in words, and as plain values for JSON."""

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from torch import nn

from dinomix.localization.estimate import RADIUS, estimate_position
from dinomix.localization.index import PhotoIndex, default_file
from dinomix.localization.photos import Photos, Position, find_photos
from dinomix.plumbing.errors import first_of
from dinomix.retrieval import SkippedImageWarning, describe
from dinomix.scale.search import search


@dataclass(frozen=True)
class Localization:
    """What was found for each query.

    Attributes:
        matches: a row for each query and rank. Columns: query, rank (from 1), image, similarity
            (cosine), latitude, longitude, utm_east, utm_north, utm_zone (as `Position`; NaN and ""
            where unknown), metres (to the estimate), agrees (whether the estimate is made of it).
        estimates: a row a query. Columns: query, latitude, longitude, utm_east, utm_north,
            utm_zone (the estimated position), agreeing (how many matches it is made of), error
            (metres from where the query itself says it was taken, in its name, its EXIF tags or
            its CSV file; NaN where it does not).
        photos: how many database photos were searched.
        fresh: how many of the database were described now; the others were known.
        skipped: database photos that cannot be read.
        index: the file of known descriptors; None if nothing is kept.
        radius: metres within which matches agree.
    """

    matches: pd.DataFrame
    estimates: pd.DataFrame
    photos: int
    fresh: int
    skipped: list[Path]
    index: Path | None
    radius: float

    def __repr__(self) -> str:
        return f"Localization({self.summary})"

    @property
    def summary(self) -> str:
        """What was searched, in a line."""
        queries = len(self.estimates)
        kept = f", index {self.index}" if self.index else ""
        unreadable = f", {len(self.skipped)} cannot be read" if self.skipped else ""
        return (
            f"{queries} {'query' if queries == 1 else 'queries'} in {self.photos:,} photos "
            f"({self.fresh:,} described now{unreadable}{kept})"
        )

    def by_query(self) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Each row of `estimates` with its rows of `matches`, as dicts."""
        estimates = self.estimates.to_dict("records")
        matches = self.matches.to_dict("records")
        k = len(matches) // len(estimates)  # all queries have as many
        for i, estimate in enumerate(estimates):
            yield estimate, matches[k * i : k * (i + 1)]

    def verdict(self, estimate: Mapping[str, Any], matches: int) -> str:
        """In words, where a query was taken and how sure that is."""
        if not estimate["agreeing"]:
            return "position unknown: no match says where it was taken"
        text = f"estimated at {position_text(estimate)}"
        if matches > 1:
            count = "none" if estimate["agreeing"] == 1 else estimate["agreeing"]
            text += f"; {count} of {matches} matches agree within {self.radius:g} m"
        if not math.isnan(estimate["error"]):
            text += f"; {distance_text(estimate['error'])} from where the query says it was taken"
        return text

    def to_dict(self) -> dict[str, Any]:
        """All of it as literals; unknown numbers are NaN."""
        queries = []
        for estimate, matches in self.by_query():
            rows = [{key: row[key] for key in row if key != "query"} for row in matches]
            queries.append({**estimate, "matches": rows})
        return {
            "photos": self.photos,
            "fresh": self.fresh,
            "skipped": list(map(str, self.skipped)),
            "index": None if self.index is None else str(self.index),
            "radius": self.radius,
            "queries": queries,
        }


def position_text(row: Mapping[str, Any]) -> str:
    """A row's position: in degrees (to a metre), else in metres; "" where it is unknown."""
    if not math.isnan(row["latitude"]):
        return f"{row['latitude']:.5f}, {row['longitude']:.5f}"
    if not math.isnan(row["utm_east"]):
        return f"{row['utm_east']:.1f} m east, {row['utm_north']:.1f} m north"
    return ""


def distance_text(metres: float) -> str:
    """A distance; "" where it is unknown."""
    if math.isnan(metres):
        return ""
    return f"{metres:,.0f} m" if metres < 10_000 else f"{metres / 1000:,.0f} km"


def shown(path: str) -> str:
    """A path that can be printed, even where its name is no text."""
    return os.fsencode(path).decode("utf-8", "replace")


# Where photos were taken, by the database photos that are most like them.
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
