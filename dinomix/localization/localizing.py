"""Where queries were taken: a vote of the database photos most like them, and what that gives."""

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from torch import nn

from dinomix.localization.calibration import Calibration
from dinomix.localization.index import PhotoIndex, default_file
from dinomix.localization.photos import Position, find_photos, settle_zones
from dinomix.plumbing.configs import real, whole
from dinomix.plumbing.errors import first_of
from dinomix.retrieval import SkippedImageWarning, describe, described, skipped_images
from dinomix.scale.search import search

RADIUS = 25.0  # metres: what the field takes for the same place
AROUND = 2000  # photos of a database, evenly chosen, that a map shows beside the matches
UNKNOWN = Position(np.nan, np.nan, np.nan, np.nan, "")


@dataclass(frozen=True)
class Estimate:
    """A position, and what speaks for it."""

    position: Position | None  # None where no match's position is known
    agrees: np.ndarray  # bool (k,): the matches that it is the mean of


def estimate_position(positions: Sequence[Position | None], radius: float = RADIUS) -> Estimate:
    """A vote of the matches, the first one's weight being 1, the second's 1/2, the third's 1/3, ...

    Each match whose position is known gathers the weights of all within `radius` metres of it,
    itself included. Around the one that gathers most (of equals, the nearest to the query) the
    estimate is the weighted mean. So the first match decides, unless three others agree on another
    place. Weights by similarity do worse (53 % against 61 % within 25 m on the toy city).

    Args:
        positions: of a query's matches, nearest first. If some are on the Earth and some in metres
            of an unknown zone, those count that are of the same kind as the first.
    """
    agrees = np.zeros(len(positions), dtype=bool)
    known = [(i, position) for i, position in enumerate(positions) if position is not None]
    if not known:
        return Estimate(None, agrees)
    geographic = known[0][1].geographic
    ranks = np.array([i for i, position in known if position.geographic == geographic])  # (n,)
    points = np.stack([positions[i].point for i in ranks])  # (n, 3)
    weights = 1 / (1 + ranks)
    near = np.linalg.norm(points[:, None] - points, axis=-1) <= radius  # (n, n)
    chosen = near[np.argmax(near @ weights)]  # (n,)
    agrees[ranks] = chosen
    mean = np.average(points[chosen], axis=0, weights=weights[chosen])
    return Estimate(Position.from_point(mean, geographic), agrees)


@dataclass(frozen=True)
class Localization:
    """What was found for each query. Positions are columns as the fields of `Position`.

    Attributes:
        matches: a row for each query and rank. Columns: query, rank (from 1), image, similarity
            (cosine), position, metres (to the estimate), agrees (the estimate is made of it).
        estimates: a row a query. Columns: query, position, agreeing (how many matches it is made
            of), error (metres from where the query itself says it was taken; NaN where it does
            not), rejected (why nothing is estimated, or ""), and where the query says it was taken,
            a position whose columns begin with true_.
    """

    matches: pd.DataFrame
    estimates: pd.DataFrame
    photos: int  # how many of the database were searched
    fresh: int  # how many of these were described now; the others were known
    skipped: list[Path]  # photos that cannot be read: of the database, and queries left out
    index: Path | None  # the file of known descriptors; None if nothing is kept
    radius: float  # metres within which matches agree
    around: list[Position]  # known ones of the database: of all, or of the matches and `AROUND`

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
        matches = self.matches.to_dict("records")
        k = len(matches) // len(self.estimates)  # all queries have as many
        for i, estimate in enumerate(self.estimates.to_dict("records")):
            yield estimate, matches[k * i : k * (i + 1)]

    def verdict(self, estimate: Mapping[str, Any], matches: Sequence[Mapping[str, Any]]) -> str:
        """In words, where a query was taken and how sure that is."""
        if reason := estimate.get("rejected"):
            return f"not found: {reason}"
        if not estimate["agreeing"]:
            return "position unknown: no match says where it was taken"
        text = "estimated at"
        if not position_text(matches[0]):
            ranks = ", ".join(str(match["rank"]) for match in matches if match["agrees"])
            text = f"the best match has no position; a guess by rank {ranks}:"
        text += f" {position_text(estimate)}"
        if len(matches) > 1:
            count = "none" if estimate["agreeing"] == 1 else estimate["agreeing"]
            text += f"; {count} of {len(matches)} matches agree within {self.radius:g} m"
        if not math.isnan(estimate["error"]):
            text += f"; {distance_text(estimate['error'])} from where the query says it was taken"
        return text

    def to_dict(self) -> dict[str, Any]:
        """All of it as literals; unknown numbers are NaN."""
        queries = []
        for estimate, matches in self.by_query():
            rows = [{key: row[key] for key in row if key != "query"} for row in matches]
            queries.append({**estimate, "matches": rows})
        skipped, index = list(map(str, self.skipped)), self.index and str(self.index)
        known = {"photos": self.photos, "fresh": self.fresh, "skipped": skipped, "index": index}
        return {**known, "radius": self.radius, "queries": queries}


