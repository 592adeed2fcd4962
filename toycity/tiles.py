# ruff: noqa: SIM300 (S and T are arrays, no constants)
"""The painted tiles: walls, windows, shops and roofs of houses; ground, plants, cars, landmarks."""

from copy import deepcopy
from functools import cache

import numpy as np

from toycity.texture import Atlas, Canvas, S, T, box, disc, noise

WALLS = ("plaster", "brick", "stone", "panel")
WINDOWS = ("casement", "wide", "arched", "french", "shutters", "ribbon", "twin", "small")
VARIANTS = 3  # of each window: plain glass, curtains, blind
DOORS = 4
SHOPS = 8
SIGNS = 24
TRUCKS = 4
LEAVES = 3

GLASS = (0.20, 0.25, 0.31)
DARK = (0.10, 0.10, 0.11)


@cache
def atlas() -> Atlas:
    """The one atlas that all cities share; painted once a process, always alike."""
    return Atlas({name: c.texels() for name, c in (_house_tiles() | _street_tiles()).items()})


def _house_tiles() -> dict[str, Canvas]:
    rng = np.random.default_rng(20)
    walls = {
        "plaster": Canvas().tone(0.97 + 0.035 * noise(rng, 5)),
        "brick": _brick(rng),
        "stone": _stone(rng),
        "panel": Canvas().tone(0.97 + 0.02 * noise(rng, 3)).shade((T < 0.035) | (S < 0.025), 0.70),
    }
    tiles = {f"wall/{kind}": wall for kind, wall in walls.items()}
    for kind, wall in walls.items():
        for style in WINDOWS:
            for variant in range(VARIANTS):
                tiles[f"window/{kind}/{style}/{variant}"] = _window(wall, kind, style, variant)
        for index in range(DOORS):
            tiles[f"door/{kind}/{index}"] = _door(wall, index)
    tiles |= {f"shop/{i}": _shop(i, rng) for i in range(SHOPS)}
    tiles |= {f"sign/{i}": _sign(rng) for i in range(SIGNS)}
    for index, share in enumerate((0.0, 0.5)):  # of light stripes
        stripes = Canvas().paint(S * 5 % 1 < share, (0.93, 0.91, 0.86))
        tiles[f"awning/{index}"] = stripes.shade(T < 0.12, 0.8)
    rows = Canvas().tone(0.95 + 0.10 * noise(rng, 5)).shade(T * 10 % 1 < 0.25, 0.74)
    tiles["roof/tiles"] = rows.shade((S * 12 + 0.5 * np.floor(T * 10)) % 1 < 0.15, 0.86)
    tiles["roof/flat"] = Canvas((0.55, 0.54, 0.53), tint=0).tone(1 + 0.10 * noise(rng, 6))
    dentils = (T < 0.5) & (S * 16 % 1 < 0.5)
    tiles["cornice"] = Canvas().shade(T < 0.25, 0.75).shade(dentils, 0.8)
    return tiles


def _street_tiles() -> dict[str, Canvas]:
    rng = np.random.default_rng(21)
    grey = (0.36, 0.36, 0.37)
    return {
        "plain": Canvas(),
        "lamp": Canvas((0.95, 0.93, 0.85), tint=0, glow=1),
        "asphalt": _speckled(rng, grey, 0.06),
        "paving": _paving(rng),
        "kerb": _speckled(rng, (0.62, 0.61, 0.59), 0.06),
        "grass": _speckled(rng, (0.36, 0.46, 0.20), 0.22, tint=1),
        "yard": _speckled(rng, (0.55, 0.52, 0.45), 0.10),
        "bark": _bark(rng),
        "crossing": Canvas(grey, tint=0).paint(S * 8 % 1 < 0.5, (0.84, 0.84, 0.82)),
        "dash": _speckled(rng, (0.86, 0.86, 0.83), 0.06),
        **{f"leaf/{i}": _leaf(rng) for i in range(LEAVES)},
        "car/side": _car_side(),
        "car/front": _car_front(),
        "car/rear": _car_rear(),
        "car/glass": _car_glass(),
        "truck/cab": _truck_cab(),
        "truck/rear": _truck_rear(),
        **{f"truck/{i}": _truck(i, rng) for i in range(TRUCKS)},
        "church/wall": _church(),
        "church/clock": _clock(),
        "gas": _gas_holder(),
        "tower/glass": _curtain_wall(rng),
        "chimney": Canvas((0.95, 0.93, 0.92)).shade(T * 10 % 1 < 0.14, 0.82).paint(T > 0.9, GLASS),
    }


