"""A city under one condition: its mesh, ready to be ray-cast with Embree, and its photos."""

from dataclasses import dataclass

import numpy as np

from toycity.camera import Camera, TopDown
from toycity.city import City
from toycity.conditions import DAY, Condition
from toycity.develop import develop
from toycity.houses import add_house
from toycity.landmarks import add_landmark
from toycity.mesh import Mesh, MeshBuilder
from toycity.shading import Shader
from toycity.sky import Sky
from toycity.streets import add_ground, add_lamps, add_trees
from toycity.tiles import atlas
from toycity.traffic import add_traffic

# Where a pixel at an edge is sampled besides its centre.
_AROUND = np.array([(0.0, -0.38), (0.33, 0.19), (-0.33, 0.19)], np.float32)


@dataclass(frozen=True)
class Photo:
    """An image and what is known of each of its pixels' centres."""

    rgb: np.ndarray  # (H, W, 3) uint8
    classes: np.ndarray  # (H, W) uint8, index into CLASSES
    depth: np.ndarray  # (H, W) float32, metres along the ray; inf where it leaves the city


def build_mesh(city: City, condition: Condition = DAY) -> Mesh:
    """All quads of a city under a condition, which moves cars, leaves and changed houses."""
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


class Scene:
    """A city under a condition, ready to be photographed.

    Building one takes about a second; a photo takes milliseconds. So build it once and keep it.
    """

    def __init__(self, city: City, condition: Condition = DAY):
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self.city, self.condition = city, condition
        self.mesh = build_mesh(city, condition)
        triangles = self.mesh.corners[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3, 3)
        self._embree = EmbreeScene(robust=False)
        self._geometry = TriangleMesh(self._embree, triangles)
        self._sky = Sky(condition, city.seed)
        self._shader = Shader(self._embree, self.mesh, city, condition, self._sky, atlas())

    def render(
        self, camera: Camera | TopDown, size: int | tuple[int, int] = 112, seed: int = 0
    ) -> Photo:
        """Take a photo, square or (height, width). `seed` moves the clouds, draws the exposure and
        the noise; the same arguments give the same bytes.

        One ray is cast through each pixel's centre. Where neighbours see different surfaces, three
        more are cast and averaged, so that edges are smooth; textures are smooth by themselves.

        Raises:
            ValueError: a size below 1 pixel.
        """
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < 1:
            raise ValueError(f"size is {size}: an image has at least one pixel a side")
        rng = np.random.default_rng([seed, 12])
        drift = float(rng.random())
        px = np.tile(np.arange(width, dtype=np.float32) + 0.5, height)
        py = np.repeat(np.arange(height, dtype=np.float32) + 0.5, width)
        centre = self._shader.shade(camera, px, py, width, height, drift)
        light = centre.light
        edges = np.flatnonzero(_edges(centre.surface.reshape(height, width)))
        if len(edges):
            finer = self._shader.shade(
                camera,
                (px[edges, None] + _AROUND[:, 0]).ravel(),
                (py[edges, None] + _AROUND[:, 1]).ravel(),
                width,
                height,
                drift,
            )
            light[:, edges] += finer.light.reshape(3, -1, len(_AROUND)).sum(axis=2)
            light[:, edges] /= 1 + len(_AROUND)
        rgb = develop(light.T.reshape(height, width, 3), self.condition, rng)
        return Photo(
            rgb, centre.classes.reshape(height, width), centre.depth.reshape(height, width)
        )


def _edges(surface: np.ndarray) -> np.ndarray:
    """Mask (H, W) of pixels that see another surface than the one above, below, left or right."""
    edges = np.zeros(surface.shape, bool)
    across, down = surface[:, 1:] != surface[:, :-1], surface[1:] != surface[:-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    return edges
