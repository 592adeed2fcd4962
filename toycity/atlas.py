"""All tiles in one array, each with its smaller versions, and the look-up of texels in it."""

from functools import cache

import numpy as np

from toycity.canvas import TILE
from toycity.street_tiles import street_tiles
from toycity.tiles import house_tiles

LEVELS = TILE.bit_length()  # 64, 32, ..., 1 texels a side


class Atlas:
    """The pyramid of every tile, as one flat array of texels.

    `index` gives the number of a tile by name. Texels are bytes: red, green, blue, tint, glow.
    """

    def __init__(self, tiles: dict[str, np.ndarray]):
        """`tiles`: name -> bytes (TILE, TILE, 5)."""
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

        `texels_seen` is the width, in texels of the full tile, of what a sample stands for: it
        chooses the level. Within the level the four nearest texels are blended.
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
        low = _blend(self._texels, corner, right, x)
        corner += above
        high = _blend(self._texels, corner, right, x)
        high -= low
        high *= y
        low += high
        low *= np.float32(1 / 255)
        return low


def _blend(texels: np.ndarray, at: np.ndarray, step: np.ndarray, share: np.ndarray) -> np.ndarray:
    first = texels.take(at, axis=0).T.astype(np.float32, order="C")  # (5, N)
    second = texels.take(at + step, axis=0).T.astype(np.float32, order="C")
    second -= first
    second *= share
    second += first
    return second


@cache
def atlas() -> Atlas:
    """The one atlas that all cities share; painted once a process, always alike."""
    return Atlas({name: c.texels() for name, c in (house_tiles() | street_tiles()).items()})
