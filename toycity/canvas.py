"""A square to paint a tile on, with the few strokes that facades, streets and cars are made of."""

import numpy as np

TILE = 64  # texels a side


def noise(rng: np.random.Generator, octaves: int = 4, size: int = TILE) -> np.ndarray:
    """Soft noise (size, size) in about [-1, 1] that tiles: random grids, each twice as fine."""
    total = np.zeros((size, size))
    for octave in range(1, octaves + 1):
        cells = 2**octave
        grid = rng.uniform(-1, 1, (cells, cells))
        at = (np.arange(size) + 0.5) * cells / size
        low, share = np.floor(at).astype(int), at % 1
        share = share * share * (3 - 2 * share)
        rows = grid[low % cells] + share[:, None] * (grid[(low + 1) % cells] - grid[low % cells])
        step = rows[:, (low + 1) % cells] - rows[:, low % cells]
        total += (rows[:, low % cells] + share * step) / octave
    return total / 1.5


class Canvas:
    """One tile in the making. Positions run from (0, 0) at the lower left to (1, 1).

    `rgb` holds colours in [0, 1]; where `tint` is 1 the colour is multiplied by that of the wall
    that wears the tile; where `glow` is 1 the texel shines if a light is on behind it.
    """

    def __init__(self, colour: tuple[float, float, float] = (1.0, 1.0, 1.0), tint: float = 0.0):
        self.rgb = np.empty((TILE, TILE, 3))
        self.rgb[:] = colour
        self.tint = np.full((TILE, TILE), tint)
        self.glow = np.zeros((TILE, TILE))
        self.s, self.t = np.meshgrid(*[(np.arange(TILE) + 0.5) / TILE] * 2)

    def copy(self) -> "Canvas":
        """A canvas of its own with the same paint."""
        other = Canvas()
        other.rgb, other.tint, other.glow = self.rgb.copy(), self.tint.copy(), self.glow.copy()
        return other

    def paint(self, where: np.ndarray, colour, tint: float = 0.0, glow: float = 0.0) -> None:
        """Paint the texels `where` (a boolean mask) is true."""
        self.rgb[where] = colour
        self.tint[where] = tint
        self.glow[where] = glow

    def box(self, s0: float, t0: float, s1: float, t1: float) -> np.ndarray:
        """Mask of a rectangle."""
        return (self.s >= s0) & (self.s < s1) & (self.t >= t0) & (self.t < t1)

    def disc(self, s: float, t: float, radius: float) -> np.ndarray:
        """Mask of a disc."""
        return (self.s - s) ** 2 + (self.t - t) ** 2 < radius**2

    def rect(self, s0: float, t0: float, s1: float, t1: float, colour, tint=0.0, glow=0.0) -> None:
        """Paint a rectangle."""
        self.paint(self.box(s0, t0, s1, t1), colour, tint, glow)

    def shade(self, where: np.ndarray, factor: float) -> None:
        """Darken or brighten what is there."""
        self.rgb[where] *= factor

    def texels(self) -> np.ndarray:
        """The tile as bytes (TILE, TILE, 5): red, green, blue, tint, glow."""
        channels = np.dstack([self.rgb, self.tint, self.glow])
        return np.rint(np.clip(channels, 0, 1) * 255).astype(np.uint8)
