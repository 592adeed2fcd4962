"""What each ray sees: the quad it hits, its texture, light and shadow; or the sky."""

from dataclasses import dataclass

import numpy as np

from toycity.camera import Camera, TopDown
from toycity.city import City
from toycity.conditions import Condition
from toycity.mesh import ROAD, SKY, Mesh
from toycity.streets import LAMP_HEIGHT, lamp_spots
from toycity.texture import noise
from toycity.tiles import atlas

_LAMP_COLOUR = np.array((1.0, 0.66, 0.32), np.float32)
_SNOW = np.array((0.80, 0.82, 0.86), np.float32)
_CLOUD = 256  # texels a side of the cloud cover, which tiles
_HILLS = 1024  # directions in which the hills have a height


@dataclass
class Samples:
    """What N rays see."""

    light: np.ndarray  # (3, N) float32, linear
    classes: np.ndarray  # (N,) uint8
    depth: np.ndarray  # (N,) float32
    surface: np.ndarray  # (N,) int32: equal for neighbours on one surface, both in sun or in shade


class Shader:
    """Casts rays into a mesh and lights what they hit."""

    def __init__(self, embree, mesh: Mesh, city: City, condition: Condition):
        self._embree, self._mesh, self._condition = embree, mesh, condition
        self._sky = sky = Sky(condition, city.seed)
        # One row a quad, fetched at once: normal, tint, light, repeats, density.
        columns = (mesh.normals, mesh.tints, mesh.lights, mesh.repeats, mesh.densities[:, None])
        self._rows = np.concatenate(columns, axis=1).astype(np.float32)
        # What an open surface (3,) gets from above, and from below by reflection.
        above = 0.55 * sky.zenith + 0.50 * sky.horizon + 0.10 * sky.sun
        below = 0.30 * above + 0.16 * sky.sun * sky.sun_direction[2]
        self._above, self._below = above * condition.ambient, below * condition.ambient
        self._lamps = _LampMap(city, condition.lamps)

    def shade(
        self, camera: Camera | TopDown, px: np.ndarray, py: np.ndarray, frame: tuple
    ) -> Samples:
        """Cast one ray through each pixel position (N,). `frame`: width, height, clouds' drift."""
        mesh, sky, (width, height, drift) = self._mesh, self._sky, frame
        origins, directions = camera.rays(px, py, width, height)
        cast = self._embree.run(_rows(origins), _rows(directions), query="INTERSECT", output=True)
        triangle = cast["primID"]
        hit, miss = np.flatnonzero(triangle >= 0), np.flatnonzero(triangle < 0)
        samples = Samples(
            light=np.empty_like(directions),
            classes=np.full(len(px), SKY, np.uint8),
            depth=np.full(len(px), np.inf, np.float32),
            surface=np.full(len(px), -1, np.int32),
        )
        samples.light[:, miss] = sky.colour(directions.take(miss, axis=1), drift)

        triangle, u, v = triangle.take(hit), cast["u"].take(hit), cast["v"].take(hit)
        directions, distance = directions.take(hit, axis=1), cast["tfar"].take(hit)
        quad = triangle >> 1
        points = origins.take(hit, axis=1) + directions * distance
        rows = _rows(self._rows.take(quad, axis=0))  # (12, n)
        normals, tints, lights, repeats = rows[:3], rows[3:6], rows[6:9], rows[9:11]
        facing = _dot(normals, directions)
        normals *= -np.sign(facing)  # towards the camera
        classes = mesh.classes.take(quad)

        # A quad's first triangle has corners 0, 1, 2 and its second 0, 2, 3.
        both, second = u + v, (triangle & 1).astype(bool)
        position = np.stack([np.where(second, u, both), np.where(second, both, v)]) * repeats
        position -= np.where(repeats > 1, np.floor(position), 0)
        slant = np.sqrt(np.maximum(np.abs(facing), np.float32(0.08)))
        seen = camera.footprint(distance, width) * rows[11] / slant
        *rgb, tinted, glow = atlas().look_up(mesh.tiles.take(quad), *position, seen)  # (n,) each
        albedo = np.square(rgb) * (1 + tinted * (tints - 1))  # (3, n)
        if self._condition.snow > 0:
            self._cover_with_snow(albedo, points, normals, classes)

        light, shadow = self._light_on(points, normals)
        colour = albedo * light
        colour += glow * (lights + np.float32(0.10) * self._above[:, None])  # the sky in the panes
        if isinstance(camera, Camera):
            clear = np.exp(distance * np.float32(-1 / self._condition.haze))
            horizon = sky.horizon[:, None]
            colour = horizon + (colour - horizon) * clear
        samples.light[:, hit], samples.classes[hit], samples.depth[hit] = colour, classes, distance
        samples.surface[hit] = mesh.surfaces.take(quad) * 2 + shadow
        return samples

    def _light_on(self, points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Light (3, n) that falls on surfaces, and which of them lie in the shadow of others."""
        sky = self._sky
        above, below = self._above[:, None], self._below[:, None]
        open_above = (0.5 + 0.5 * normals[2]) * np.minimum(0.62 + points[2] / 30, 1)
        light = below + (above - below) * open_above
        # Surfaces in the shade still differ by where they face: the sky is brighter near the sun.
        towards = _dot(sky.sun_direction, normals)
        light *= 1 + np.float32(0.18) * towards
        shadow = np.zeros(points.shape[1], np.int32)
        if sky.sun.max() > 0.002:
            lit = np.flatnonzero(towards > 0.01)
            start = points.take(lit, axis=1) + normals.take(lit, axis=1) * np.float32(0.02)
            start += sky.sun_direction[:, None] * np.float32(0.02)
            rays = np.tile(sky.sun_direction, (len(lit), 1))
            shadow[lit] = self._embree.run(_rows(start), rays, query="OCCLUDED") != -1
            direct = np.maximum(towards, 0) * (1 - shadow).astype(np.float32)
            light += (sky.sun * np.float32(0.95))[:, None] * direct
        if self._condition.lamps > 0:
            light += self._lamps.on(points, normals) * _LAMP_COLOUR[:, None]
        return light, shadow

    def _cover_with_snow(self, albedo, points, normals, classes) -> None:
        """Whiten, in place, what faces up; streets only in patches, where nobody drove."""
        patches = self._sky.cover(points[0] * 6, points[1] * 6)
        share = np.clip((normals[2] - 0.25) * 2.5, 0, 1)
        share *= np.where(classes == ROAD, np.clip(0.62 + patches, 0.15, 1), np.float32(0.95))
        albedo += (_SNOW[:, None] - albedo) * (share * np.float32(self._condition.snow))


class _LampMap:
    """Light of the street lamps, summed up once on a grid of one metre."""

    def __init__(self, city: City, brightness: float):
        self._corner = city.outline.min(axis=0) - 20
        size = np.ceil(np.ptp(city.outline, axis=0) + 40).astype(int)
        self._light, reach = np.zeros(size[::-1], np.float32), 24
        offset = np.arange(-reach, reach + 1)
        falloff = 1 / (1 + (offset[:, None] ** 2 + offset**2) / 30.0) ** 1.8
        for x, y, _ in lamp_spots(city) if brightness > 0 else ():
            column, row = np.rint((x, y) - self._corner).astype(int)
            rows, columns = (slice(max(at - reach, 0), at + reach + 1) for at in (row, column))
            patch = self._light[rows, columns]
            patch += falloff[: patch.shape[0], : patch.shape[1]] * 0.62 * brightness

    def on(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Lamp light (n,) on surfaces at points (3, n): most on the ground and below the lamps."""
        rows, columns = self._light.shape
        x, y = points[0] - self._corner[0], points[1] - self._corner[1]
        column = np.clip(x.astype(np.int32), 0, columns - 1)
        row = np.clip(y.astype(np.int32), 0, rows - 1)
        up = np.maximum((points[2] - np.float32(LAMP_HEIGHT - 1.5)) / np.float32(3.2), 0)
        height = 1 / (1 + up * up) ** 2
        share = height * (0.55 + 0.45 * np.maximum(normals[2], 0))
        return self._light.ravel().take(row * columns + column) * share.astype(np.float32)


class Sky:
    """A gradient, drifting clouds, the sun's glow, and hills around the city."""

    def __init__(self, condition: Condition, seed: int):
        colours = (condition.zenith, condition.horizon, condition.sun)
        self.zenith, self.horizon, self.sun = np.array(colours, np.float32)
        heading, elevation = np.radians((condition.sun_heading, condition.sun_elevation))
        across = np.cos(elevation)
        direction = (np.sin(heading) * across, np.cos(heading) * across, np.sin(elevation))
        self.sun_direction = np.array(direction, np.float32)
        rng = np.random.default_rng([seed, 11])
        self._cover = noise(rng, 7, _CLOUD).astype(np.float32).ravel()
        self._threshold = np.float32(np.quantile(self._cover, 1 - condition.clouds))
        bright = 0.55 * self.horizon + 0.10 * self.zenith + 0.42 * self.sun
        self._cloud = bright if condition.sun_elevation > 15 else 0.5 * bright + 0.4 * self.sun
        angle = np.linspace(0, 2 * np.pi, _HILLS, endpoint=False)
        waves = [np.sin(k * angle + rng.uniform(0, 7)) / k**0.8 for k in range(2, 40)]
        far = (0.045 + 0.016 * np.sum(waves, axis=0)).astype(np.float32)
        near = (np.sin(17 * angle) * 0.004 + 0.012 + 0.3 * np.abs(far)).astype(np.float32)
        green = np.array((0.16, 0.22, 0.14), np.float32) * (1 - condition.snow)
        ground = (green + _SNOW * condition.snow) * (0.5 * self.horizon + 0.4 * self.sun)
        self._hills = (  # heights (_HILLS,) and colour (3,) of each range
            (far, 0.72 * self.horizon + 0.28 * ground),
            (near, 0.4 * self.horizon + 0.6 * ground),
        )

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
        towards = np.maximum(_dot(self.sun_direction, directions), 0)
        colour = horizon + (zenith - horizon) * (np.sqrt(above) * (1.06 - 0.22 * towards))
        scale = 60 / (above + 0.12)
        cover = self.cover(x * scale + 256 * drift, y * scale + 997 * drift)
        amount = np.clip((cover - self._threshold) * 2.2, 0, 1) * np.clip(above * 6, 0, 1)
        colour += (cloud - colour) * (0.85 * amount)
        warm = np.square(np.square(towards))
        colour += sun * (0.35 * np.square(warm * warm * warm) + 0.10 * warm)
        turn = np.arctan2(x, y) * np.float32(_HILLS / (2 * np.pi))
        at = turn.astype(np.int32) % _HILLS
        for height, paint in self._hills:
            colour = np.where(z < height[at], paint[:, None], colour)
        return colour


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dot products (N,) without BLAS, whose last bits depend on the number of threads."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _rows(array: np.ndarray) -> np.ndarray:
    """The transpose, contiguous: Embree wants (N, 3), arithmetic is fastest on (3, N)."""
    return np.ascontiguousarray(array.T)
