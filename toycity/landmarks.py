"""What stands out of the roofs: a church, a gasometer, towers, a water tower, a factory chimney."""

import numpy as np

from toycity.camera import compass
from toycity.city import Block
from toycity.mesh import BUILDING, MeshBuilder, up

WARM = np.array((1.0, 0.72, 0.38))


def add_landmark(mesh: MeshBuilder, block: Block, seed: int, lit: float) -> None:
    """Add the landmark of a block, if it has one; `lit` is the share of lit windows."""
    if build := _LANDMARKS.get(block.kind):
        x, y = block.centre
        heading = float(np.degrees(np.arctan2(*(block.corners[1] - block.corners[0]))))
        rng = np.random.default_rng([seed, int(abs(x) * 10), int(abs(y) * 10)])
        build(mesh, np.array((x, y, 0.0)), heading, rng, lit)


def _prism(mesh: MeshBuilder, centre, radii, height, sides: int, tile: str, repeat, **paint):
    """A round body: `centre` (x, y, z of its foot), `radii` at its foot and top, and its lid."""
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(sides + 1)], axis=1)
    foot, top = centre + radii[0] * ring, centre + radii[1] * ring + up(height)
    quads = np.stack([foot[:-1], foot[1:], top[1:], top[:-1]], axis=1)
    mesh.add(quads, tile, BUILDING, repeat=repeat, **paint)
    if radii[1] > 0:
        middle = np.broadcast_to(centre + up(height), (sides, 3))
        mesh.add(np.stack([middle, top[:-1], top[1:], middle], axis=1), "plain", BUILDING, **paint)


def _church(mesh: MeshBuilder, foot, heading, rng, lit) -> None:
    stone = ((0.80, 0.76, 0.68), (0.70, 0.44, 0.36), (0.84, 0.82, 0.78))[rng.integers(3)]
    roof = (0.38, 0.46, 0.42)
    ahead, _ = compass(heading)
    length, width, eaves = 34.0, 14.0, 11.0
    glow = WARM * lit

    def box(centre, size, tile, paint, repeats=((1, 1),) * 3, taper=(1.0, 1.0), light=0.0) -> None:
        light = np.broadcast_to(light, 3)
        mesh.box(centre, heading, size, tile, BUILDING, paint, taper, light, repeats)

    nave = ((7, 1), (3, 1), (1, 1))
    box(foot, (length, width, eaves), "church/wall", stone, nave, light=glow)
    slopes = ((8, 2), (3, 2), (1, 1))
    box(foot + up(eaves), (length, width + 1, 8), "roof/tiles", roof, slopes, (1.0, 0.01))
    tower, tall = foot + ahead * (length / 2 + 3), rng.uniform(24, 32)
    box(tower, (8, 8, tall), "church/wall", stone, ((1, 2), (1, 2), (1, 1)), light=glow)
    clock = tower + up(tall)
    box(clock, (8, 8, 8), "church/clock", stone, light=glow * 2)
    size, repeats = (8.6, 8.6, rng.uniform(16, 26)), ((2, 5), (2, 5), (1, 1))
    box(clock + up(8), size, "roof/tiles", roof, repeats, (0.02, 0.02))


def _gasometer(mesh: MeshBuilder, foot, heading, rng, lit) -> None:
    paint = ((0.42, 0.52, 0.50), (0.60, 0.42, 0.34))[rng.integers(2)]
    height = rng.uniform(30, 38)
    _prism(mesh, foot, (19, 19), height, 28, "gas", (1, 2), tint=paint)
    _prism(mesh, foot + up(height), (19, 2), 4, 28, "roof/flat", (2, 1))


def _tower(mesh: MeshBuilder, foot, heading, rng, lit) -> None:
    height, size = rng.uniform(48, 78), rng.uniform(15, 19)
    paint = ((0.62, 0.70, 0.76), (0.80, 0.76, 0.70), (0.50, 0.56, 0.58))[rng.integers(3)]
    tile = ("tower/glass", "window/panel/ribbon/0", "window/panel/wide/0")[rng.integers(3)]
    floors = round(height / 3.4)
    tiles, repeats = (tile, tile, tile, "roof/flat"), ((6, floors), (6, floors), (4, 4))
    light = WARM * 0.45 * lit
    mesh.box(
        foot, heading, (size, size, height), tiles, BUILDING, paint, light=light, repeats=repeats
    )
    top = foot + up(height)
    if rng.random() < 0.6:
        mesh.box(top, heading, (size / 2, size / 2, 6), "wall/panel", BUILDING, paint)
    mesh.box(top, heading, (0.5, 0.5, 16), "plain", BUILDING, (0.8, 0.3, 0.25))


def _water_tower(mesh: MeshBuilder, foot, heading, rng, lit) -> None:
    height, brick = rng.uniform(24, 30), (0.66, 0.42, 0.34)
    _prism(mesh, foot, (5, 4), height, 16, "wall/brick", (2, 10), tint=brick)
    tank = foot + up(height)
    _prism(mesh, tank, (4, 8), 3, 16, "plain", (1, 1), tint=brick)
    _prism(mesh, tank + up(3), (8, 8), 8, 16, "wall/stone", (1, 2), tint=(0.84, 0.80, 0.72))
    _prism(mesh, tank + up(11), (8.6, 0.2), 5, 16, "roof/tiles", (1, 3), tint=(0.40, 0.46, 0.44))


def _chimney(mesh: MeshBuilder, foot, heading, rng, lit) -> None:
    height = rng.uniform(50, 65)
    _prism(mesh, foot, (3.2, 1.8), height, 14, "chimney", (1, 4), tint=(0.72, 0.44, 0.36))
    for z in (height * 0.80, height * 0.92):
        _prism(mesh, foot + up(z), (2.3, 2.3), 2.2, 14, "plain", (1, 1), tint=(0.88, 0.86, 0.82))


_LANDMARKS = {
    "church": _church,
    "gasometer": _gasometer,
    "tower": _tower,
    "water_tower": _water_tower,
    "chimney": _chimney,
}
