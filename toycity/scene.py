"""A city under one condition: its mesh, ready to be ray-cast with Embree, and its photos."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from toycity.buildings import add_house, add_landmark
from toycity.camera import Camera, TopDown
from toycity.city import City
from toycity.conditions import DAY, Condition
from toycity.mesh import Mesh, MeshBuilder
from toycity.shading import Shader
from toycity.streets import add_ground, add_lamps, add_traffic, add_trees

# Where a pixel at an edge is sampled besides its centre.
_AROUND = np.array([(0.0, -0.38), (0.33, 0.19), (-0.33, 0.19)], np.float32)


@dataclass(frozen=True)
class Photo:
    """An image and what is known of each of its pixels' centres."""

    rgb: np.ndarray  # (H, W, 3) uint8
    classes: np.ndarray  # (H, W) uint8, index into CLASSES
    depth: np.ndarray  # (H, W) float32, metres along the ray; inf where it leaves the city


class Scene:
    """A city under a condition. It takes a second to build and milliseconds a photo: keep it."""

    def __init__(self, city: City, condition: Condition = DAY):
        try:
            from embreex.mesh_construction import TriangleMesh
            from embreex.rtcore_scene import EmbreeScene
        except ModuleNotFoundError as error:
            told = f"{error.name} is not installed: pip install 'dinomix[toy]'"
            raise ModuleNotFoundError(told, name=error.name) from None

        self.city, self.condition = city, condition
        self.mesh = _build_mesh(city, condition)
        triangles = self.mesh.corners[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3, 3)
        embree = EmbreeScene(robust=False)
        TriangleMesh(embree, triangles)  # adds itself to the scene
        self._shader = Shader(embree, self.mesh, city, condition)

    def render(
        self, camera: Camera | TopDown, size: int | tuple[int, int] = 112, seed: int = 0
    ) -> Photo:
        """Take a photo, square or (height, width); `seed` draws clouds, exposure and noise.

        One ray is cast through each pixel's centre, and three more where neighbours see different
        surfaces: edges are averaged, textures are smooth by themselves.

        Raises:
            ValueError: a size below 1 pixel.
        """
        height, width = shape = (size, size) if isinstance(size, int) else tuple(size)
        if min(shape) < 1:
            raise ValueError(f"size is {size}: an image has at least one pixel a side")
        rng = np.random.default_rng([seed, 12])
        frame = (width, height, float(rng.random()))
        px = np.tile(np.arange(width, dtype=np.float32) + 0.5, height)
        py = np.repeat(np.arange(height, dtype=np.float32) + 0.5, width)
        centre = self._shader.shade(camera, px, py, frame)
        light = centre.light
        edges = np.flatnonzero(_edges(centre.surface.reshape(shape)))
        x, y = ((p[edges, None] + _AROUND[:, i]).ravel() for i, p in enumerate((px, py)))
        finer = self._shader.shade(camera, x, y, frame)
        light[:, edges] += finer.light.reshape(3, -1, len(_AROUND)).sum(axis=2)
        light[:, edges] /= 1 + len(_AROUND)
        rgb = _develop(light.T.reshape(*shape, 3), self.condition, rng)
        return Photo(rgb, centre.classes.reshape(shape), centre.depth.reshape(shape))


def _build_mesh(city: City, condition: Condition) -> Mesh:
    if condition.changed > 0:
        city = city.changed(condition.changed)
    mesh = MeshBuilder()
    add_ground(mesh, city)
    for house in city.buildings:
        add_house(mesh, house, condition.lit, condition.lamps)
    for block in city.blocks:
        add_landmark(mesh, block, city.seed, condition.lit)
    add_lamps(mesh, city, condition.lamps)
    add_trees(mesh, city, condition)
    add_traffic(mesh, city, condition)
    return mesh.build()


def _edges(surface: np.ndarray) -> np.ndarray:
    """Mask (H, W) of pixels that see another surface than the one above, below, left or right."""
    around = np.pad(surface, 1, mode="edge")
    others = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    return np.any([surface != other for other in others], axis=0)


# ---------------------------------------------------------------------- from light to a photograph


def _develop(light: np.ndarray, condition: Condition, rng: np.random.Generator) -> np.ndarray:
    """Turn linear light (H, W, 3) float32 into an image (H, W, 3) uint8, as a camera would."""
    gain = condition.exposure * rng.uniform(0.90, 1.10)
    light = light * (gain * rng.uniform(0.96, 1.04, 3)).astype(np.float32)  # white balance
    if condition.lamps > 0:
        light += 0.30 * condition.lamps * _glare(light)
    if condition.snow > 0:
        _flakes(light, condition.snow, rng)
    if condition.motion > 0:
        length = condition.motion * light.shape[1] * rng.uniform(0.7, 1.3)
        light = _smear(light, length, angle=rng.normal(0, 0.35))
    tone = np.sqrt(1 - np.exp(-1.9 * light))  # bright light saturates softly
    if condition.noise > 0:
        grain = rng.standard_normal(tone.shape, dtype=np.float32)
        grain += 0.6 * rng.standard_normal((*tone.shape[:2], 1), dtype=np.float32)
        tone += condition.noise * np.sqrt(0.15 + tone) * grain * np.float32(0.7)
    return np.rint(np.clip(tone, 0, 1) * 255).astype(np.uint8)


def _glare(light: np.ndarray) -> np.ndarray:
    """What lamps spill over their surroundings: the brightest light, blurred."""
    bright = np.rint(np.clip(light - 0.5, 0, 1) * 255).astype(np.uint8)
    blur = ImageFilter.BoxBlur(light.shape[1] / 28)
    blurred = Image.fromarray(bright).filter(blur).filter(blur)
    return np.asarray(blurred, np.float32) / np.float32(60)


def _flakes(light: np.ndarray, snow: float, rng: np.random.Generator) -> None:
    """Falling snow, in place: specks, denser the larger the image."""
    height, width = light.shape[:2]
    count = round(0.004 * snow * height * width)
    rows, columns = rng.integers(0, height, count), rng.integers(0, width, count)
    share = rng.uniform(0.15, 0.6, (count, 1)).astype(np.float32)
    for down in range(max(1, width // 112)):
        at = np.minimum(rows + down, height - 1), columns
        light[at] += (0.85 - light[at]) * share


def _smear(light: np.ndarray, length: float, angle: float) -> np.ndarray:
    """Mean of the image shifted along a line of `length` pixels; its edges go on outside it."""
    taps = max(2, round(length))
    steps = np.linspace(-0.5, 0.5, taps) * length
    line = np.rint(np.outer(steps, (np.cos(angle), np.sin(angle)))).astype(int)
    margin = taps + 1
    padded = np.pad(light, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    height, width = light.shape[:2]
    total = np.zeros_like(light)
    for left, top in line + margin:
        total += padded[top : top + height, left : left + width]
    return total / np.float32(taps)
