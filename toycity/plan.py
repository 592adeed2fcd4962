"""The ground plan: a bent grid of streets, and the blocks between them."""

from dataclasses import dataclass

import numpy as np

from toycity.styles import DISTRICTS

LANDMARKS = ("church", "gasometer", "tower", "tower", "water_tower", "chimney")


@dataclass(frozen=True)
class Street:
    """A polyline from one border of the city to the other; `width` is from facade to facade."""

    nodes: np.ndarray  # (n, 2) crossings, metres
    width: float
    trees: tuple[bool, bool]  # on the left and on the right pavement

    @property
    def segments(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The stretches between crossings, as pairs of points (2,)."""
        return list(zip(self.nodes[:-1], self.nodes[1:], strict=True))


@dataclass(frozen=True)
class Block:
    """What lies between four streets. Corners (4, 2) run counter-clockwise along the facades."""

    corners: np.ndarray
    kind: str  # "houses", "park" or a landmark's name, which then stands in the middle
    district: int

    @property
    def centre(self) -> np.ndarray:
        """Mean of the corners, in metres: (2,)."""
        return self.corners.mean(axis=0)


def draw_nodes(columns: int, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Crossings of a bent grid: uneven spacing, a slow wave, some jitter."""
    east = np.concatenate([[0], np.cumsum(rng.uniform(72, 105, columns))])
    north = np.concatenate([[0], np.cumsum(rng.uniform(66, 92, rows))])
    x, y = np.meshgrid(east, north)
    phase = rng.uniform(0, 2 * np.pi, 4)
    bent_x = x + 14 * np.sin(y / 130 + phase[0]) + 6 * np.sin(x / 90 + phase[1])
    bent_y = y + 14 * np.sin(x / 150 + phase[2]) + 6 * np.sin(y / 80 + phase[3])
    return np.stack([bent_x, bent_y], axis=-1) + rng.uniform(-3, 3, (*x.shape, 2))


def inset(corners: np.ndarray, distances: np.ndarray | float) -> np.ndarray:
    """Move the sides of convex polygons (..., 4, 2), counter-clockwise, inwards by `distances`."""
    along = np.roll(corners, -1, axis=-2) - corners
    along /= np.linalg.norm(along, axis=-1, keepdims=True)
    inward = np.stack([-along[..., 1], along[..., 0]], axis=-1)
    level = (
        np.sum(inward * corners, axis=-1) + distances
    )  # each side is the line inward . p = level
    # A corner lies on its own side and on the one before.
    sides = np.stack([np.roll(inward, 1, axis=-2), inward], axis=-2)
    levels = np.stack([np.roll(level, 1, axis=-1), level], axis=-1)
    return np.linalg.solve(sides, levels[..., None])[..., 0]


def draw_blocks(nodes: np.ndarray, widths: list[float], rng: np.random.Generator) -> list[Block]:
    """The blocks between the streets. `widths`: of the rows of nodes, then of the columns."""
    rows, columns = nodes.shape[0] - 1, nodes.shape[1] - 1
    half = np.array(widths) / 2
    centres = rng.uniform((0, 0), (columns, rows), (len(DISTRICTS), 2))
    district_of = rng.permutation(len(DISTRICTS))
    kinds = _kinds(rows * columns, rng)
    blocks = []
    for row in range(rows):
        for column in range(columns):
            square = np.array(
                [
                    nodes[row, column],
                    nodes[row, column + 1],
                    nodes[row + 1, column + 1],
                    nodes[row + 1, column],
                ]
            )
            south, north = half[row], half[row + 1]
            west, east = half[rows + 1 + column], half[rows + 2 + column]
            corners = inset(square, np.array([south, east, north, west]))
            nearest = np.linalg.norm(centres - (column + 0.5, row + 0.5), axis=1).argmin()
            kind = kinds[row * columns + column]
            blocks.append(Block(corners, kind, int(district_of[nearest])))
    return blocks


def _kinds(count: int, rng: np.random.Generator) -> list[str]:
    """One block in twelve is a park, and up to one in six has a landmark."""
    special = ["park"] * (count // 12) + list(LANDMARKS[: count // 6])
    kinds = special + ["houses"] * (count - len(special))
    return [kinds[i] for i in rng.permutation(count)]
