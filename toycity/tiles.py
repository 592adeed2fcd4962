"""The painted tiles of houses: walls, shop fronts, signs, roofs; and the list of them all."""

from collections.abc import Callable

import numpy as np

from toycity.canvas import Canvas, noise
from toycity.styles import DOORS, SHOPS, SIGNS, VARIANTS, WALLS, WINDOWS
from toycity.windows import door, pane, window


def house_tiles() -> dict[str, Canvas]:
    """All tiles of houses, by name."""
    rng = np.random.default_rng(20)
    tiles = {f"wall/{kind}": paint(rng) for kind, paint in _WALLS.items()}
    for kind in WALLS:
        wall = tiles[f"wall/{kind}"]
        for style in WINDOWS:
            for variant in range(VARIANTS):
                tiles[f"window/{kind}/{style}/{variant}"] = window(wall, kind, style, variant)
        for index in range(DOORS):
            tiles[f"door/{kind}/{index}"] = door(wall, index)
    tiles |= {f"shop/{i}": _shop(i, rng) for i in range(SHOPS)}
    tiles |= {f"sign/{i}": _sign(rng) for i in range(SIGNS)}
    tiles |= {f"awning/{i}": _awning(i) for i in range(2)}
    tiles |= {"roof/tiles": _roof_tiles(rng), "roof/flat": _gravel(rng), "cornice": _cornice()}
    return tiles


def _plaster(rng: np.random.Generator) -> Canvas:
    c = Canvas(tint=1.0)
    c.rgb *= (0.97 + 0.035 * noise(rng, 5))[..., None]
    return c


def _brick(rng: np.random.Generator) -> Canvas:
    c = Canvas(tint=1.0)
    rows, columns = 16, 6
    row = np.floor(c.t * rows).astype(int)
    at = c.s * columns + 0.5 * (row % 2)
    tone = rng.uniform(0.80, 1.06, (rows, columns))
    c.rgb *= tone[row, np.floor(at).astype(int) % columns][..., None]
    joint = (c.t * rows % 1 < 0.25) | (at % 1 < 0.09)
    c.paint(joint, (0.94, 0.92, 0.90), tint=0.75)
    return c


def _stone(rng: np.random.Generator) -> Canvas:
    c = Canvas(tint=1.0)
    rows, columns = 6, 3
    row = np.floor(c.t * rows).astype(int)
    at = c.s * columns + 0.5 * (row % 2)
    tone = rng.uniform(0.93, 1.03, (rows, columns))
    c.rgb *= tone[row, np.floor(at).astype(int) % columns][..., None]
    c.rgb *= (1 + 0.02 * noise(rng, 5))[..., None]
    c.shade((c.t * rows % 1 < 0.10) | (at % 1 < 0.05), 0.82)
    return c


def _panel(rng: np.random.Generator) -> Canvas:
    c = Canvas(tint=1.0)
    c.rgb *= (0.97 + 0.02 * noise(rng, 3))[..., None]
    c.shade((c.t < 0.035) | (c.s < 0.025), 0.70)
    return c


_WALLS: dict[str, Callable[[np.random.Generator], Canvas]] = {
    "plaster": _plaster,
    "brick": _brick,
    "stone": _stone,
    "panel": _panel,
}


def _shop(index: int, rng: np.random.Generator) -> Canvas:
    """A bay of a shop front; `tint` carries the shop's own paint."""
    c = Canvas((0.92, 0.92, 0.92), tint=1.0)
    c.rect(0.0, 0.0, 1.0, 0.04, (0.5, 0.5, 0.5))
    entrance = index % 4 == 3
    s0, t0, s1, t1 = (0.22, 0.04, 0.78, 0.74) if entrance else (0.06, 0.20, 0.94, 0.74)
    pane(c, s0, t0, s1, t1, (0.75, 0.75, 0.75), 0, ((1, 0), (0, 0), (2, 0))[index % 3], 0.03)
    inside = c.glow > 0.9
    if not entrance:  # goods on show
        for _ in range(10):
            s, size = rng.uniform(s0, s1), rng.uniform(0.03, 0.09)
            height = rng.uniform(0.08, 0.30)
            goods = inside & c.box(s - size, t0, s + size, t0 + height)
            c.paint(goods, rng.uniform(0.2, 0.85, 3), glow=0.5)
    c.shade(c.box(0, 0.745, 1, 0.775), 0.6)
    c.shade((c.s < 0.03) | (c.s > 0.97), 0.75)
    return c


def _sign(rng: np.random.Generator) -> Canvas:
    """Lettering of no language on a board of the shop's paint: blocks and strokes in one line."""
    c = Canvas((1.0, 1.0, 1.0), tint=1.0)
    c.glow[:] = 0.35
    letters = int(rng.integers(3, 8))
    height, width = rng.uniform(0.40, 0.66), rng.uniform(0.55, 0.86)
    ink = ((0.97, 0.95, 0.88), (0.97, 0.82, 0.30), (0.06, 0.06, 0.07))[rng.integers(3)]
    pitch = width / letters
    for letter in range(letters):
        s0 = 0.5 - width / 2 + letter * pitch
        t0, s1, t1 = 0.5 - height / 2, s0 + 0.78 * pitch, 0.5 + height / 2
        stroke = max(0.032, 0.24 * pitch)
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
        edge = (c.t < 0.07) | (c.t > 0.93)
        c.paint(edge, ink, glow=0.6)
    return c


def _awning(index: int) -> Canvas:
    c = Canvas(tint=1.0)
    if index:
        c.paint(c.s * 5 % 1 < 0.5, (0.93, 0.91, 0.86))
    c.shade(c.t < 0.12, 0.8)
    return c


def _roof_tiles(rng: np.random.Generator) -> Canvas:
    c = Canvas(tint=1.0)
    c.rgb *= (0.95 + 0.10 * noise(rng, 5))[..., None]
    c.shade(c.t * 10 % 1 < 0.25, 0.74)
    c.shade((c.s * 12 + 0.5 * np.floor(c.t * 10)) % 1 < 0.15, 0.86)
    return c


def _gravel(rng: np.random.Generator) -> Canvas:
    c = Canvas((0.55, 0.54, 0.53))
    c.rgb *= (1 + 0.10 * noise(rng, 6))[..., None]
    return c


def _cornice() -> Canvas:
    c = Canvas(tint=1.0)
    c.shade(c.t < 0.25, 0.75)
    c.shade((c.t < 0.5) & (c.s * 16 % 1 < 0.5), 0.8)
    return c
