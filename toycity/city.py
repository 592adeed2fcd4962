"""The layout of a city, drawn from a seed: streets, blocks, buildings, places. No mesh yet."""

import dataclasses
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from toycity import names
from toycity.camera import Camera
from toycity.plan import Block, Street, draw_blocks, draw_nodes, inset
from toycity.styles import Building, draw_building, vary_building

PLACE_SPACING = 12.0  # metres along a street, before it is stretched to fit the street's length
PAVEMENT = 3.0  # width of a pavement
DEPTH = 11.0  # of a building, from the street to the courtyard


@dataclass(frozen=True)
class Place:
    """A spot in the middle of a street; `heading` is the street's, in degrees from north."""

    index: int
    street: int
    x: float
    y: float
    heading: float

    def views(self) -> tuple[Camera, Camera]:
        """The two database views: along the street and back, each turned to its right side."""
        headings = (self.heading, self.heading + 180)
        return tuple(Camera(self.x, self.y, heading=(h + 34) % 360) for h in headings)


@dataclass(frozen=True)
class City:
    """A city in local metres. `utm` and `latlon` give the true coordinates of local ones."""

    seed: int
    streets: list[Street]
    blocks: list[Block]
    buildings: list[Building]
    places: list[Place] = field(repr=False)
    outline: np.ndarray = field(repr=False)  # (4, 2) corners of a rectangle around everything

    @property
    def name(self) -> str:
        """The city's name, which its seed decides."""
        return names.city_name(self.seed)

    def utm(self, x: float, y: float) -> tuple[float, float]:
        """UTM east and north, in metres, zone 31T."""
        east, north = names.city_origin(self.seed)
        return east + x, north + y

    def latlon(self, x: float, y: float) -> tuple[float, float]:
        """Latitude and longitude in degrees."""
        latitude, longitude = names.latlon(*self.utm(x, y))
        return float(latitude), float(longitude)

    def contains(self, x: float, y: float) -> bool:
        """Whether a local position lies within the city's outline."""
        low, high = self.outline.min(axis=0), self.outline.max(axis=0)
        return bool(low[0] <= x <= high[0] and low[1] <= y <= high[1])

    def changed(self, share: float) -> "City":
        """The city years later: about `share` of its buildings repainted, let anew or replaced.

        Streets, places and the other buildings stay as they are, and so do the building lines.
        """
        buildings = []
        for building in self.buildings:
            rng = np.random.default_rng([building.seed, 8])
            buildings.append(vary_building(building, rng) if rng.random() < share else building)
        return dataclasses.replace(self, buildings=buildings)


def make_city(seed: int, blocks: int | tuple[int, int] = 6) -> City:
    """Lay out the city of `seed` on `blocks` x `blocks` (or columns x rows) blocks.

    Places stand along the streets inside the city, every 10 to 15 m.

    Raises:
        ValueError: a negative seed, or fewer than 2 x 2 blocks: no street would be inside.
    """
    columns, rows = (blocks, blocks) if isinstance(blocks, int) else blocks
    if seed < 0:
        raise ValueError(f"seed is {seed}: a city's seed must be 0 or more")
    if min(columns, rows) < 2:
        raise ValueError(f"blocks is {blocks}: a city needs at least 2 x 2")
    rng = np.random.default_rng([seed, 1])
    nodes = draw_nodes(columns, rows, rng)  # (rows + 1, columns + 1, 2)
    streets = [
        Street(line, float(rng.uniform(16, 21)), tuple(rng.random(2) < 0.4))
        for line in (*nodes, *nodes.swapaxes(0, 1))
    ]
    city_blocks = draw_blocks(nodes, [s.width for s in streets], rng)
    buildings = [b for block in city_blocks for b in _houses(block, rng)]
    inside = [*range(1, rows), *range(rows + 2, rows + 1 + columns)]  # not the ring road
    places = _places(streets, inside)
    low, high = nodes.min(axis=(0, 1)) - 15, nodes.max(axis=(0, 1)) + 15
    outline = np.array([low, (high[0], low[1]), high, (low[0], high[1])])
    return City(seed, streets, city_blocks, buildings, places, outline)


def _houses(block: Block, rng: np.random.Generator) -> list[Building]:
    """A ring of buildings around a courtyard: along each side, lots between two mitred corners."""
    if block.kind in ("park", "church", "gasometer"):
        return []
    inner = inset(block.corners, DEPTH)
    buildings = []
    corner_seeds = rng.integers(2**31, size=4)  # the two lots at a corner are one house
    for side in range(4):
        start, end = block.corners[side], block.corners[(side + 1) % 4]
        back_start, back_end = inner[side], inner[(side + 1) % 4]
        length = float(np.linalg.norm(end - start))
        fronts = rng.uniform(9, 17, max(2, round(length / 13)))
        cuts = np.concatenate([[0], np.cumsum(fronts) / fronts.sum()])
        back_length = float(np.linalg.norm(back_end - back_start))
        # Lots are cut at right angles to the street; the corner lots take what the mitre leaves.
        back_cuts = np.clip((cuts * length - (length - back_length) / 2) / back_length, 0, 1)
        seeds = rng.integers(2**31, size=len(fronts))
        seeds[[0, -1]] = corner_seeds[[side, (side + 1) % 4]]
        bounds = zip(pairwise(cuts), pairwise(back_cuts), seeds, strict=True)
        for (a, b), (c, d), seed in bounds:
            lot = np.array(
                [
                    start + a * (end - start),
                    start + b * (end - start),
                    back_start + d * (back_end - back_start),
                    back_start + c * (back_end - back_start),
                ]
            )
            buildings.append(draw_building(lot, block.district, int(seed)))
    return buildings


def _places(streets: list[Street], inside: list[int]) -> list[Place]:
    places = []
    for index in inside:
        nodes = streets[index].nodes
        lengths = np.linalg.norm(np.diff(nodes, axis=0), axis=1)
        stations = np.concatenate([[0], np.cumsum(lengths)])
        margin = PLACE_SPACING * 1.5  # not on the ring road
        count = round((stations[-1] - 2 * margin) / PLACE_SPACING) + 1
        for at in np.linspace(margin, stations[-1] - margin, count):
            x, y = (float(np.interp(at, stations, nodes[:, axis])) for axis in (0, 1))
            leg = min(int(np.searchsorted(stations, at, side="right")) - 1, len(lengths) - 1)
            east, north = nodes[leg + 1] - nodes[leg]
            heading = float(np.degrees(np.arctan2(east, north)) % 360)
            places.append(Place(len(places), index, x, y, heading))
    return places
