"""Textures: a canvas to paint a tile on, and the atlas, in which rays look tiles up."""

from typing import Self

import numpy as np

TILE = 64  # texels a side
LEVELS = TILE.bit_length()  # 64, 32, ..., 1 texels a side


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


# Where each texel's centre lies: (TILE, TILE), from (0, 0) at the lower left to (1, 1).
S, T = np.meshgrid(*[(np.arange(TILE) + 0.5) / TILE] * 2)


def box(s0: float, t0: float, s1: float, t1: float) -> np.ndarray:
    """Mask (TILE, TILE) of a rectangle."""
    return (S >= s0) & (S < s1) & (T >= t0) & (T < t1)  # noqa: SIM300


def disc(s: float, t: float, radius: float) -> np.ndarray:
    """Mask (TILE, TILE) of a disc."""
    return (S - s) ** 2 + (T - t) ** 2 < radius**2


class Canvas:
    """One tile in the making. Strokes return the canvas.

    `rgb` holds colours in [0, 1]; where `tint` is 1 the colour is multiplied by that of the wall
    that wears the tile; where `glow` is 1 the texel shines if a light is on behind it.
    """

    def __init__(self, colour=(1.0, 1.0, 1.0), tint: float = 1.0, glow: float = 0.0):
        self.rgb = np.empty((TILE, TILE, 3))
        self.rgb[:] = colour
        self.tint = np.full((TILE, TILE), tint)
        self.glow = np.full((TILE, TILE), glow)

    def paint(self, where: np.ndarray, colour, tint: float = 0.0, glow: float = 0.0) -> Self:
        """Paint the texels where a mask (TILE, TILE) is true."""
        self.rgb[where] = colour
        self.tint[where] = tint
        self.glow[where] = glow
        return self

    def rect(self, s0: float, t0: float, s1: float, t1: float, colour, glow: float = 0.0) -> Self:
        return self.paint(box(s0, t0, s1, t1), colour, glow=glow)

    def shade(self, where: np.ndarray, factor: float) -> Self:
        """Darken or brighten the texels where a mask is true."""
        self.rgb[where] *= factor
        return self

    def tone(self, factor: np.ndarray) -> Self:
        """Darken or brighten every texel by a factor of its own (TILE, TILE)."""
        self.rgb *= factor[..., None]
        return self

    def texels(self) -> np.ndarray:
        """The tile as bytes (TILE, TILE, 5): red, green, blue, tint, glow."""
        channels = np.dstack([self.rgb, self.tint, self.glow])
        return np.rint(np.clip(channels, 0, 1) * 255).astype(np.uint8)


class Atlas:
    """All tiles as one flat array of texels, each tile with its smaller versions.

    `index` gives the number of a tile by name. Texels are bytes: red, green, blue, tint, glow.
    """

    def __init__(self, tiles: dict[str, np.ndarray]):  # name -> bytes (TILE, TILE, 5)
        self.index = {name: number for number, name in enumerate(tiles)}
        level = np.stack(list(tiles.values())).astype(np.float32)  # (T, TILE, TILE, 5)
        levels, bases = [], [0]
        for _ in range(LEVELS):
            levels.append(np.rint(level).astype(np.uint8).reshape(-1, level.shape[-1]))
            bases.append(bases[-1] + len(levels[-1]))
            if level.shape[1] > 1:
                half = level.shape[1] // 2
                level = level.reshape(len(level), half, 2, half, 2, -1).mean(axis=(2, 4))
        self._texels = np.concatenate(levels)
        self._bases = np.array(bases[:-1], np.int32)

    def look_up(
        self, tile: np.ndarray, s: np.ndarray, t: np.ndarray, texels_seen: np.ndarray
    ) -> np.ndarray:
        """Texels (5, N) float32 in [0, 1] at positions (s, t) of tiles (N,).

        `texels_seen`, the width of what a sample stands for in texels of the full tile, chooses
        the level. Within it the four nearest texels are blended.
        """
        level = np.log2(np.maximum(texels_seen, 1)).astype(np.int32)
        np.minimum(level, LEVELS - 1, out=level)
        side = np.right_shift(TILE, level).astype(np.int32)
        last = (side - 1).astype(np.float32)
        x = np.clip(s * side - np.float32(0.5), 0, last)
        y = np.clip(t * side - np.float32(0.5), 0, last)
        column, row = x.astype(np.int32), y.astype(np.int32)
        x -= column
        y -= row
        right = (column < side - 1).astype(np.int32)
        above = np.where(row < side - 1, side, 0)
        corner = self._bases[level] + (tile * side + row) * side + column
        low = self._blend(corner, right, x)
        high = self._blend(corner + above, right, x)
        high -= low
        high *= y
        low += high
        low *= np.float32(1 / 255)
        return low

    def _blend(self, at: np.ndarray, step: np.ndarray, share: np.ndarray) -> np.ndarray:
        first = self._texels.take(at, axis=0).T.astype(np.float32, order="C")  # (5, N)
        second = self._texels.take(at + step, axis=0).T.astype(np.float32, order="C")
        second -= first
        second *= share
        second += first
        return second
