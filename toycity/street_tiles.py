"""The painted tiles of everything but houses: ground, plants, cars, people, landmarks."""

import numpy as np

from toycity.canvas import Canvas, noise
from toycity.windows import DARK, GLASS, pane

TRUCKS = 4
LEAVES = 3


def street_tiles() -> dict[str, Canvas]:
    """All tiles of the street, by name."""
    rng = np.random.default_rng(21)
    tiles = {
        "plain": Canvas(tint=1.0),
        "lamp": _lamp(),
        "asphalt": _speckled(rng, (0.36, 0.36, 0.37), 0.06),
        "paving": _paving(rng),
        "kerb": _speckled(rng, (0.62, 0.61, 0.59), 0.06),
        "grass": _speckled(rng, (0.36, 0.46, 0.20), 0.22, tint=1.0),
        "yard": _speckled(rng, (0.55, 0.52, 0.45), 0.10),
        "bark": _bark(rng),
        "crossing": _crossing(),
        "dash": _speckled(rng, (0.86, 0.86, 0.83), 0.06),
        "skin": Canvas((0.78, 0.58, 0.46)),
    }
    tiles |= {f"leaf/{i}": _leaf(rng) for i in range(LEAVES)}
    tiles |= {"car/side": _car_side(), "car/front": _car_front(), "car/rear": _car_rear()}
    tiles |= {"car/glass": _car_glass(), "truck/cab": _truck_cab()}
    tiles["truck/rear"] = _truck_rear()
    tiles |= {f"truck/{i}": _truck(i, rng) for i in range(TRUCKS)}
    tiles |= {"church/wall": _church(), "church/clock": _clock(), "gas": _gas_holder()}
    tiles |= {"tower/glass": _curtain_wall(rng), "chimney": _chimney()}
    return tiles


def _speckled(rng: np.random.Generator, colour, strength: float, tint: float = 0.0) -> Canvas:
    c = Canvas(colour, tint)
    c.rgb *= (1 + strength * (noise(rng, 5) + 0.6 * rng.uniform(-1, 1, c.s.shape)))[..., None]
    return c


def _paving(rng: np.random.Generator) -> Canvas:
    c = _speckled(rng, (0.60, 0.58, 0.55), 0.04)
    slabs = rng.uniform(0.92, 1.05, (4, 4))
    c.rgb *= slabs[(c.t * 4).astype(int), (c.s * 4).astype(int)][..., None]
    c.shade((c.s * 4 % 1 < 0.07) | (c.t * 4 % 1 < 0.07), 0.78)
    return c


def _bark(rng: np.random.Generator) -> Canvas:
    c = _speckled(rng, (0.30, 0.24, 0.19), 0.15)
    c.shade(np.sin(c.s * 40 + 3 * noise(rng, 3)) > 0.3, 0.75)
    return c


def _leaf(rng: np.random.Generator) -> Canvas:
    """Clumps of leaves: bright specks over dark gaps, in the tree's own tint."""
    c = Canvas((0.62, 0.62, 0.60), tint=1.0)
    for _ in range(150):
        s, t, radius = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.03, 0.075)
        c.paint(c.disc(s, t, radius), rng.uniform(0.55, 1.1) * np.array((1, 1, 0.9)), tint=1.0)
    return c


def _crossing() -> Canvas:
    c = Canvas((0.36, 0.36, 0.37))
    c.paint(c.s * 8 % 1 < 0.5, (0.84, 0.84, 0.82))
    return c


def _lamp() -> Canvas:
    c = Canvas((0.95, 0.93, 0.85))
    c.glow[:] = 1.0
    return c


def _wheels(c: Canvas, positions: tuple[float, ...], radius: tuple[float, float]) -> None:
    c.rect(0, 0, 1, radius[1] * 0.55, DARK)
    for s in positions:
        offset = ((c.s - s) / radius[0]) ** 2 + (c.t / radius[1] - 1) ** 2
        c.paint(offset < 1, (0.07, 0.07, 0.08))
        c.paint(offset < 0.3, (0.62, 0.62, 0.64))


def _car_side() -> Canvas:
    c = Canvas(tint=1.0)
    c.shade(c.t < 0.45, 0.85)
    c.shade(c.t > 0.92, 1.1)
    for s in (0.34, 0.58):
        c.shade(c.box(s, 0.2, s + 0.012, 1), 0.5)
    _wheels(c, (0.19, 0.81), (0.085, 0.42))
    return c


def _car_front() -> Canvas:
    c = Canvas(tint=1.0)
    c.rect(0, 0, 1, 0.25, DARK)
    c.rect(0.25, 0.35, 0.75, 0.62, (0.12, 0.12, 0.13))
    for s in (0.04, 0.76):
        c.rect(s, 0.5, s + 0.2, 0.75, (0.92, 0.92, 0.88), glow=0.8)
    c.rect(0.36, 0.26, 0.64, 0.36, (0.92, 0.92, 0.90))
    return c


