"""How buildings look: districts with a shared vocabulary, and the draw of one building from it."""

import dataclasses
from dataclasses import dataclass

import numpy as np

WALLS = ("plaster", "brick", "stone", "panel")
WINDOWS = ("casement", "wide", "arched", "french", "shutters", "ribbon", "twin", "small")
VARIANTS = 3  # of each window: plain glass, curtains, blind
DOORS = 4
SHOPS = 8
SIGNS = 24
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class District:
    """The vocabulary that the buildings of a neighbourhood share."""

    walls: tuple[int, ...]
    paints: tuple[Colour, ...]
    windows: tuple[int, ...]
    floors: tuple[int, int]
    shops: float  # chance that a ground floor is let to shops
    roofs: tuple[str, ...]
    roof_paints: tuple[Colour, ...]


_OCHRE = ((0.88, 0.79, 0.62), (0.85, 0.72, 0.55), (0.90, 0.84, 0.72), (0.82, 0.66, 0.52))
_BRICK = ((0.68, 0.38, 0.30), (0.60, 0.34, 0.27), (0.72, 0.46, 0.36), (0.64, 0.52, 0.42))
_STONE = ((0.82, 0.79, 0.72), (0.76, 0.73, 0.67), (0.86, 0.82, 0.74), (0.72, 0.71, 0.69))
_COOL = ((0.78, 0.80, 0.80), (0.68, 0.72, 0.76), (0.86, 0.86, 0.84), (0.74, 0.70, 0.66))
_TILES = ((0.66, 0.36, 0.26), (0.58, 0.34, 0.27), (0.70, 0.42, 0.30))
_SLATE = ((0.38, 0.40, 0.45), (0.44, 0.44, 0.46))

DISTRICTS = (
    District((0, 0, 2), _OCHRE, (0, 4, 3), (3, 4), 0.55, ("gable", "gable", "flat"), _TILES),
    District((1, 1, 0), _BRICK, (0, 6, 7, 2), (2, 4), 0.35, ("gable", "flat"), _TILES + _SLATE),
    District((2, 2, 0), _STONE, (3, 2, 0), (4, 6), 0.65, ("mansard", "mansard", "gable"), _SLATE),
    District((3, 0, 1), _COOL, (1, 5, 6, 7), (4, 7), 0.5, ("flat", "flat", "gable"), _SLATE),
)

# Shop fronts, signs, awnings and doors are painted from one list all over the city.
ACCENTS: tuple[Colour, ...] = (
    (0.62, 0.16, 0.14),
    (0.16, 0.30, 0.24),
    (0.17, 0.24, 0.42),
    (0.78, 0.56, 0.16),
    (0.34, 0.24, 0.18),
    (0.86, 0.84, 0.80),
    (0.22, 0.22, 0.24),
    (0.42, 0.55, 0.58),
    (0.70, 0.36, 0.16),
    (0.48, 0.22, 0.34),
)


@dataclass(frozen=True)
class Building:
    """A building on a lot (4, 2): front left, front right, back right, back left from the street.

    The details of its facade (which window is curtained, which bay is the door) come from `seed`.
    """

    lot: np.ndarray
    district: int
    seed: int
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
    def height(self) -> float:
        """Height of the eaves, in metres."""
        return self.ground_height + self.floors * self.floor_height


def draw_building(lot: np.ndarray, district: int, seed: int) -> Building:
    """Draw a building of `district` for a lot."""
    rng = np.random.default_rng([seed, 2])
    style = DISTRICTS[district]
    front = float(np.linalg.norm(lot[1] - lot[0]))
    paint = np.array(style.paints[rng.integers(len(style.paints))])
    paint = np.clip(paint * rng.uniform(0.93, 1.05) + rng.uniform(-0.015, 0.015, 3), 0, 1)
    light = rng.random() < 0.7
    trim = (0.90, 0.88, 0.84) if light else tuple(float(c) for c in paint * 0.6)
    return Building(
        lot=lot,
        district=district,
        seed=seed,
        floors=int(rng.integers(style.floors[0], style.floors[1] + 1)) - 1,
        bays=max(2, round(front / rng.uniform(2.5, 3.6))),
        ground_height=float(rng.uniform(3.7, 4.4)),
        floor_height=float(rng.uniform(2.9, 3.4)),
        wall=int(rng.choice(style.walls)),
        window=int(rng.choice(style.windows)),
        paint=tuple(float(c) for c in paint),
        trim=trim,
        roof=str(rng.choice(style.roofs)),
        roof_paint=style.roof_paints[rng.integers(len(style.roof_paints))],
        ridge=float(rng.uniform(2.8, 4.2)),
        shop=bool(rng.random() < style.shops),
        balconies=bool(rng.random() < 0.25),
        bay_window=bool(rng.random() < 0.15),
    )


def vary_building(building: Building, rng: np.random.Generator) -> Building:
    """The building years later: let to other shops, perhaps repainted, perhaps replaced."""
    fate = rng.random()
    seed = int(rng.integers(2**31))
    if fate < 0.3:  # replaced, by whatever is built these days
        return draw_building(building.lot, int(rng.integers(len(DISTRICTS))), seed)
    shop = not building.shop if rng.random() < 0.3 else building.shop
    if fate < 0.5:  # other shops only
        return dataclasses.replace(building, seed=seed, shop=shop)
    style = DISTRICTS[rng.integers(len(DISTRICTS))]
    paint = style.paints[rng.integers(len(style.paints))]
    return dataclasses.replace(building, seed=seed, shop=shop, paint=paint)
