"""Quads: what the city is built of. A mesh is arrays with one entry a quad."""

from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from toycity.camera import compass
from toycity.texture import TILE
from toycity.tiles import atlas

CLASSES = ("sky", "building", "road", "vegetation", "vehicle", "person")
SKY, BUILDING, ROAD, VEGETATION, VEHICLE, PERSON = range(len(CLASSES))

# A unit box's sides left, right, front, rear and top, each from its lower left corner on, as seen
# from outside; coordinates are along the box, to its right, and up.
_FOOT = np.array([(0.5, -0.5, 0.0), (-0.5, -0.5, 0.0), (-0.5, 0.5, 0.0), (0.5, 0.5, 0.0)])
_LID = _FOOT + np.array((0.0, 0.0, 1.0))
_RING = ((0, 1), (2, 3), (3, 0), (1, 2))
_BOX = np.array([*([_FOOT[i], _FOOT[j], _LID[j], _LID[i]] for i, j in _RING), _LID[[1, 2, 3, 0]]])


def up(z: float) -> np.ndarray:
    """The vector (3,) that points `z` metres up."""
    return np.array((0.0, 0.0, z))


@dataclass(frozen=True)
class Mesh:
    """Q quads. Corners run lower left, lower right, upper right, upper left, seen from outside."""

    corners: np.ndarray  # (Q, 4, 3) float32, metres
    normals: np.ndarray  # (Q, 3) float32, unit length
    tiles: np.ndarray  # (Q,) int32, into the atlas
    repeats: np.ndarray  # (Q, 2) float32: how often the tile is laid across and up
    tints: np.ndarray  # (Q, 3) float32: linear colour that the tile's tinted texels take
    lights: np.ndarray  # (Q, 3) float32: linear colour of what shines through its glowing texels
    classes: np.ndarray  # (Q,) uint8
    surfaces: np.ndarray  # (Q,) int32: quads that lie in one surface and continue each other
    densities: np.ndarray  # (Q,) float32: texels per metre


class MeshBuilder:
    """Collects quads call by call; every call is a body of its own."""

    def __init__(self) -> None:
        self._parts: list[tuple] = []  # arguments of `add`
        self._index = atlas().index

    def tile(self, name: str) -> int:
        """The number of a tile in the atlas."""
        return self._index[name]

    def add(
        self,
        corners: np.ndarray,
        tile: str | np.ndarray,
        kind: int,
        tint=(1.0, 1.0, 1.0),
        repeat=(1.0, 1.0),
        light=(0.0, 0.0, 0.0),
        normals: np.ndarray | None = None,
    ) -> None:
        """Add quads (n, 4, 3). Other arguments are for all of them or have a row a quad: names of
        tiles or numbers from `tile()`, `tint` as painted (gamma 2), `light` linear, and `normals`
        (n, 3) in the place of those of the geometry.
        """
        corners = np.asarray(corners, np.float32).reshape(-1, 4, 3)
        number = self._index[tile] if isinstance(tile, str) else tile
        self._parts.append((corners, number, kind, tint, repeat, light, normals))

    def box(
        self,
        centre,
        heading: float,
        size,
        tiles,
        kind: int,
        tint=(1.0, 1.0, 1.0),
        taper=(1.0, 1.0),
        light=(0.0, 0.0, 0.0),
        repeats=((1.0, 1.0), (1.0, 1.0), (1.0, 1.0)),
    ) -> None:
        """A box without a floor: `centre` is that of its bottom, `size` its length along `heading`,
        width and height; `taper`, length and width of the top as shares of the bottom's. `tiles`:
        one name, or (sides, front, rear, top). `repeats`: of sides, ends and top.
        """
        axes = np.array([*compass(heading), up(1)])
        corners = _BOX * size  # (5, 4, 3): along, to the right, up
        corners[..., :2] *= np.where(_BOX[..., 2:] > 0, taper, 1.0)
        names = (tiles,) * 4 if isinstance(tiles, str) else tiles
        numbers = np.array([self._index[names[k]] for k in (0, 0, 1, 2, 3)])
        repeat = np.array([repeats[k] for k in (0, 0, 1, 1, 2)])
        self.add(corners @ axes + centre, numbers, kind, tint, repeat, light)

    def build(self) -> Mesh:
        counts = [len(part[0]) for part in self._parts]
        places = [slice(*ends) for ends in pairwise(accumulate(counts, initial=0))]

        def column(slot: int, *shape: int, dtype=np.float32) -> np.ndarray:
            values = np.empty((sum(counts), *shape), dtype)
            for part, place in zip(self._parts, places, strict=True):
                values[place] = part[slot]
            return values

        corners = column(0, 4, 3)
        normals = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
        for part, place in zip(self._parts, places, strict=True):
            if part[6] is not None:
                normals[place] = part[6]
        body = np.repeat(np.arange(len(counts)), counts)
        side = np.abs(normals).argmax(axis=1)
        sign = np.take_along_axis(normals, side[:, None], axis=1)[:, 0] > 0
        repeats, classes = column(4, 2), column(2, dtype=np.uint8)
        # The faces of a body are surfaces of their own, but a crown of leaves is one.
        surfaces = body * 6 + np.where(classes == VEGETATION, 0, side * 2 + sign)
        width, height = (np.linalg.norm(corners[:, i] - corners[:, 0], axis=1) for i in (1, 3))
        area = np.maximum(width * height, 1e-4)
        return Mesh(
            corners=corners,
            normals=normals,
            tiles=column(1, dtype=np.int32),
            repeats=repeats,
            tints=column(3, 3) ** 2,
            lights=column(5, 3),
            classes=classes,
            surfaces=surfaces.astype(np.int32),
            densities=(TILE * np.sqrt(repeats.prod(axis=1) / area)).astype(np.float32),
        )
