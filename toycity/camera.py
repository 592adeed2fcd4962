"""Cameras: from pixels to rays. Local coordinates are metres: x east, y north, z up."""

from dataclasses import dataclass

import numpy as np

Rays = tuple[np.ndarray, np.ndarray]  # origins (3, N) and unit directions (3, N), float32


@dataclass(frozen=True)
class Camera:
    """A pinhole camera in the street. Angles are degrees; heading is clockwise from north.

    `fov` is the horizontal field of view; pixels are square, so the vertical one follows.
    """

    x: float
    y: float
    z: float = 1.8
    heading: float = 0.0
    pitch: float = 8.0
    fov: float = 75.0

    def __post_init__(self) -> None:
        if not 1 <= self.fov <= 150:
            raise ValueError(f"fov is {self.fov}: a pinhole camera takes 1 to 150 degrees")

    def rays(self, px: np.ndarray, py: np.ndarray, width: int, height: int) -> Rays:
        """Rays of pixel positions (N,), which count from the top left; the first centre is 0.5."""
        pitch = np.radians(self.pitch)
        forward, right = compass(self.heading)
        ahead = np.cos(pitch) * forward + np.sin(pitch) * np.array((0.0, 0.0, 1.0))
        up = np.cross(right, ahead)
        tangent = np.tan(np.radians(self.fov) / 2)
        across = ((px * (2 / width) - 1) * tangent).astype(np.float32)
        above = ((height - 2 * py) * (tangent / width)).astype(np.float32)
        length = np.sqrt(across * across + above * above + 1)
        # Sums of three products by hand: BLAS would give other bits with other numbers of threads.
        directions = np.empty((3, len(across)), np.float32)
        for axis in range(3):
            r, u, f = (np.float32(v[axis]) for v in (right, up, ahead))
            directions[axis] = (r * across + u * above + f) / length
        origins = np.full_like(directions, np.array([[self.x], [self.y], [self.z]]))
        return origins, directions

    def footprint(self, distance: np.ndarray, width: int) -> np.ndarray:
        """Side in metres of what one pixel sees at `distance`."""
        return distance * np.float32(2 * np.tan(np.radians(self.fov) / 2) / width)


@dataclass(frozen=True)
class TopDown:
    """A map view: parallel rays straight down on a strip `extent` metres wide; `heading` is up."""

    x: float  # of its centre
    y: float
    extent: float = 100.0
    heading: float = 0.0
    z: float = 300.0

    def __post_init__(self) -> None:
        if self.extent <= 0:
            raise ValueError(f"extent is {self.extent}: a map view must be wider than 0 m")

    def rays(self, px: np.ndarray, py: np.ndarray, width: int, height: int) -> Rays:
        """As `Camera.rays`, but parallel."""
        heading = np.radians(self.heading)
        metre = self.extent / width
        across, above = (px - width / 2) * metre, (height / 2 - py) * metre
        origins = np.empty((3, len(px)), np.float32)
        origins[0] = self.x + across * np.cos(heading) + above * np.sin(heading)
        origins[1] = self.y - across * np.sin(heading) + above * np.cos(heading)
        origins[2] = self.z
        # A hair off the vertical: exactly vertical rays graze the walls and hit their edges.
        return origins, np.full_like(origins, [[1e-4], [1e-4], [-1.0]])

    def footprint(self, distance: np.ndarray, width: int) -> np.ndarray:
        """Side in metres of a pixel: the same at every `distance`."""
        return np.full_like(distance, self.extent / width)


top_down = TopDown  # as a call


def heading_of(direction: np.ndarray) -> float:
    """The heading in [-180, 180] degrees of a direction (east, north)."""
    return float(np.degrees(np.arctan2(*direction[:2])))


def compass(heading: float) -> tuple[np.ndarray, np.ndarray]:
    """Level unit vectors (3,) ahead and to the right of a heading in degrees."""
    a = np.radians(heading)
    return np.array((np.sin(a), np.cos(a), 0.0)), np.array((np.cos(a), -np.sin(a), 0.0))