def _boxes(starts: tuple[float, ...], width: float, t0: float, t1: float) -> np.ndarray:
    """Mask of rectangles of one size side by side."""
    return np.any([box(s, t0, s + width, t1) for s in starts], axis=0)


def _brick(rng: np.random.Generator) -> Canvas:
    c = Canvas()
    up, along = _courses(c, 16, 6, (0.80, 1.06), rng)
    return c.paint((up < 0.25) | (along < 0.09), (0.94, 0.92, 0.90), tint=0.75)


def _stone(rng: np.random.Generator) -> Canvas:
    c = Canvas()
    up, along = _courses(c, 6, 3, (0.93, 1.03), rng)
    return c.tone(1 + 0.02 * noise(rng, 5)).shade((up < 0.10) | (along < 0.05), 0.82)


def _courses(
    c: Canvas, rows: int, columns: int, tones: tuple[float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Tone bricks or blocks; return how far up and along its own each texel is, in shares."""
    row = np.floor(T * rows).astype(int)
    at = S * columns + 0.5 * (row % 2)
    c.tone(rng.uniform(*tones, (rows, columns))[row, np.floor(at).astype(int) % columns])
    return T * rows % 1, at % 1


def _pane(c: Canvas, s0, t0, s1, t1, frame, variant: int, mullions=(1, 1), width=0.035) -> None:
    """A framed window: reflections in the glass, a curtain or a blind, and the reveal's shadow."""
    c.shade(box(s0 - 0.02, t0 - 0.03, s1 + 0.02, t1 + 0.03), 0.80).rect(s0, t0, s1, t1, frame)
    glass = box(s0 + width, t0 + width, s1 - width, t1 - width)
    c.paint(glass, GLASS, glow=1.0)
    slope = (S - s0) / (s1 - s0) + (T - t0) / (t1 - t0)
    c.shade(glass & (slope > 0.9) & (slope < 1.25), 1.35)
    c.shade(glass & (slope < 0.7), 0.85)
    if variant == 1:  # curtains, drawn halfway
        fold = np.abs((S - (s0 + s1) / 2) / (s1 - s0)) > 0.26
        c.paint(glass & fold, (0.80, 0.77, 0.70), glow=0.55)
        c.shade(glass & fold & (S * 40 % 1 < 0.4), 0.88)
    elif variant == 2:  # a blind, let down halfway
        low = glass & (T > t0 + 0.45 * (t1 - t0))
        c.paint(low, (0.72, 0.71, 0.66), glow=0.35)
        c.shade(low & (T * 24 % 1 < 0.3), 0.85)
    for axis, low, high, count in ((S, s0, s1, mullions[0]), (T, t0, t1, mullions[1])):
        for bar in range(1, count + 1):
            at = low + (high - low) * bar / (count + 1)
            c.paint(box(s0, t0, s1, t1) & (np.abs(axis - at) < width / 2), frame)
    c.shade(glass & (T > t1 - width - 0.035), 0.55)


def _window(wall: Canvas, kind: str, style: str, variant: int) -> Canvas:
    c = deepcopy(wall)
    frame = (0.24, 0.25, 0.27) if kind == "panel" else (0.90, 0.89, 0.86)
    sill = (0.78, 0.76, 0.72)
    if style == "casement":
        c.rect(0.26, 0.22, 0.74, 0.86, sill)
        _pane(c, 0.30, 0.26, 0.70, 0.82, frame, variant, (1, 2))
        c.rect(0.24, 0.19, 0.76, 0.24, sill)
    elif style == "wide":
        _pane(c, 0.12, 0.28, 0.88, 0.78, frame, variant, (2, 0))
        c.rect(0.10, 0.24, 0.90, 0.28, sill)
    elif style == "arched":
        c.paint(disc(0.5, 0.66, 0.25) | box(0.25, 0.20, 0.75, 0.66), sill)
        arch = disc(0.5, 0.66, 0.20) | box(0.30, 0.24, 0.70, 0.66)
        bare = deepcopy(c)
        _pane(c, 0.30, 0.24, 0.70, 0.86, frame, variant, (1, 2))
        for channel in ("rgb", "tint", "glow"):
            getattr(c, channel)[~arch] = getattr(bare, channel)[~arch]
    elif style == "french":
        c.rect(0.26, 0.06, 0.74, 0.90, sill)
        _pane(c, 0.30, 0.06, 0.70, 0.86, frame, variant, (1, 3))
        c.paint(box(0.22, 0.05, 0.78, 0.34) & (S * 18 % 1 < 0.35), DARK)
        c.rect(0.20, 0.33, 0.80, 0.36, DARK)
    elif style == "shutters":
        _pane(c, 0.32, 0.24, 0.68, 0.82, frame, variant, (1, 2))
        shutter = _boxes((0.13, 0.69), 0.18, 0.24, 0.82)
        c.paint(shutter, (0.42, 0.52, 0.50), tint=0.45)
        c.shade(shutter & (T * 20 % 1 < 0.35), 0.80)
        c.rect(0.30, 0.20, 0.70, 0.24, sill)
    elif style == "ribbon":
        _pane(c, 0.0, 0.34, 1.0, 0.80, (0.30, 0.31, 0.33), variant, (3, 0), width=0.03)
    elif style == "twin":
        for s in (0.14, 0.54):
            c.rect(s - 0.03, 0.20, s + 0.35, 0.25, sill)
            _pane(c, s, 0.25, s + 0.32, 0.82, frame, variant, (0, 1))
    else:  # small
        c.rect(0.28, 0.72, 0.72, 0.80, sill)
        _pane(c, 0.32, 0.36, 0.68, 0.73, frame, variant, (1, 0))
        c.rect(0.30, 0.31, 0.70, 0.36, sill)
    return c


def _door(wall: Canvas, index: int) -> Canvas:
    c = deepcopy(wall)
    c.rect(0.20, 0.0, 0.80, 0.82, (0.74, 0.72, 0.68))
    c.rect(0.26, 0.0, 0.74, 0.76, ((0.28, 0.18, 0.12), (0.14, 0.22, 0.20), DARK, GLASS)[index])
    if index < 2:
        for t in (0.08, 0.36):
            c.shade(_boxes((0.30, 0.53), 0.17, t, t + 0.22), 0.70)
        c.rect(0.26, 0.63, 0.74, 0.76, GLASS, glow=1.0)
    elif index == 2:  # a gateway to the courtyard
        c.rect(0.12, 0.0, 0.88, 0.86, (0.70, 0.68, 0.64))
        c.rect(0.18, 0.0, 0.82, 0.80, (0.30, 0.24, 0.20))
        c.shade(box(0.18, 0.0, 0.82, 0.80) & (S * 14 % 1 < 0.2), 0.6)
    else:
        _pane(c, 0.26, 0.0, 0.74, 0.76, (0.30, 0.31, 0.33), 0, (1, 0))
    c.rect(0.66, 0.36, 0.69, 0.42, (0.80, 0.70, 0.40))
    return c.rect(0.16, 0.0, 0.84, 0.05, (0.62, 0.60, 0.57))


def _shop(index: int, rng: np.random.Generator) -> Canvas:
    """A bay of a shop front; `tint` carries the shop's own paint."""
    c = Canvas((0.92, 0.92, 0.92)).rect(0.0, 0.0, 1.0, 0.04, (0.5, 0.5, 0.5))
    entrance = index % 4 == 3
    s0, t0, s1, t1 = (0.22, 0.04, 0.78, 0.74) if entrance else (0.06, 0.20, 0.94, 0.74)
    _pane(c, s0, t0, s1, t1, (0.75, 0.75, 0.75), 0, ((1, 0), (0, 0), (2, 0))[index % 3], 0.03)
    inside = c.glow > 0.9
    if not entrance:  # goods on show
        for _ in range(10):
            s, size, height = rng.uniform((s0, 0.03, 0.08), (s1, 0.09, 0.30))
            goods = inside & box(s - size, t0, s + size, t0 + height)
            c.paint(goods, rng.uniform(0.2, 0.85, 3), glow=0.5)
    return c.shade(box(0, 0.745, 1, 0.775), 0.6).shade((S < 0.03) | (S > 0.97), 0.75)


def _sign(rng: np.random.Generator) -> Canvas:
    """Lettering of no language on a board of the shop's paint: blocks and strokes in one line."""
    c = Canvas(glow=0.35)
    letters = int(rng.integers(3, 8))
    height, width = rng.uniform(0.40, 0.66), rng.uniform(0.55, 0.86)
    ink = ((0.97, 0.95, 0.88), (0.97, 0.82, 0.30), (0.06, 0.06, 0.07))[rng.integers(3)]
    pitch, t0, t1 = width / letters, 0.5 - height / 2, 0.5 + height / 2
    stroke = max(0.032, 0.24 * pitch)
    for letter in range(letters):
        s0 = 0.5 - width / 2 + letter * pitch
        s1 = s0 + 0.78 * pitch
        strokes = (
            (s0, t0, s0 + stroke, t1),
            (s1 - stroke, t0, s1, t1),
            (s0, t1 - 0.13, s1, t1),
            (s0, t0, s1, t0 + 0.13),
            (s0, 0.44, s1, 0.56),
        )
        for i in rng.permutation(5)[: rng.integers(2, 5)]:
            c.rect(*strokes[i], ink, glow=1.0)
    if rng.random() < 0.5:
        c.paint((T < 0.07) | (T > 0.93), ink, glow=0.6)
    return c


def _speckled(rng: np.random.Generator, colour, strength: float, tint: float = 0.0) -> Canvas:
    specks = noise(rng, 5) + 0.6 * rng.uniform(-1, 1, S.shape)
    return Canvas(colour, tint).tone(1 + strength * specks)


def _paving(rng: np.random.Generator) -> Canvas:
    c = _speckled(rng, (0.60, 0.58, 0.55), 0.04)
    c.tone(rng.uniform(0.92, 1.05, (4, 4))[(T * 4).astype(int), (S * 4).astype(int)])
    return c.shade((S * 4 % 1 < 0.07) | (T * 4 % 1 < 0.07), 0.78)


def _bark(rng: np.random.Generator) -> Canvas:
    c = _speckled(rng, (0.30, 0.24, 0.19), 0.15)
    return c.shade(np.sin(S * 40 + 3 * noise(rng, 3)) > 0.3, 0.75)


def _leaf(rng: np.random.Generator) -> Canvas:
    """Clumps of leaves: bright specks over dark gaps, in the tree's own tint."""
    c = Canvas((0.62, 0.62, 0.60))
    for _ in range(150):
        s, t, radius = rng.uniform((0, 0, 0.03), (1, 1, 0.075))
        c.paint(disc(s, t, radius), rng.uniform(0.55, 1.1) * np.array((1, 1, 0.9)), tint=1)
    return c


def _wheels(c: Canvas, positions: tuple[float, ...], radius: tuple[float, float]) -> Canvas:
    c.rect(0, 0, 1, radius[1] * 0.55, DARK)
    for s in positions:
        offset = ((S - s) / radius[0]) ** 2 + (T / radius[1] - 1) ** 2
        c.paint(offset < 1, (0.07, 0.07, 0.08)).paint(offset < 0.3, (0.62, 0.62, 0.64))
    return c


def _car_side() -> Canvas:
    c = Canvas().shade(T < 0.45, 0.85).shade(T > 0.92, 1.1)
    c.shade(_boxes((0.34, 0.58), 0.012, 0.2, 1), 0.5)
    return _wheels(c, (0.19, 0.81), (0.085, 0.42))


def _car_front() -> Canvas:
    c = Canvas().rect(0, 0, 1, 0.25, DARK).rect(0.25, 0.35, 0.75, 0.62, (0.12, 0.12, 0.13))
    c.paint(_boxes((0.04, 0.76), 0.2, 0.5, 0.75), (0.92, 0.92, 0.88), glow=0.8)
    return c.rect(0.36, 0.26, 0.64, 0.36, (0.92, 0.92, 0.90))


def _car_rear() -> Canvas:
    c = Canvas().rect(0, 0, 1, 0.25, DARK)
    c.paint(_boxes((0.04, 0.80), 0.16, 0.5, 0.8), (0.70, 0.08, 0.07), glow=0.5)
    return c.rect(0.34, 0.42, 0.66, 0.56, (0.92, 0.90, 0.70))


def _car_glass() -> Canvas:
    c = Canvas().rect(0.06, 0.08, 0.94, 0.88, (0.13, 0.16, 0.19))
    c.shade(box(0.06, 0.5, 0.94, 0.88), 1.5)
    return c.paint(np.abs(S - 0.5) < 0.02, (0.9, 0.9, 0.9), tint=1)


def _truck(index: int, rng: np.random.Generator) -> Canvas:
    """The side of a truck's box: plain paint, a stripe or a name."""
    c = _wheels(Canvas((0.95, 0.95, 0.95)), (0.16, 0.30, 0.86), (0.065, 0.13))
    c.rect(0, 0.16, 1, 0.20, (0.3, 0.3, 0.3))
    if index == 1:
        c.rect(0, 0.48, 1, 0.66, (0.92, 0.91, 0.88))
    elif index == 2:
        c.paint((S + T > 0.9) & (S + T < 1.15) & (T > 0.2), (0.95, 0.94, 0.90))
    elif index == 3:
        for letter in range(7):
            s = 0.16 + 0.10 * letter
            c.rect(s, 0.50, s + 0.07, 0.50 + rng.uniform(0.1, 0.26), (0.95, 0.93, 0.88))
    return c.shade(T > 0.96, 0.7)


def _truck_rear() -> Canvas:
    c = Canvas((0.95, 0.95, 0.95)).rect(0, 0, 1, 0.20, DARK)
    c.paint(_boxes((0.06, 0.80), 0.14, 0.10, 0.16), (0.70, 0.08, 0.07), glow=0.5)
    c.shade(np.abs(S - 0.5) < 0.012, 0.5)
    return c.paint(_boxes((0.30, 0.66), 0.02, 0.22, 0.96), (0.62, 0.62, 0.64))


def _truck_cab() -> Canvas:
    c = Canvas().rect(0, 0, 1, 0.16, DARK).rect(0.08, 0.50, 0.92, 0.88, (0.13, 0.16, 0.19))
    c.rect(0.28, 0.20, 0.72, 0.40, (0.15, 0.15, 0.16))
    return c.paint(_boxes((0.05, 0.78), 0.17, 0.2, 0.32), (0.92, 0.92, 0.85), glow=0.8)


def _church() -> Canvas:
    c = Canvas().shade(T * 12 % 1 < 0.12, 0.88)
    lancet = box(0.40, 0.18, 0.60, 0.70) | disc(0.5, 0.70, 0.10)
    c.paint(box(0.37, 0.15, 0.63, 0.70) | disc(0.5, 0.70, 0.13), (0.80, 0.78, 0.72))
    c.paint(lancet, (0.22, 0.22, 0.30), glow=0.8)
    c.shade(lancet & ((S * 20 % 1 < 0.2) | (T * 14 % 1 < 0.15)), 0.5)
    return c.shade((S < 0.07) | (S > 0.93), 0.85)  # buttresses


def _clock() -> Canvas:
    c = Canvas().shade(T * 12 % 1 < 0.12, 0.88)
    c.paint(disc(0.5, 0.55, 0.32), (0.20, 0.20, 0.24))
    c.paint(disc(0.5, 0.55, 0.28), (0.93, 0.91, 0.84), glow=1.0)
    return c.rect(0.48, 0.55, 0.52, 0.78, DARK).rect(0.50, 0.53, 0.68, 0.57, DARK)


def _gas_holder() -> Canvas:
    c = Canvas((0.95, 0.95, 0.95)).shade(S < 0.14, 0.55).shade(T * 6 % 1 < 0.08, 0.72)
    return c.shade(np.abs((S * 2 + T * 6) % 1 - 0.5) < 0.03, 0.7)


def _curtain_wall(rng: np.random.Generator) -> Canvas:
    c = Canvas((0.42, 0.46, 0.50), tint=0.6)
    for column in range(2):
        for row in range(2):
            frame = (column / 2, row / 2 + 0.10, column / 2 + 0.5, row / 2 + 0.5)
            _pane(c, *frame, (0.62, 0.64, 0.66), 0, (1, 0), 0.02)
            c.shade(box(*frame), rng.uniform(0.85, 1.25))
    return c
