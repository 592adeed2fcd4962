"""What was found, on maps: GeoJSON and KML for other programs, and drawings for a gallery."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np

from dinomix.evaluation import Retrieval
from dinomix.localization.localizing import Localization, as_rows, distance_text, shown
from dinomix.localization.photos import EQUATOR, Position
from dinomix.plumbing.files import atomic_path, require_suffix

MAPS = ".geojson", ".kml"
COLOURS = {"estimate": "#0072b2", "truth": "#d55e00", "match": "#808080"}  # on white and on black
NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # names may hold it, XML not
SIZE = np.array([640, 400])  # pixels of a drawing
LEAST = 50  # metres that it spans
STEPS = np.outer(10.0 ** np.arange(8), [1, 2, 5]).ravel()  # metres: what a scale bar may stand for


class Spot(NamedTuple):
    """A point of a map."""

    kind: str  # one of COLOURS
    position: Position | None  # None: unknown
    said: dict[str, Any]  # about it, by columns of `Localization`

    @property
    def name(self) -> str:
        """As in "2. a.jpg, similarity 0.713"."""
        if self.kind != "match":
            return f"{self.kind} of {Path(self.said['query']).name}"
        image = Path(self.said["image"]).name
        return f"{self.said['rank']}. {image}, similarity {self.said['similarity']:.3f}"

    @property
    def told(self) -> dict[str, Any]:
        """What is said, as JSON can: None for NaN, and names that are text."""
        clean = {name: None if value != value else value for name, value in self.said.items()}
        return {n: shown(value) if isinstance(value, str) else value for n, value in clean.items()}

    @property
    def degrees(self) -> list[float]:
        """Longitude, then latitude, to a centimetre; [] where they are unknown."""
        at = self.position
        return [round(at.longitude, 7), round(at.latitude, 7)] if at and at.geographic else []


def write_map(result: Localization | Retrieval, file: str | Path) -> Path:
    """Estimates, matches, and where queries say they were taken, for a map; return the file's path.

    A .geojson (RFC 7946) has a point each, whose `kind` is estimate, match or truth; a .kml (2.2)
    has them in a folder a query. Both are in degrees (WGS 84): what is not known in these stands
    there without coordinates.

    Raises:
        ValueError: the name ends in neither .geojson nor .kml, or nothing is known in degrees.
    """
    file = require_suffix(file, "a map", *MAPS)
    retrieved = isinstance(result, Retrieval)
    queries = [*(_retrieved(result) if retrieved else (spots(*each) for each in result.by_query()))]
    if not any(spot.degrees for spot in chain(*queries)):
        raise ValueError(
            f"no position is known in degrees, as {file.name} takes them: metres need a UTM zone, "
            "as in @0400000.00@5000000.00@31@T@.jpg, or in a CSV file's column utm_zone"
        )
    text = _geojson(queries) if file.suffix.lower() == ".geojson" else _kml(queries)
    with atomic_path(file) as path:
        path.write_text(text, "utf-8")
    return file


def spots(estimate: Mapping[str, Any], matches: Sequence[Mapping[str, Any]]) -> list[Spot]:
    """Of a query of `Localization.by_query`: estimate, truth where it is known, and matches."""
    found = [_spot("estimate", estimate, "query agreeing error rejected")]
    found += filter(lambda spot: spot.position, [_spot("truth", estimate, "query", "true_")])
    return found + [_spot("match", m, "query rank image similarity metres agrees") for m in matches]


def _spot(kind: str, row: Mapping[str, Any], columns: str, prefix: str = "") -> Spot:
    position = Position(*(row[prefix + name] for name in Position.__annotations__))
    known = position.geographic or not math.isnan(position.utm_east)
    return Spot(kind, position if known else None, {name: row[name] for name in columns.split()})


def _retrieved(found: Retrieval) -> Iterator[list[Spot]]:
    """The same of a test set."""
    database, degrees = found.test.database, found.test.degrees

    def at(row: int) -> Position | None:
        return None if np.isnan(degrees[row, 0]) else Position.from_degrees(*degrees[row])

    for i, query in enumerate(found.test.queries):
        ranked = zip(found.ranked[i].tolist(), found.similarities[i].tolist(), strict=True)
        ranking = [(database[row], at(row), score) for row, score in ranked if row >= 0]
        yield spots(*as_rows(query, at(len(database) + i), ranking))


def _geojson(queries: Sequence[Sequence[Spot]]) -> str:
    features = []
    for spot in chain(*queries):
        point = {"type": "Point", "coordinates": spot.degrees} if spot.degrees else None
        told = {"kind": spot.kind} | spot.told
        features.append({"type": "Feature", "geometry": point, "properties": told})
    return json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False)


def _kml(queries: Sequence[Sequence[Spot]]) -> str:
    def add(parent: Element, tag: str, text: object = "", **attributes: str) -> Element:
        element = SubElement(parent, tag, attributes)
        element.text = NO_XML.sub("\ufffd", shown(str(text)))
        return element

    root = Element("kml", xmlns="http://www.opengis.net/kml/2.2")
    document = add(root, "Document")
    for kind, colour in COLOURS.items():
        icon = add(add(document, "Style", id=kind), "IconStyle")
        add(icon, "color", "ff" + colour[5:7] + colour[3:5] + colour[1:3])  # opaque, b, g, r
    for each in queries:
        folder = add(document, "Folder")
        add(folder, "name", each[0].said["query"])
        for spot in each:
            mark = add(folder, "Placemark")
            add(mark, "name", spot.name)
            add(mark, "styleUrl", f"#{spot.kind}")
            data = add(mark, "ExtendedData")
            for name, value in spot.told.items():
                add(add(data, "Data", name=name), "value", "" if value is None else value)
            if spot.degrees:
                add(add(mark, "Point"), "coordinates", "{},{}".format(*spot.degrees))
    return tostring(root, "unicode", xml_declaration=True)


def draw(found: Sequence[Spot], around: Sequence[Position], whole: bool) -> dict[str, Any] | None:
    """Spots of one kind (on the Earth, or on a map of one's own) in a picture of `SIZE`, north up.

    It spans the spots, with `whole` also what is around them. None: no position is known.
    Returns `marks` (kind, x, y, name), `dots` around them and `lines` from estimates to truths as
    paths of SVG, and the scale `bar` (pixels, what it stands for).
    """
    if not (known := [spot for spot in found if spot.position]):
        return None
    geographic = known[0].position.geographic
    known = [spot for spot in known if spot.position.geographic == geographic]
    every = [*(spot.position for spot in known), *around]
    points = np.array([each.point for each in every if each.geographic == geographic])  # (N, 3)
    metres = _flat(points, len(known)) if geographic else points[:, :2]  # (N, 2), east and north
    framed = metres if whole else metres[: len(known)]
    low, high = framed.min(axis=0), framed.max(axis=0)
    scale = 0.85 * (SIZE / np.maximum(high - low, LEAST)).min()  # pixels a metre
    pixels = (metres - (low + high) / 2) * scale * [1, -1] + SIZE / 2
    marks = [
        (spot.kind, *at, spot.name)
        for spot, at in zip(known, pixels.round(1).tolist(), strict=False)
    ]
    lines = [
        (marks[i], marks[i + 1])
        for i, (a, b) in enumerate(pairwise(known))
        if (a.kind, b.kind, a.said["query"]) == ("estimate", "truth", b.said["query"])
    ]
    dots = np.rint(pixels[len(known) :]).astype(int)
    dots = np.unique(dots[((dots >= 0) & (dots <= SIZE)).all(axis=1)], axis=0).tolist()
    bar = STEPS[scale * STEPS <= SIZE[0] / 4][-1]
    return {
        "marks": marks,
        "dots": "".join(f"M{x} {y}h0" for x, y in dots),
        "lines": "".join(f"M{a[1]} {a[2]}L{b[1]} {b[2]}" for a, b in lines),
        "bar": (round(bar * scale), distance_text(bar)),
    }


def _flat(points: np.ndarray, count: int) -> np.ndarray:
    """Points in space (N, 3) as metres east and north (N, 2) of the middle of the first `count`,
    as far from it as they are (azimuthal equidistant): no zone, date line or pole comes between.
    """
    middle = Position.from_point(points[:count].mean(axis=0), True)
    phi, lam = math.radians(middle.latitude), math.radians(middle.longitude)
    east = np.array([-math.sin(lam), math.cos(lam), 0])
    up = np.array([math.cos(phi) * math.cos(lam), math.cos(phi) * math.sin(lam), math.sin(phi)])
    x, y, z = np.stack([east, np.cross(up, east), up]) @ (points - middle.point).T  # (N,) each
    away = np.hypot(x, y)
    stretch = EQUATOR * np.arctan2(away, EQUATOR + z) / np.maximum(away, 1e-9)  # along the ground
    return np.stack([x, y], axis=1) * stretch[:, None]
