"""The plane of a facade: where along it, how high, how far out."""

import numpy as np

from toycity.mesh import up
from toycity.styles import Building


class Front:
    """The plane of a facade: points from metres along it, above it and out of it."""

    def __init__(self, house: Building):
        self.start = np.append(house.lot[0], 0.0)
        self.along = np.append(house.lot[1] - house.lot[0], 0.0)
        self.width = float(np.linalg.norm(self.along))
        self.along /= self.width
        self.out = np.array((self.along[1], -self.along[0], 0.0))

    def at(self, s, z, out=0.0) -> np.ndarray:
        """Points (..., 3)."""
        s, z, out = (np.asarray(v, float)[..., None] for v in (s, z, out))
        return self.start + s * self.along + z * up(1) + out * self.out

    def quads(self, s0, s1, z0, z1, out=0.0) -> np.ndarray:
        """Upright rectangles (n, 4, 3)."""
        corners = [self.at(s0, z0, out), self.at(s1, z0, out), self.at(s1, z1, out)]
        return np.stack([*corners, self.at(s0, z1, out)], axis=-2)

    def slab(self, s0: float, s1: float, z0: float, z1: float, out: float) -> np.ndarray:
        """The five visible sides (5, 4, 3) of a box in front of the facade, its bottom included."""
        s, z, reach = np.array([[s0, s1], [z0, z1], [0.0, out]])[np.arange(3)[:, None], _CUBE]
        return self.at(s, z, reach)[_FACES]


# Corners of a box, as which end of (along, up, out); and its faces, seen from outside.
_CUBE = np.array([(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]).T
_FACES = np.array([(1, 5, 7, 3), (0, 1, 3, 2), (5, 4, 6, 7), (3, 7, 6, 2), (0, 4, 5, 1)])