def _car_rear() -> Canvas:
    c = Canvas(tint=1.0)
    c.rect(0, 0, 1, 0.25, DARK)
    for s in (0.04, 0.80):
        c.rect(s, 0.5, s + 0.16, 0.8, (0.70, 0.08, 0.07), glow=0.5)
    c.rect(0.34, 0.42, 0.66, 0.56, (0.92, 0.90, 0.70))
    return c


def _car_glass() -> Canvas:
    c = Canvas(tint=1.0)
    c.rect(0.06, 0.08, 0.94, 0.88, (0.13, 0.16, 0.19))
    c.shade(c.box(0.06, 0.5, 0.94, 0.88), 1.5)
    c.paint(np.abs(c.s - 0.5) < 0.02, (0.9, 0.9, 0.9), tint=1.0)
    return c


def _truck(index: int, rng: np.random.Generator) -> Canvas:
    """The side of a truck's box: plain paint, a stripe or a name."""
    c = Canvas((0.95, 0.95, 0.95), tint=1.0)
    _wheels(c, (0.16, 0.30, 0.86), (0.065, 0.13))
    c.rect(0, 0.16, 1, 0.20, (0.3, 0.3, 0.3))
    if index == 1:
        c.rect(0, 0.48, 1, 0.66, (0.92, 0.91, 0.88))
    elif index == 2:
        c.paint((c.s + c.t > 0.9) & (c.s + c.t < 1.15) & (c.t > 0.2), (0.95, 0.94, 0.90))
    elif index == 3:
        for letter in range(7):
            s = 0.16 + 0.10 * letter
            c.rect(s, 0.50, s + 0.07, 0.50 + rng.uniform(0.1, 0.26), (0.95, 0.93, 0.88))
    c.shade(c.t > 0.96, 0.7)
    return c


def _truck_rear() -> Canvas:
    c = Canvas((0.95, 0.95, 0.95), tint=1.0)
    c.rect(0, 0, 1, 0.20, DARK)
    for s in (0.06, 0.80):
        c.rect(s, 0.10, s + 0.14, 0.16, (0.70, 0.08, 0.07), glow=0.5)
    c.shade(np.abs(c.s - 0.5) < 0.012, 0.5)
    for s in (0.30, 0.66):
        c.rect(s, 0.22, s + 0.02, 0.96, (0.62, 0.62, 0.64))
    return c


def _truck_cab() -> Canvas:
    c = Canvas(tint=1.0)
    c.rect(0, 0, 1, 0.16, DARK)
    c.rect(0.08, 0.50, 0.92, 0.88, (0.13, 0.16, 0.19))
    c.rect(0.28, 0.20, 0.72, 0.40, (0.15, 0.15, 0.16))
    for s in (0.05, 0.78):
        c.rect(s, 0.2, s + 0.17, 0.32, (0.92, 0.92, 0.85), glow=0.8)
    return c


def _church() -> Canvas:
    c = Canvas(tint=1.0)
    c.shade((c.t * 12 % 1 < 0.12), 0.88)
    lancet = c.box(0.40, 0.18, 0.60, 0.70) | c.disc(0.5, 0.70, 0.10)
    c.paint(c.box(0.37, 0.15, 0.63, 0.70) | c.disc(0.5, 0.70, 0.13), (0.80, 0.78, 0.72))
    c.paint(lancet, (0.22, 0.22, 0.30), glow=0.8)
    c.shade(lancet & ((c.s * 20 % 1 < 0.2) | (c.t * 14 % 1 < 0.15)), 0.5)
    c.shade((c.s < 0.07) | (c.s > 0.93), 0.85)  # buttresses
    return c


def _clock() -> Canvas:
    c = Canvas(tint=1.0)
    c.shade((c.t * 12 % 1 < 0.12), 0.88)
    c.paint(c.disc(0.5, 0.55, 0.32), (0.20, 0.20, 0.24))
    c.paint(c.disc(0.5, 0.55, 0.28), (0.93, 0.91, 0.84), glow=1.0)
    c.rect(0.48, 0.55, 0.52, 0.78, DARK)
    c.rect(0.50, 0.53, 0.68, 0.57, DARK)
    return c


def _gas_holder() -> Canvas:
    c = Canvas((0.95, 0.95, 0.95), tint=1.0)
    c.shade(c.s < 0.14, 0.55)
    c.shade(c.t * 6 % 1 < 0.08, 0.72)
    brace = np.abs((c.s * 2 + c.t * 6) % 1 - 0.5) < 0.03
    c.shade(brace, 0.7)
    return c


def _curtain_wall(rng: np.random.Generator) -> Canvas:
    c = Canvas((0.42, 0.46, 0.50), tint=0.6)
    for column in range(2):
        for row in range(2):
            frame = (column / 2, row / 2 + 0.10, column / 2 + 0.5, row / 2 + 0.5)
            pane(c, *frame, (0.62, 0.64, 0.66), 0, (1, 0), 0.02)
            c.shade(c.box(*frame), rng.uniform(0.85, 1.25))
    return c


def _chimney() -> Canvas:
    c = Canvas((0.95, 0.93, 0.92), tint=1.0)
    c.shade(c.t * 10 % 1 < 0.14, 0.82)
    c.paint(c.t > 0.9, GLASS)
    return c
