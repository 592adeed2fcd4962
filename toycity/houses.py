"""From a building's description to its quads: a grid of bays and floors, and shop fronts."""

import numpy as np

from toycity.fronts import Front
from toycity.mesh import BUILDING, MeshBuilder, up
from toycity.roofs import add_roof
from toycity.styles import ACCENTS, DOORS, SHOPS, SIGNS, VARIANTS, WALLS, WINDOWS, Building

WARM = np.array((1.0, 0.72, 0.38), np.float32)  # light behind windows
SIGN_HEIGHT = 0.75


def add_house(mesh: MeshBuilder, house: Building, lit: float, lamps: float) -> None:
    """Add one building. `lit`: share of lit windows; `lamps`: brightness of signs and shops."""
    rng = np.random.default_rng([house.seed, 3])
    lights = np.random.default_rng([house.seed, 4])
    front = Front(house)
    _upper_floors(mesh, house, front, rng, lights, lit)
    _ground_floor(mesh, house, front, rng, lights, lit, lamps)
    _other_walls(mesh, house, lights, lit)
    _cornice(mesh, house, front)
    add_roof(mesh, house, rng)


def _window_lights(lights: np.random.Generator, count: int, lit: float) -> np.ndarray:
    """Light (count, 3) behind windows: which are lit first does not depend on how many are."""
    order, level = lights.random(count), lights.uniform(0.35, 1.0, count)
    warmth = WARM + lights.uniform(-0.12, 0.12, (count, 1)) * np.array((0, 0.5, 1.0))
    return ((order < lit) * level)[:, None] * warmth


def _upper_floors(mesh, house: Building, front: Front, rng, lights, lit: float) -> None:
    bays, floors = house.bays, house.floors
    bay, floor = np.meshgrid(np.arange(bays), np.arange(floors))
    bay, floor = bay.ravel(), floor.ravel()
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
        shifted = front.quads(
            bay[own] * wide,
            (bay[own] + 1) * wide,
            z0 + 0.3 + floor[own] * (z1 - z0 - 0.3) / floors,
            z0 + 0.3 + (floor[own] + 1) * (z1 - z0 - 0.3) / floors,
            0.8,
        )
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
    length = (s1 - s0 - 0.24) / SIGN_HEIGHT
    if length > 6:  # the name once, in the middle, with plain board on either side
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
        p = [front.at(a, low, reach), front.at(b, low, reach)]
        cloth = np.array([*p, front.at(b, high, 0.17), front.at(a, high, 0.17)])
        flap = front.quads(a, b, low - 0.25, low, reach)
        repeat = (max(1, round((b - a) / 1.5)), 1)
        paint = ACCENTS[rng.integers(len(ACCENTS))]
        both = np.stack([cloth, flap])
        mesh.add(both, f"awning/{rng.integers(2)}", BUILDING, paint, repeat)
    if rng.random() < 0.35:  # a sign that hangs out over the pavement
        at = rng.uniform(s0 + 0.4, s1 - 0.4)
        ends = [(at - 0.06, 0.2, 1.15), (at + 0.06, 1.15, 0.2)]
        for s, near, far in ends:
            p = [front.at(s, height + 0.1, near), front.at(s, height + 0.1, far)]
            p += [front.at(s, height + 0.95, far), front.at(s, height + 0.95, near)]
            mesh.add(np.array(p), f"sign/{rng.integers(SIGNS)}", BUILDING, accent, light=glow)


def _other_walls(mesh, house: Building, lights, lit: float) -> None:
    """Party walls, plain, and the wall to the courtyard, with windows."""
    lot = np.c_[house.lot, np.zeros(4)]
    wall = WALLS[house.wall]
    rise = up(house.height)
    for a, b in ((1, 2), (3, 0)):
        length = np.linalg.norm(lot[b] - lot[a])
        quad = np.array([lot[a], lot[b], lot[b] + rise, lot[a] + rise])
        repeat = (max(1, round(length / 3)), max(1, round(house.height / 3)))
        mesh.add(quad, f"wall/{wall}", BUILDING, np.array(house.paint) * 0.92, repeat)
    length = np.linalg.norm(lot[3] - lot[2])
    quad = np.array([lot[2], lot[3], lot[3] + rise, lot[2] + rise])
    repeat = (max(1, round(length / 3.4)), house.floors + 1)
    light = WARM * 0.3 * lit * lights.random()
    mesh.add(quad, f"window/{wall}/small/0", BUILDING, house.paint, repeat, light)


def _cornice(mesh, house: Building, front: Front) -> None:
    z = house.height
    mesh.add(front.slab(0, front.width, z - 0.45, z, 0.35), "cornice", BUILDING, house.trim)
    z = house.ground_height
    mesh.add(front.slab(0, front.width, z - 0.12, z + 0.06, 0.10), "plain", BUILDING, house.trim)
