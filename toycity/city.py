"""The layout of a city, drawn from a seed: streets, blocks, buildings, places. No mesh yet."""

import dataclasses
import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import utm

from toycity.camera import Camera, heading_of

ZONE, LETTER = 31, "T"  # the cities are invented; this UTM zone gives them true coordinates
ORIGIN = (500_000.0, 5_000_000.0)
APART = 4_000.0  # metres from one city's origin to the next: no two cities share a 25 m circle
HEADS = ("Alder", "Birk", "Cold", "Dun", "East", "Fern", "Grim", "Hazel", "Iron", "Kirk", "Lind")
TAILS = ("bridge", "by", "dale", "field", "ford", "ham", "holm", "mere", "moor", "port", "stead")
PLACE_SPACING = 12.0  # metres along a street, before it is stretched to fit the street's length
PAVEMENT = 3.0  # width of a pavement
DEPTH = 11.0  # of a building, from the street to the courtyard
LANDMARKS = ("church", "gasometer", "tower", "tower", "water_tower", "chimney")
Colour = Sequence[float]  # red, green, blue
LOOKS = tomllib.loads(Path(__file__).with_name("looks.toml").read_text(encoding="utf-8"))
DISTRICTS = LOOKS["districts"]


@dataclass(frozen=True)
class Street:
    """A polyline from one border of the city to the other; `width` is from facade to facade."""

    nodes: np.ndarray  # (n, 2) crossings, metres
    width: float
    trees: tuple[bool, bool]  # on the left and on the right pavement


@dataclass(frozen=True)
class Block:
    """What lies between four streets. Corners (4, 2) run counter-clockwise along the facades."""

    corners: np.ndarray
    kind: str  # "houses", "park" or a landmark's name, which then stands in the middle
    district: int

    @property
    def centre(self) -> np.ndarray:  # (2,)
        return self.corners.mean(axis=0)


