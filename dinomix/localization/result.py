"""What `localize` found: as tables, in words, and as plain values for JSON."""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd


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
