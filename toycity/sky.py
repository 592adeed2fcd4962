"""The sky: a gradient, drifting clouds, the sun's glow, and hills around the city."""

import numpy as np

from toycity.conditions import Condition
from toycity.texture import noise

_CLOUD = 256  # texels a side of the cloud cover, which tiles
_HILLS = 1024  # directions in which the hills have a height


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dot products (N,) of vectors (3, N), or of one vector (3,) with all of them. Without BLAS,
    whose last bits depend on the number of threads.
    """
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


class Sky:
    """The sky over a city; also the light that comes from it."""

    def __init__(self, condition: Condition, seed: int):
        self.zenith = np.array(condition.zenith, np.float32)
        self.horizon = np.array(condition.horizon, np.float32)
        self.sun = np.array(condition.sun, np.float32)
        heading, elevation = np.radians((condition.sun_heading, condition.sun_elevation))
        self.sun_direction = np.array(
            (
                np.sin(heading) * np.cos(elevation),
                np.cos(heading) * np.cos(elevation),
                np.sin(elevation),
            ),
            np.float32,
        )
        rng = np.random.default_rng([seed, 11])
        self._cover = noise(rng, 7, _CLOUD).astype(np.float32).ravel()
        self._threshold = np.float32(np.quantile(self._cover, 1 - condition.clouds))
        bright = 0.55 * self.horizon + 0.10 * self.zenith + 0.42 * self.sun
        self._cloud = bright if condition.sun_elevation > 15 else 0.5 * bright + 0.4 * self.sun
        angle = np.linspace(0, 2 * np.pi, _HILLS, endpoint=False)
        waves = [np.sin(k * angle + rng.uniform(0, 7)) / k**0.8 for k in range(2, 40)]
        near = np.sin(17 * angle) * 0.004 + 0.012
        self._hills = (0.045 + 0.016 * np.sum(waves, axis=0)).astype(np.float32)
        self._near = (near + 0.3 * np.abs(self._hills)).astype(np.float32)
        green = np.array((0.16, 0.22, 0.14), np.float32) * (1 - condition.snow)
        white = np.array((0.80, 0.82, 0.86), np.float32) * condition.snow
        ground = (green + white) * (0.5 * self.horizon + 0.4 * self.sun)
        self._hill_colours = [
            0.72 * self.horizon + 0.28 * ground,
            0.4 * self.horizon + 0.6 * ground,
        ]

    def ambient(self) -> tuple[np.ndarray, np.ndarray]:
        """Light (3,) that an open surface gets from above, and from below by reflection."""
        above = 0.55 * self.zenith + 0.50 * self.horizon + 0.10 * self.sun
        below = 0.30 * above + 0.16 * self.sun * self.sun_direction[2]
        return above, below

    def cover(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Soft noise (N,) that repeats every 256 units: the clouds, and patches of snow."""
        column, row = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
        x, y = x - column, y - row
        columns = column % _CLOUD, (column + 1) % _CLOUD
        low, high = (
            self._cover.take(at + columns[0]) * (1 - x) + self._cover.take(at + columns[1]) * x
            for at in (row % _CLOUD * _CLOUD, (row + 1) % _CLOUD * _CLOUD)
        )
        return low + (high - low) * y

    def colour(self, directions: np.ndarray, drift: float) -> np.ndarray:
        """Colours (3, N) seen in unit directions (3, N); `drift` in [0, 1) moves the clouds."""
        zenith, horizon, sun, cloud = (
            c[:, None] for c in (self.zenith, self.horizon, self.sun, self._cloud)
        )
        x, y, z = directions
        above = np.clip(z, 0, 1)
        towards = np.maximum(dot(self.sun_direction, directions), 0)
        colour = horizon + (zenith - horizon) * (np.sqrt(above) * (1.06 - 0.22 * towards))
        scale = 60 / (above + 0.12)
        cover = self.cover(x * scale + 256 * drift, y * scale + 997 * drift)
        amount = np.clip((cover - self._threshold) * 2.2, 0, 1) * np.clip(above * 6, 0, 1)
        colour += (cloud - colour) * (0.85 * amount)
        warm = np.square(np.square(towards))
        colour += sun * (0.35 * np.square(warm * warm * warm) + 0.10 * warm)
        turn = np.arctan2(x, y) * np.float32(_HILLS / (2 * np.pi))
        at = turn.astype(np.int32) % _HILLS
        for height, paint in zip((self._hills, self._near), self._hill_colours, strict=True):
            colour = np.where(z < height[at], paint[:, None], colour)
        return colour