def localize(
    model: nn.Module,
    database: str | Path,
    queries: str | Path | Sequence[str | Path],
    *,
    k: int = 5,
    radius: float = RADIUS,
    index: str | Path | Literal["auto"] | None = "auto",
    reject: Calibration | None = None,
    progress: bool = True,
    on_error: str = "raise",
    **options: Any,
) -> Localization:
    """Find where photos were taken, among the photos of a database.

    Positions are read from the database's CSV file, from names in the UTM layout or from EXIF GPS
    tags; photos without one are found as well. See `estimate_position` for the estimate.

    Args:
        model: such as `dinomix.load_model(file)`, or `dinomix.localization.stand_in()` to try it.
        database: a folder, whose folders are searched too, or a CSV file; see `find_photos`.
        queries: a photo, a folder or a CSV file, or several of them.
        k: how many matches; all where there are fewer.
        radius: matches within so many metres of each other agree.
        index: the file of the database's descriptors (see `PhotoIndex`). "auto": .dinomix.sqlite
            in the database's folder, or if nothing can be written there, a file in `localize` in
            the data folder. None keeps nothing.
        reject: leave answers out that are less sure than it asks for (`calibrate`).
        on_error: "raise", or "skip": queries that are damaged are left out, and listed as skipped.
        options: of `describe`: image_size, batch_size, workers, device.

    Raises:
        FileNotFoundError: no such photo, folder or CSV file, or no image in a folder.
        UnreadableImageError: a query is damaged. Damaged photos of the database are skipped with a
            `SkippedImageWarning` that counts and names them, and are listed in the result.
        ValueError: k or radius is not positive, no query or no photo of the database can be read, a
            CSV file or positions in names are wrong, the index is something else, or `reject` was
            calibrated for another model or image size.
    """
    k = whole("k", k, least=1)
    if not (radius := real("radius", radius)):
        raise ValueError("radius is 0; it should be more")
    if reject is not None:
        reject.require(model, options.get("image_size"))
    sources = [queries] if isinstance(queries, str | Path) else list(queries)
    if not sources:
        raise ValueError("there are no queries")
    photos, *others = settle_zones([find_photos(source) for source in (database, *sources)])
    asked = [(other, path) for other in others for path in other.paths]
    bar = progress and len(asked) > 1
    paths = [path for _, path in asked]
    wanted = describe(model, paths, progress=bar, on_error=on_error, **options)  # (Q, D)
    damaged = skipped_images(paths, wanted)
    if len(damaged) == len(paths):
        raise ValueError(f"no query can be read: {first_of([str(path) for path in paths])}")
    asked, wanted = list(compress(asked, described(wanted))), wanted[described(wanted)]
    file = default_file(photos.root) if index == "auto" else index
    with PhotoIndex(file) as kept:
        known = kept.describe(model, photos, progress=progress, **options)
    if known.skipped:
        names = first_of([str(path) for path in known.skipped])
        complaint = f"{len(known.skipped)} of {len(photos.paths)} photos cannot be read: {names}"
        warnings.warn(complaint, SkippedImageWarning, stacklevel=2)
        if not known.paths:
            raise ValueError(f"no photo of {database} can be read; {complaint}")
    searched, step = max(k, reject.matches if reject else 0), -(-len(known.paths) // AROUND)
    similarities, ranked = search(known.descriptors, wanted, searched)
    looked_up = {*np.unique(ranked).tolist(), *range(0, len(known.paths), step)}
    at = {row: photos.position(known.paths[row]) for row in looked_up}
    matches, estimates = [], []
    rankings = zip(asked, ranked.tolist(), similarities.tolist(), strict=True)
    for (source, path), rows, scores in rankings:
        rejected = reject.complaint(scores, [at[row] for row in rows]) if reject else ""
        kept = zip(rows[:k], scores[:k], strict=True)
        ranking = [(known.paths[row], at[row], score) for row, score in kept]
        row, rows = as_rows(path, source.position(path), ranking, radius, rejected)
        estimates.append(row)
        matches += rows
    tables = pd.DataFrame(matches), pd.DataFrame(estimates)
    kept_in = None if file is None else Path(file)
    skipped = list(dict.fromkeys([*known.skipped, *damaged]))  # a query may be in the database
    found = *tables, len(known.paths), known.fresh, skipped, kept_in, radius
    return Localization(*found, around=[*filter(None, at.values())])


def as_rows(
    query: Path,
    truth: Position | None,
    ranking: Sequence[tuple[Path, Position | None, float]],
    radius: float = RADIUS,
    rejected: str = "",
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A query's row of `estimates` and its rows of `matches`, from images, their positions and
    similarities, nearest first.
    """
    vote = estimate_position([None if rejected else place for _, place, _ in ranking], radius)
    matches = []
    for rank, (image, place, score) in enumerate(ranking):
        place = place or UNKNOWN
        found = {"query": str(query), "rank": rank + 1, "image": str(image), "similarity": score}
        metres, agrees = place.metres_to(vote.position), bool(vote.agrees[rank])
        matches.append({**found, **asdict(place), "metres": metres, "agrees": agrees})
    truth, agreeing = truth or UNKNOWN, int(vote.agrees.sum())
    estimate = {"query": str(query), **asdict(vote.position or UNKNOWN), "agreeing": agreeing}
    estimate |= {"error": truth.metres_to(vote.position), "rejected": rejected}
    return estimate | {f"true_{name}": value for name, value in asdict(truth).items()}, matches


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