@dataclass(frozen=True)
class Building:
    """What a building looks like."""

    lot: np.ndarray  # (4, 2): front left, front right, back right, back left from the street
    seed: int  # of the details of its facade: which window is curtained, which bay is the door
    floors: int  # above the ground floor
    bays: int
    ground_height: float
    floor_height: float
    wall: int
    window: int
    paint: Colour
    trim: Colour
    roof: str
    roof_paint: Colour
    ridge: float  # height of a gable above the eaves
    shop: bool
    balconies: bool
    bay_window: bool

    @property
    def height(self) -> float:  # of the eaves
        return self.ground_height + self.floors * self.floor_height


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
        """It ends in the seed: names differ as seeds do."""
        return f"{HEADS[self.seed % len(HEADS)]}{TAILS[self.seed // 11 % len(TAILS)]}{self.seed}"

    def image_id(self, *parts: object) -> str:
        """22 letters and digits that identify a photo, in the place of a panorama's id."""
        return hashlib.sha256("/".join(map(str, (self.seed, *parts))).encode()).hexdigest()[:22]

    def utm(self, x: float, y: float) -> tuple[float, float]:
        """UTM east and north, in metres, zone 31T. 1024 seeds in a row have distinct origins."""
        east = ORIGIN[0] + APART * (self.seed % 32)
        return east + x, ORIGIN[1] + APART * (self.seed // 32 % 32) + y

    def latlon(self, x: float, y: float) -> tuple[float, float]:
        """Latitude and longitude in degrees."""
        latitude, longitude = utm.to_latlon(*self.utm(x, y), ZONE, LETTER)
        return float(latitude), float(longitude)

    def contains(self, x: float, y: float) -> bool:
        """Whether a local position lies within the city's outline."""
        (left, low), _, (right, high), _ = self.outline
        return bool(left <= x <= right and low <= y <= high)

    def changed(self, share: float) -> "City":
        """The city years later: about `share` of its buildings repainted, let anew or replaced."""
        buildings = [_years_later(building, share) for building in self.buildings]
        return dataclasses.replace(self, buildings=buildings)


def make_city(seed: int, blocks: int | tuple[int, int] = 6) -> City:
    """Lay out the city of `seed` on `blocks` x `blocks` (or columns x rows) blocks.

    Places stand along the streets inside the city, every 10 to 15 m. ValueError: a negative seed,
    or fewer than 2 x 2 blocks, which have no street inside.
    """
    columns, rows = (blocks, blocks) if isinstance(blocks, int) else blocks
    if seed < 0:
        raise ValueError(f"seed is {seed}: a city's seed must be 0 or more")
    if min(columns, rows) < 2:
        raise ValueError(f"blocks is {blocks}: a city needs at least 2 x 2")
    rng = np.random.default_rng([seed, 1])
    nodes = _draw_nodes(columns, rows, rng)  # (rows + 1, columns + 1, 2)
    streets = [
        Street(line, float(rng.uniform(16, 21)), tuple(rng.random(2) < 0.4))
        for line in (*nodes, *nodes.swapaxes(0, 1))
    ]
    city_blocks = _draw_blocks(nodes, [s.width for s in streets], rng)
    buildings = [b for block in city_blocks for b in _houses(block, rng)]
    inside = [*range(1, rows), *range(rows + 2, rows + 1 + columns)]  # not the ring road
    low, high = nodes.min(axis=(0, 1)) - 15, nodes.max(axis=(0, 1)) + 15
    outline = np.array([low, (high[0], low[1]), high, (low[0], high[1])])
    return City(seed, streets, city_blocks, buildings, _places(streets, inside), outline)


def inset(corners: np.ndarray, distances: np.ndarray | float) -> np.ndarray:
    """Move the sides of convex polygons (..., 4, 2), counter-clockwise, inwards by `distances`."""
    along = np.roll(corners, -1, axis=-2) - corners
    along /= np.linalg.norm(along, axis=-1, keepdims=True)
    inward = np.stack([-along[..., 1], along[..., 0]], axis=-1)
    # Each side is the line inward . p = level; a corner lies on its own side and on the one before.
    level = np.sum(inward * corners, axis=-1) + distances
    sides = np.stack([np.roll(inward, 1, axis=-2), inward], axis=-2)
    levels = np.stack([np.roll(level, 1, axis=-1), level], axis=-1)
    return np.linalg.solve(sides, levels[..., None])[..., 0]


# ---------------------------------------------------------------------- the ground plan


def _draw_nodes(columns: int, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Crossings of a bent grid: uneven spacing, a slow wave, some jitter."""
    east = np.concatenate([[0], np.cumsum(rng.uniform(72, 105, columns))])
    north = np.concatenate([[0], np.cumsum(rng.uniform(66, 92, rows))])
    x, y = np.meshgrid(east, north)
    phase = rng.uniform(0, 2 * np.pi, 4)
    bent_x = x + 14 * np.sin(y / 130 + phase[0]) + 6 * np.sin(x / 90 + phase[1])
    bent_y = y + 14 * np.sin(x / 150 + phase[2]) + 6 * np.sin(y / 80 + phase[3])
    return np.stack([bent_x, bent_y], axis=-1) + rng.uniform(-3, 3, (*x.shape, 2))


def _draw_blocks(nodes: np.ndarray, widths: list[float], rng: np.random.Generator) -> list[Block]:
    """The blocks between the streets. `widths`: of the rows of nodes, then of the columns."""
    rows, columns = len(nodes) - 1, len(nodes[0]) - 1
    half = np.array(widths) / 2
    centres = rng.uniform((0, 0), (columns, rows), (len(DISTRICTS), 2))
    district_of = rng.permutation(len(DISTRICTS))
    # One block in twelve is a park, and up to one in six has a landmark.
    count = rows * columns
    kinds = ["park"] * (count // 12) + list(LANDMARKS[: count // 6])
    kinds = rng.permutation(kinds + ["houses"] * (count - len(kinds))).tolist()
    blocks = []
    for row in range(rows):
        for column in range(columns):
            low, high = nodes[row, column : column + 2], nodes[row + 1, column : column + 2]
            south, north, west, east = half[[row, row + 1, rows + 1 + column, rows + 2 + column]]
            corners = inset(np.array([*low, *high[::-1]]), np.array([south, east, north, west]))
            nearest = np.linalg.norm(centres - (column + 0.5, row + 0.5), axis=1).argmin()
            blocks.append(Block(corners, kinds[len(blocks)], int(district_of[nearest])))
    return blocks


def _houses(block: Block, rng: np.random.Generator) -> list[Building]:
    """A ring of buildings around a courtyard: along each side, lots between two mitred corners."""
    if block.kind in ("park", "church", "gasometer"):
        return []
    inner, buildings = inset(block.corners, DEPTH), []
    corner_seeds = rng.integers(2**31, size=4)  # the two lots at a corner are one house
    for side in range(4):
        ends = [side, (side + 1) % 4]
        (start, end), (back_start, back_end) = block.corners[ends], inner[ends]
        length = float(np.linalg.norm(end - start))
        fronts = rng.uniform(9, 17, max(2, round(length / 13)))
        cuts = np.concatenate([[0], np.cumsum(fronts) / fronts.sum()])
        back_length = float(np.linalg.norm(back_end - back_start))
        # Lots are cut at right angles to the street; the corner lots take what the mitre leaves.
        back_cuts = np.clip((cuts * length - (length - back_length) / 2) / back_length, 0, 1)
        seeds = rng.integers(2**31, size=len(fronts))
        seeds[[0, -1]] = corner_seeds[ends]
        front = start + cuts[:, None] * (end - start)
        back = back_start + back_cuts[:, None] * (back_end - back_start)
        for i, seed in enumerate(seeds):
            lot = np.array([front[i], front[i + 1], back[i + 1], back[i]])
            buildings.append(_draw_building(lot, block.district, int(seed)))
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
            heading = heading_of(nodes[leg + 1] - nodes[leg]) % 360
            places.append(Place(len(places), index, x, y, heading))
    return places


# ---------------------------------------------------------------------- what buildings look like


def _draw_building(lot: np.ndarray, district: int, seed: int) -> Building:
    rng = np.random.default_rng([seed, 2])
    style = DISTRICTS[district]
    front = float(np.linalg.norm(lot[1] - lot[0]))
    paint = np.array(style["paints"][rng.integers(len(style["paints"]))])
    paint = np.clip(paint * rng.uniform(0.93, 1.05) + rng.uniform(-0.015, 0.015, 3), 0, 1)
    trim = (0.90, 0.88, 0.84) if rng.random() < 0.7 else tuple((paint * 0.6).tolist())
    return Building(
        lot=lot,
        seed=seed,
        floors=int(rng.integers(style["floors"][0], style["floors"][1] + 1)) - 1,
        bays=max(2, round(front / rng.uniform(2.5, 3.6))),
        ground_height=float(rng.uniform(3.7, 4.4)),
        floor_height=float(rng.uniform(2.9, 3.4)),
        wall=int(rng.choice(style["walls"])),
        window=int(rng.choice(style["windows"])),
        paint=tuple(paint.tolist()),
        trim=trim,
        roof=str(rng.choice(style["roofs"])),
        roof_paint=style["roof_paints"][rng.integers(len(style["roof_paints"]))],
        ridge=float(rng.uniform(2.8, 4.2)),
        shop=bool(rng.random() < style["shops"]),
        balconies=bool(rng.random() < 0.25),
        bay_window=bool(rng.random() < 0.15),
    )


def _years_later(building: Building, share: float) -> Building:
    """As it was, unless it belongs to `share`: then with other shops, new paint, or replaced."""
    rng = np.random.default_rng([building.seed, 8])
    if rng.random() >= share:
        return building
    fate, seed = rng.random(), int(rng.integers(2**31))
    if fate < 0.3:  # replaced, by whatever is built these days
        return _draw_building(building.lot, int(rng.integers(len(DISTRICTS))), seed)
    shop = not building.shop if rng.random() < 0.3 else building.shop
    if fate < 0.5:  # other shops only
        return dataclasses.replace(building, seed=seed, shop=shop)
    paints = DISTRICTS[rng.integers(len(DISTRICTS))]["paints"]
    paint = paints[rng.integers(len(paints))]
    return dataclasses.replace(building, seed=seed, shop=shop, paint=paint)
