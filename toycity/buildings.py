"""From a building's description to its quads: bays and floors, shop fronts, roofs; landmarks."""

from itertools import pairwise

import numpy as np
from numpy.linalg import norm

from toycity.camera import compass, heading_of
from toycity.city import LOOKS, Block, Building
from toycity.mesh import BUILDING, MeshBuilder, up
from toycity.tiles import DOORS, SHOPS, SIGNS, VARIANTS, WALLS, WINDOWS

WARM = np.array((1.0, 0.72, 0.38), np.float32)  # light behind windows
SIGN_HEIGHT = 0.75
ACCENTS = LOOKS["paints"]["accents"]
# Corners of a box, as which end of (along, up, out); and its faces, seen from outside.
_CUBE = np.array([(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]).T
_FACES = np.array([(1, 5, 7, 3), (0, 1, 3, 2), (5, 4, 6, 7), (3, 7, 6, 2), (0, 4, 5, 1)])


class Front:
    """The plane of a facade: points from metres along it, above it and out of it."""

    def __init__(self, house: Building):
        self.start = np.append(house.lot[0], 0.0)
        self.along = np.append(house.lot[1] - house.lot[0], 0.0)
        self.width = float(norm(self.along))
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


def add_house(mesh: MeshBuilder, house: Building, lit: float, lamps: float) -> None:
    """Add one building. `lit`: share of lit windows; `lamps`: brightness of signs and shops."""
    rng = np.random.default_rng([house.seed, 3])
    lights = np.random.default_rng([house.seed, 4])
    front = Front(house)
    _upper_floors(mesh, house, front, rng, lights, lit)
    _ground_floor(mesh, house, front, rng, lights, lit, lamps)
    _other_walls(mesh, house, lights, lit)
    for z0, z1, out, tile in (
        (house.height - 0.45, house.height, 0.35, "cornice"),
        (house.ground_height - 0.12, house.ground_height + 0.06, 0.10, "plain"),
    ):
        mesh.add(front.slab(0, front.width, z0, z1, out), tile, BUILDING, house.trim)
    if house.roof == "flat":
        _flat(mesh, house, rng)
    elif house.roof == "gable":
        _pitched(mesh, house, (0.25, house.ridge / 2), house.ridge, rng)
    else:
        _mansard(mesh, house, front, rng)


def _window_lights(lights: np.random.Generator, count: int, lit: float) -> np.ndarray:
    """Light (count, 3) behind windows: which are lit first does not depend on how many are."""
    order, level = lights.random(count), lights.uniform(0.35, 1.0, count)
    warmth = WARM + lights.uniform(-0.12, 0.12, (count, 1)) * np.array((0, 0.5, 1.0))
    return ((order < lit) * level)[:, None] * warmth


def _upper_floors(mesh, house: Building, front: Front, rng, lights, lit: float) -> None:
    bays, floors = house.bays, house.floors
    floor, bay = np.divmod(np.arange(floors * bays), bays)
    wide = front.width / bays
    z0 = house.ground_height + floor * house.floor_height
    quads = front.quads(bay * wide, (bay + 1) * wide, z0, z0 + house.floor_height)
    wall, style = WALLS[house.wall], WINDOWS[house.window]
    first = mesh.tile(f"window/{wall}/{style}/0")
    tiles = first + rng.choice(VARIANTS, len(bay), p=(0.5, 0.3, 0.2))
    blank = rng.random(bays) < 0.12  # a bay without windows, from the second bay on
    blank[0] = False
    tiles[blank[bay]] = mesh.tile(f"wall/{wall}")
    light = _window_lights(lights, len(bay), lit)
    mesh.add(quads, tiles, BUILDING, house.paint, light=light)
    if house.bay_window and bays > 2:
        column = int(rng.integers(bays - 1))
        z0, z1 = house.ground_height, house.height - 0.4
        sides = front.slab(column * wide, (column + 1) * wide, z0 + 0.3, z1, 0.8)
        mesh.add(sides[1:], f"wall/{wall}", BUILDING, house.paint)
        own = bay == column
        left, level = bay[own], np.array([floor[own], floor[own] + 1])
        low, high = z0 + 0.3 + level * (z1 - z0 - 0.3) / floors
        shifted = front.quads(left * wide, (left + 1) * wide, low, high, 0.8)
        kinds = first + rng.choice(VARIANTS, own.sum())
        mesh.add(shifted, kinds, BUILDING, house.paint, light=light[own])
    elif house.balconies:
        for column in np.flatnonzero(rng.random(bays) < 0.5):
            for level in range(floors):
                z = house.ground_height + level * house.floor_height
                slab = front.slab((column + 0.12) * wide, (column + 0.88) * wide, z, z + 0.95, 0.9)
                mesh.add(slab, "plain", BUILDING, house.trim)


def _ground_floor(mesh, house: Building, front: Front, rng, lights, lit, lamps) -> None:
    bays, wall = house.bays, WALLS[house.wall]
    wide, height = front.width / bays, house.ground_height
    bay = np.arange(bays)
    quads = front.quads(bay * wide, (bay + 1) * wide, np.zeros(bays), np.full(bays, height))
    door = int(rng.integers(bays))
    tiles = np.full(bays, mesh.tile(f"window/{wall}/{WINDOWS[house.window]}/0"))
    tiles += rng.integers(0, VARIANTS, bays)
    tints = np.tile(house.paint, (bays, 1)).astype(float)
    light = _window_lights(lights, bays, lit)
    if house.shop:
        for first, last in _shops(door, bays, rng):
            accent = np.array(ACCENTS[rng.integers(len(ACCENTS))])
            style = int(rng.integers(SHOPS // 4)) * 4
            tiles[first:last] = mesh.tile(f"shop/{style + rng.integers(3)}")
            tiles[int(rng.integers(first, last))] = mesh.tile(f"shop/{style + 3}")
            tints[first:last] = accent
            light[first:last] = WARM * lamps * rng.uniform(0.5, 1.0)
            _shop_front(mesh, front, first * wide, last * wide, height, accent, lamps, rng)
    tiles[door] = mesh.tile(f"door/{wall}/{rng.integers(DOORS)}")
    tints[door] = house.paint
    mesh.add(quads, tiles, BUILDING, tints, light=light)
    steps = front.slab((door + 0.2) * wide, (door + 0.8) * wide, 0.0, 0.22, 0.45)
    mesh.add(steps, "kerb", BUILDING)


def _shops(door: int, bays: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Runs of bays [first, last) left and right of the door, each run one or two shops."""
    runs = []
    for first, last in ((0, door), (door + 1, bays)):
        if last - first >= 4 and rng.random() < 0.6:
            middle = (first + last) // 2
            runs += [(first, middle), (middle, last)]
        elif last > first:
            runs.append((first, last))
    return runs


def _shop_front(mesh, front: Front, s0, s1, height, accent, lamps, rng) -> None:
    top = height - 0.12
    board = front.slab(s0 + 0.12, s1 - 0.12, top - SIGN_HEIGHT, top, 0.16)
    glow = (0.25 + 0.75 * accent**2) * lamps * (rng.random() < 0.7)
    mesh.add(board[1:], "plain", BUILDING, accent)
    sign = f"sign/{rng.integers(SIGNS)}"
    if (s1 - s0 - 0.24) / SIGN_HEIGHT > 6:  # the name in the middle, plain board on either side
        middle, half = (s0 + s1) / 2, 2.5 * SIGN_HEIGHT
        ends = np.array([s0 + 0.12, middle - half, middle + half, s1 - 0.12])
        boards = front.quads(ends[:-1], ends[1:], top - SIGN_HEIGHT, top, 0.16)
        names = np.array([mesh.tile(name) for name in ("plain", sign, "plain")])
        mesh.add(boards, names, BUILDING, accent, light=glow)
    else:
        mesh.add(board[:1], sign, BUILDING, accent, light=glow)
    if rng.random() < 0.35:
        low, high, reach = top - SIGN_HEIGHT - 0.75, top - SIGN_HEIGHT, rng.uniform(1.0, 1.5)
        a, b = s0 + 0.2, s1 - 0.2
        cloth = front.at([a, b, b, a], [low, low, high, high], [reach, reach, 0.17, 0.17])
        both = np.stack([cloth, front.quads(a, b, low - 0.25, low, reach)])
        repeat = (max(1, round((b - a) / 1.5)), 1)
        paint = ACCENTS[rng.integers(len(ACCENTS))]
        mesh.add(both, f"awning/{rng.integers(2)}", BUILDING, paint, repeat)
    if rng.random() < 0.35:  # a sign that hangs out over the pavement
        at = rng.uniform(s0 + 0.4, s1 - 0.4)
        low, high = height + 0.1, height + 0.95
        for s, near, far in ((at - 0.06, 0.2, 1.15), (at + 0.06, 1.15, 0.2)):
            side = front.at(s, [low, low, high, high], [near, far, far, near])
            mesh.add(side, f"sign/{rng.integers(SIGNS)}", BUILDING, accent, light=glow)


def _other_walls(mesh, house: Building, lights, lit: float) -> None:
    """Party walls, plain, and the wall to the courtyard, with windows."""
    foot, wall = np.c_[house.lot, np.zeros(4)], WALLS[house.wall]
    for ends in ((1, 2), (3, 0), (2, 3)):
        a, b = foot[list(ends)]
        quad, length = np.array([a, b, b + up(house.height), a + up(house.height)]), norm(b - a)
        if ends == (2, 3):
            repeat = (max(1, round(length / 3.4)), house.floors + 1)
            light = WARM * 0.3 * lit * lights.random()
            mesh.add(quad, f"window/{wall}/small/0", BUILDING, house.paint, repeat, light)
        else:
            repeat = (max(1, round(length / 3)), max(1, round(house.height / 3)))
            mesh.add(quad, f"wall/{wall}", BUILDING, np.array(house.paint) * 0.92, repeat)


# ---------------------------------------------------------------------- roofs


def _flat(mesh, house: Building, rng) -> None:
    lot = np.c_[house.lot, np.full(4, house.height)]
    middle = lot.mean(axis=0)
    inner = middle + 0.94 * (lot - middle) - up(0.5)
    mesh.add(inner, "roof/flat", BUILDING, repeat=(4, 3))
    rim = np.stack([lot, np.roll(lot, -1, 0), np.roll(inner, -1, 0), inner], axis=1)
    mesh.add(rim, "plain", BUILDING, house.trim)
    turn, *size = rng.uniform((0, 1.5, 1.5, 1.5), (360, 3, 3, 2.8))
    mesh.box(middle - up(0.5), turn, size, "wall/panel", BUILDING, (0.6, 0.6, 0.6))


def _mansard(mesh, house: Building, front: Front, rng) -> None:
    _pitched(mesh, house, (0.12, 2.6), 3.4, rng)
    count = max(1, house.bays - 1)
    for s in (np.arange(count) + 0.5) * front.width / count:  # dormers
        face = front.quads(s - 0.6, s + 0.6, house.height + 0.2, house.height + 2.0, -0.15)
        mesh.add(face, "window/plaster/casement/0", BUILDING, house.trim)
        foot = front.at(s, house.height + 0.2, -0.85)
        mesh.box(foot, heading_of(front.out), (1.39, 1.2, 1.85), "roof/flat", BUILDING)


def _pitched(mesh, house: Building, lower: tuple[float, float], ridge: float, rng) -> None:
    """Slopes from the eaves to `lower` (share of the depth, height) and on to the ridge."""
    eaves = np.c_[house.lot, np.full(4, house.height)]
    profile = [(0.0, 0.0), lower, (0.5, ridge), (1 - lower[0], lower[1]), (1.0, 0.0)]

    def line(share: float, rise: float) -> tuple[np.ndarray, np.ndarray]:
        left, right = (eaves[a] + share * (eaves[b] - eaves[a]) for a, b in ((0, 3), (1, 2)))
        return left + up(rise), right + up(rise)

    lines = [line(*point) for point in profile]
    slopes = [[a[0], a[1], b[1], b[0]] for a, b in pairwise(lines)]
    slopes = [q for q in slopes if norm(q[3] - q[0]) > 1e-3]
    repeat = (max(1, norm(eaves[1] - eaves[0]) / 4), 1.5)
    mesh.add(np.array(slopes), "roof/tiles", BUILDING, house.roof_paint, repeat)
    for end in (0, 1):
        a, b, top, c, d = (pair[end] for pair in lines)
        gable = np.array([[a, d, c, b], [b, c, top, top]])
        mesh.add(gable, f"wall/{WALLS[house.wall]}", BUILDING, house.paint, (3, 1))
    for _ in range(int(rng.integers(1, 3))):
        share = rng.uniform(0.1, 0.9)
        foot = (1 - share) * lines[2][0] + share * lines[2][1] - up(0.8)
        size = (0.7, rng.uniform(0.6, 1.2), 2.0)
        mesh.box(foot, rng.uniform(0, 90), size, "chimney", BUILDING, (0.62, 0.42, 0.36))


# ---------------------------------------------------------------------- landmarks

_GLOW = np.array((1.0, 0.72, 0.38))  # as WARM, but float64: the bytes of photos depend on it


def add_landmark(mesh: MeshBuilder, block: Block, seed: int, lit: float) -> None:
    """Add the landmark of a block, if it has one; `lit` is the share of lit windows."""
    if build := _LANDMARKS.get(block.kind):
        x, y = block.centre
        heading = heading_of(block.corners[1] - block.corners[0])
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
    length, width, eaves = 34.0, 14.0, 11.0
    glow = _GLOW * lit

    def box(
        centre, size, tile, paint, sides=(1, 1), ends=(1, 1), taper=(1.0, 1.0), light=(0, 0, 0)
    ):
        repeats = (sides, ends, (1, 1))
        mesh.box(centre, heading, size, tile, BUILDING, paint, taper, light, repeats)

    box(foot, (length, width, eaves), "church/wall", stone, (7, 1), (3, 1), light=glow)
    box(foot + up(eaves), (length, width + 1, 8), "roof/tiles", roof, (8, 2), (3, 2), (1.0, 0.01))
    tower, tall = foot + compass(heading)[0] * (length / 2 + 3), rng.uniform(24, 32)
    box(tower, (8, 8, tall), "church/wall", stone, (1, 2), (1, 2), light=glow)
    clock = tower + up(tall)
    box(clock, (8, 8, 8), "church/clock", stone, light=glow * 2)
    spire = (8.6, 8.6, rng.uniform(16, 26))
    box(clock + up(8), spire, "roof/tiles", roof, (2, 5), (2, 5), (0.02, 0.02))


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
    light, whole = _GLOW * 0.45 * lit, (size, size, height)
    mesh.box(foot, heading, whole, tiles, BUILDING, paint, light=light, repeats=repeats)
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
