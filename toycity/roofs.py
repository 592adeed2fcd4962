"""Roofs: flat ones with a rim, gables, and mansards with dormers."""

from itertools import pairwise

import numpy as np

from toycity.fronts import Front
from toycity.mesh import BUILDING, MeshBuilder, up
from toycity.styles import WALLS, Building


def add_roof(mesh: MeshBuilder, house: Building, rng: np.random.Generator) -> None:
    """Add the roof that the building is described with; `rng` places chimneys and the like."""
    _ROOFS[house.roof](mesh, house, rng)


def _flat(mesh, house: Building, rng) -> None:
    lot = np.c_[house.lot, np.full(4, house.height)]
    inner = lot.mean(axis=0) + 0.94 * (lot - lot.mean(axis=0)) - up(0.5)
    mesh.add(inner, "roof/flat", BUILDING, repeat=(4, 3))
    rim = [[lot[i], lot[(i + 1) % 4], inner[(i + 1) % 4], inner[i]] for i in range(4)]
    mesh.add(np.array(rim), "plain", BUILDING, house.trim)
    middle, turn = lot.mean(axis=0) - up(0.5), rng.uniform(0, 360)
    size = (rng.uniform(1.5, 3), rng.uniform(1.5, 3), rng.uniform(1.5, 2.8))
    mesh.box(middle, turn, size, "wall/panel", BUILDING, (0.6, 0.6, 0.6))


def _pitched(mesh, house: Building, lower: tuple[float, float], ridge: float, rng) -> None:
    """A roof whose slopes rise from the eaves to `lower` (share of the depth, height) and on to the
    ridge in the middle, `ridge` metres above the eaves.
    """
    eaves = np.c_[house.lot, np.full(4, house.height)]
    profile = [(0.0, 0.0), lower, (0.5, ridge), (1 - lower[0], lower[1]), (1.0, 0.0)]

    def line(share: float, rise: float) -> tuple[np.ndarray, np.ndarray]:
        left, right = (eaves[a] + share * (eaves[b] - eaves[a]) for a, b in ((0, 3), (1, 2)))
        return left + up(rise), right + up(rise)

    lines = [line(*point) for point in profile]
    slopes = [[a[0], a[1], b[1], b[0]] for a, b in pairwise(lines)]
    slopes = [q for q in slopes if np.linalg.norm(q[3] - q[0]) > 1e-3]
    width = np.linalg.norm(eaves[1] - eaves[0])
    mesh.add(np.array(slopes), "roof/tiles", BUILDING, house.roof_paint, (max(1, width / 4), 1.5))
    for end in (0, 1):
        points = [pair[end] for pair in lines]
        gable = [
            [points[0], points[4], points[3], points[1]],
            [points[1], points[3], *[points[2]] * 2],
        ]
        mesh.add(np.array(gable), f"wall/{WALLS[house.wall]}", BUILDING, house.paint, (3, 1))
    for _ in range(int(rng.integers(1, 3))):
        share = rng.uniform(0.1, 0.9)
        foot = (1 - share) * lines[2][0] + share * lines[2][1] - up(0.8)
        size = (0.7, rng.uniform(0.6, 1.2), 2.0)
        mesh.box(foot, rng.uniform(0, 90), size, "chimney", BUILDING, (0.62, 0.42, 0.36))


def _gable(mesh, house: Building, rng) -> None:
    _pitched(mesh, house, (0.25, house.ridge / 2), house.ridge, rng)


def _mansard(mesh, house: Building, rng) -> None:
    _pitched(mesh, house, (0.12, 2.6), 3.4, rng)
    front = Front(house)
    count = max(1, house.bays - 1)
    for s in (np.arange(count) + 0.5) * front.width / count:  # dormers
        face = front.quads(s - 0.6, s + 0.6, house.height + 0.2, house.height + 2.0, -0.15)
        mesh.add(face, "window/plaster/casement/0", BUILDING, house.trim)
        box = front.at(s, house.height + 0.2, -0.85)
        heading = np.degrees(np.arctan2(front.out[0], front.out[1]))
        mesh.box(box, heading, (1.39, 1.2, 1.85), "roof/flat", BUILDING)


_ROOFS = {"flat": _flat, "gable": _gable, "mansard": _mansard}
