"""What is in the streets: pavements, markings, lamps, trees; cars and people, who come and go."""

import zlib
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from toycity.camera import compass, heading_of
from toycity.city import DEPTH, LOOKS, PAVEMENT, City, Street, inset
from toycity.conditions import Condition
from toycity.mesh import BUILDING, PERSON, ROAD, VEGETATION, VEHICLE, MeshBuilder, up
from toycity.tiles import LEAVES, TRUCKS

KERB = 0.14
LAMP_HEIGHT = 5.2
PAINTS = LOOKS["paints"]
CARS, CLOTHES = PAINTS["cars"], PAINTS["cars"] + PAINTS["clothes"]


def add_ground(mesh: MeshBuilder, city: City) -> None:
    """Fields around the city, asphalt in it, a raised pavement around every block, and markings."""
    corners = np.c_[city.outline, np.zeros(4)]
    fields = np.array([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)]) * 2500.0 - up(0.05)
    grass = (0.80, 0.80, 0.72)
    mesh.add(corners.mean(axis=0) + fields, "grass", VEGETATION, grass, repeat=(700, 700))
    mesh.add(corners, "asphalt", ROAD, repeat=(corners[2] - corners[0])[:2] / 4)
    for block in city.blocks:
        outer = np.c_[inset(block.corners, -PAVEMENT), np.zeros(4)]
        raised = outer + up(KERB)
        rim = np.c_[block.corners, np.full(4, KERB)]
        lengths = np.linalg.norm(np.roll(outer, -1, axis=0) - outer, axis=1)
        for i, length in enumerate(lengths):
            j = (i + 1) % 4
            slab = np.array([raised[i], raised[j], rim[j], rim[i]])
            mesh.add(slab, "paving", ROAD, repeat=(length / 3, 1))
            kerb = np.array([outer[i], outer[j], raised[j], raised[i]])
            mesh.add(kerb, "kerb", ROAD, repeat=(length, 1))
        green = block.kind in ("park", "church")
        mesh.add(rim, *(("grass", VEGETATION) if green else ("yard", ROAD)), repeat=(14, 14))
        if block.kind == "houses":  # a lawn in the courtyard
            lawn = np.c_[inset(block.corners, DEPTH + 4), np.full(4, KERB + 0.05)]
            mesh.add(lawn, "grass", VEGETATION, repeat=(8, 8))
    for street in city.streets:
        for stretch in _stretches(street):
            _markings(mesh, street.width / 2 - PAVEMENT, *stretch)


def _stretches(street: Street) -> Iterator[tuple[np.ndarray, float, np.ndarray, np.ndarray]]:
    """From crossing to crossing: start (2,), length, unit vectors (2,) ahead and to the right."""
    for start, end in pairwise(street.nodes):
        length = np.linalg.norm(end - start)
        ahead = (end - start) / length
        yield start, length, ahead, np.array((ahead[1], -ahead[0]))


def _markings(mesh: MeshBuilder, half: float, start, length, ahead, right) -> None:
    """A dashed middle line, and a crossing for walkers at either end of a road 2 * half wide."""

    def strip(along: np.ndarray, depth: float, across: float) -> np.ndarray:
        middle = start + along[:, None] * ahead
        points = [middle - across * right, middle + across * right]
        points += [p + depth * ahead for p in points[::-1]]
        return np.stack([np.c_[p, np.full(len(p), 0.02)] for p in points], axis=1)

    mesh.add(strip(np.arange(18.0, length - 20, 6.0), 2.6, 0.08), "dash", ROAD)
    ends = np.array((12.0, length - 15.0))
    mesh.add(strip(ends, 3.0, half - 0.3), "crossing", ROAD, repeat=(max(1, half / 4), 1))


def kerb_spots(
    street: Street, gap: tuple[float, float], out: float, rng: np.random.Generator
) -> list[tuple[int, float, float, float]]:
    """Spots (side, x, y, heading of the street) on both sides, `out` metres from the facades."""
    spots = []
    for start, length, ahead, right in _stretches(street):
        for side, aside in ((0, -right), (1, right)):
            at = 19 + rng.uniform(0, gap[0])
            while at < length - 19:
                x, y = start + at * ahead + (street.width / 2 - out) * aside
                spots.append((side, float(x), float(y), heading_of(ahead)))
                at += rng.uniform(*gap)
    return spots


def lamp_spots(city: City) -> list[tuple[float, float, float]]:
    """Where lamps stand: (x, y, heading from the pavement towards the road)."""
    rng = np.random.default_rng([city.seed, 5])
    return [
        (x, y, heading + (-90 if side else 90))
        for street in city.streets
        for side, x, y, heading in kerb_spots(street, (22, 26), PAVEMENT - 0.4, rng)
    ]


def add_lamps(mesh: MeshBuilder, city: City, brightness: float) -> None:
    """Posts with an arm over the road and a lantern at its end."""
    iron = (0.22, 0.25, 0.25)
    glow = np.array((1.0, 0.80, 0.48)) * 4 * brightness
    for x, y, inward in lamp_spots(city):
        reach, _ = compass(inward)
        foot = np.array((x, y, KERB))
        mesh.box(foot, inward, (0.13, 0.13, LAMP_HEIGHT), "plain", BUILDING, iron)
        arm = foot + reach * 0.5 + up(LAMP_HEIGHT - 0.08)
        mesh.box(arm, inward, (1.1, 0.08, 0.08), "plain", BUILDING, iron)
        head = foot + reach * 1.0 + up(LAMP_HEIGHT - 0.30)
        mesh.box(head, inward, (0.5, 0.34, 0.24), "lamp", BUILDING, light=glow, taper=(0.7, 0.7))
        cap = head + up(0.24)
        mesh.box(cap, inward, (0.56, 0.40, 0.10), "plain", BUILDING, iron, taper=(0.4, 0.4))


def tree_spots(city: City) -> list[tuple[float, float, float]]:
    """Where trees stand, and how tall: (x, y, height). Lined streets, yards, parks, fields."""
    rng = np.random.default_rng([city.seed, 6])
    spots = []
    for street in city.streets:
        for side, x, y, _ in kerb_spots(street, (11, 17), PAVEMENT - 0.8, rng):
            if street.trees[side]:
                spots.append((x, y, rng.uniform(5.5, 8.5)))
    for block in city.blocks:
        count = {"park": 26, "church": 12, "houses": 6}.get(block.kind, 0)
        edge = 0.32 if block.kind == "houses" else 0.08
        for u, v in rng.uniform(edge, 1 - edge, (count, 2)):
            a, b, c, d = block.corners
            x, y = (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * d + u * c)
            if np.hypot(x - block.centre[0], y - block.centre[1]) > 20 or block.kind != "church":
                spots.append((float(x), float(y), rng.uniform(6, 11)))
    low, high = city.outline.min(axis=0), city.outline.max(axis=0)
    for side in range(4):
        for share in rng.random(int(18 * len(city.blocks) ** 0.5)):
            away = rng.uniform(6, 60)
            x, y = low + share * (high - low)
            x = (x, x, low[0] - away, high[0] + away)[side]
            y = (low[1] - away, high[1] + away, y, y)[side]
            spots.append((float(x), float(y), rng.uniform(7, 13)))
    return spots


def add_trees(mesh: MeshBuilder, city: City, condition: Condition) -> None:
    """Trees as trunks, a few branches and loose leaf cards, lit as if the crown were a ball."""
    rng = np.random.default_rng([city.seed, 9])
    for x, y, height in tree_spots(city):
        trunk, girth = 0.36 * height, 0.035 * height
        size, turn = (girth, girth, trunk * 1.5), rng.uniform(0, 90)
        mesh.box((x, y, 0.0), turn, size, "bark", VEGETATION, taper=(0.6, 0.6))
        centre = np.array((x, y, trunk + 0.31 * height))
        radii = np.array((0.29, 0.29, 0.34)) * height * rng.uniform(0.9, 1.1, 3)
        _branches(mesh, np.array((x, y, trunk)), radii, rng)
        green, yellow = (
            np.array(PAINTS[season][rng.integers(len(PAINTS[season]))])
            for season in ("green", "autumn")
        )
        tint = green + condition.autumn * (yellow - green)
        cards = 90 if city.contains(x, y) else 36  # those in the fields are far away
        _crown(mesh, centre, radii, tint * rng.uniform(0.85, 1.1), cards, condition.leaves, rng)


def _branches(mesh: MeshBuilder, fork: np.ndarray, radii: np.ndarray, rng) -> None:
    angle = np.arange(9) * 2.4 + rng.uniform(0, 6)
    reach = np.stack([np.cos(angle), np.sin(angle), rng.uniform(1.0, 2.0, 9)], axis=1)
    tips = fork + reach * radii * rng.uniform(0.6, 0.95, (9, 1))
    aside = np.stack([-np.sin(angle), np.cos(angle), 0 * angle], axis=1) * 0.11
    foot = np.broadcast_to(fork, tips.shape)
    quads = np.stack([foot - aside, foot + aside, tips + aside / 4, tips - aside / 4], axis=1)
    mesh.add(quads, "bark", VEGETATION)


def _crown(mesh: MeshBuilder, centre, radii, tint, total: int, leaves: float, rng) -> None:
    """Square cards on a shell; the first ones stay when the leaves fall."""
    out = _unit(rng.normal(size=(total, 3)))
    middle = centre + out * radii * rng.uniform(0.55, 1.0, (total, 1))
    facing = out + 0.8 * rng.normal(size=(total, 3))
    side = _unit(np.cross(facing, rng.normal(size=(total, 3))))
    half = (1.5 / np.sqrt(total) * radii.max() * rng.uniform(0.8, 1.5, total))[:, None]
    rise, side = _unit(np.cross(facing, side)) * half, side * half
    left, right = middle - side, middle + side
    quads = np.stack([left - rise, right - rise, right + rise, left + rise], axis=1)
    tiles = mesh.tile("leaf/0") + rng.integers(0, LEAVES, total)
    tints = tint * rng.uniform(0.85, 1.15, (total, 1))
    keep = slice(0, round(total * leaves))
    mesh.add(quads[keep], tiles[keep], VEGETATION, tints[keep], normals=out[keep])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# ---------------------------------------------------------------------- traffic


def add_traffic(mesh: MeshBuilder, city: City, condition: Condition) -> None:
    """Cars and people, by the condition's name; by its traffic, something large before cameras."""
    rng = np.random.default_rng([city.seed, zlib.crc32(condition.name.encode())])
    occluded = [] if condition.traffic == 0 else _occluders(mesh, city, condition.traffic, rng)
    taken = np.array(occluded).reshape(-1, 2)
    for street in city.streets:
        for side, x, y, heading in kerb_spots(street, (5.6, 9.0), PAVEMENT + 1.15, rng):
            free = not len(taken) or np.linalg.norm(taken - (x, y), axis=1).min() > 6
            if rng.random() < 0.42 and free:
                _car(mesh, x, y, heading + (0 if side else 180), rng, condition.lamps)
        for _, x, y, heading in kerb_spots(street, (9, 40), rng.uniform(0.8, 2.2), rng):
            _person(mesh, x, y, heading + 180 * rng.integers(2), rng)


def _occluders(mesh: MeshBuilder, city: City, chance: float, rng) -> list[np.ndarray]:
    """Trucks and vans in the lane, or people, to the right of the places' cameras: where the
    vehicles, which never overlap, stand.
    """
    taken: list[np.ndarray] = []
    cameras = np.array([(place.x, place.y) for place in city.places])

    def free(spot: np.ndarray, distance: float) -> bool:  # no camera would be inside
        return np.linalg.norm(cameras - spot, axis=1).min() > distance

    for place in city.places:
        lane = city.streets[place.street].width / 2 - PAVEMENT
        for direction in (0, 180):
            draw, kind, shift = rng.random(3)
            if draw >= chance:
                continue
            heading = place.heading + direction
            ahead, right = (axis[:2] for axis in compass(heading))
            truck = kind < 0.4
            away, aside = (6.8 + shift, 3.2) if truck else (5.2 + shift, 3.0)
            spot = np.array((place.x, place.y)) + ahead * away + right * max(aside, lane * 0.6)
            room = all(np.linalg.norm(spot - other) > 8 for other in taken)
            if kind < 0.7 and room and free(spot, 5.0):
                taken.append(spot)
                if truck:
                    _truck(mesh, *spot, heading, rng)
                else:
                    _car(mesh, *spot, heading, rng, 0.0, tall=1.35)
                continue
            for _ in range(int(rng.integers(3, 6))):
                away, aside = rng.uniform(1.7, 4.0), rng.uniform(0.0, 0.75)
                spot = (place.x, place.y) + ahead * away + right * (0.3 + away * aside)
                if free(spot, 1.6):
                    _person(mesh, *spot, heading + rng.uniform(0, 360), rng)
    return taken


def _car(mesh: MeshBuilder, x, y, heading, rng, lamps: float, tall: float = 1.0) -> None:
    """A body, and a cabin of glass and roof; `tall` makes it a van."""
    paint = CARS[rng.integers(len(CARS))]
    length, width = rng.uniform(3.9, 4.6), rng.uniform(1.70, 1.82)
    body, cabin = 0.85 * tall, rng.uniform(0.55, 0.68) * tall
    foot, glow = np.array((x, y, 0.0)), np.array((0.9, 0.35, 0.2)) * 0.15 * lamps
    names = ("car/side", "car/front", "car/rear", "plain")
    mesh.box(foot, heading, (length, width, body), names, VEHICLE, paint, (0.97, 0.94), light=glow)
    shift, share = (-0.35, 0.58) if rng.random() < 0.6 else (-0.55, 0.80)  # a saloon, an estate
    roof = foot + compass(heading)[0] * shift + up(body)
    names = ("car/glass", "car/glass", "car/glass", "plain")
    size, repeats = (length * share, width * 0.92, cabin), ((2, 1), (1, 1), (1, 1))
    mesh.box(roof, heading, size, names, VEHICLE, paint, (0.72, 0.82), repeats=repeats)


def _truck(mesh: MeshBuilder, x, y, heading, rng) -> None:
    paint, cab = (CARS[i] for i in rng.integers(len(CARS), size=2))
    ahead, _ = compass(heading)
    foot, tall = np.array((x, y, 0.0)), rng.uniform(2.9, 3.5)
    names = (f"truck/{rng.integers(TRUCKS)}", "plain", "truck/rear", "plain")
    mesh.box(foot - ahead * 0.9, heading, (5.4, 2.3, tall), names, VEHICLE, paint)
    names = ("car/side", "truck/cab", "plain", "plain")
    mesh.box(foot + ahead * 2.7, heading, (1.6, 2.2, 2.4), names, VEHICLE, cab, (0.8, 0.94))


def _person(mesh: MeshBuilder, x, y, heading, rng) -> None:
    """A walker: two legs, a coat, two arms, a head with hair."""
    trousers, coat = (np.array(CLOTHES[i]) for i in rng.integers(len(CLOTHES), size=2))
    skin = PAINTS["skin"][rng.integers(len(PAINTS["skin"]))]
    hair = np.array((0.30, 0.22, 0.15)) * rng.uniform(0.3, 2)
    tall = rng.uniform(0.90, 1.08)
    ahead, right = compass(heading)
    stride = rng.uniform(0.05, 0.22)

    def part(along, aside, high, size, paint, taper=(1.0, 1.0)) -> None:
        centre = np.array((x, y, KERB)) + (along * ahead + aside * right + up(high)) * tall
        mesh.box(centre, heading, np.array(size) * tall, "plain", PERSON, paint, taper)

    for side in (-1, 1):
        part(side * stride, side * 0.10, 0.0, (0.17, 0.15, 0.86), trousers * 0.7, (1.1, 1.25))
        part(-side * stride * 0.8, side * 0.27, 0.82, (0.11, 0.10, 0.60), coat * 0.9, (1.2, 1.2))
    part(0, 0, 0.74, (0.26, 0.42, 0.72), coat, (0.85, 1.05))
    part(0, 0, 1.46, (0.10, 0.12, 0.10), skin)
    part(0, 0, 1.53, (0.20, 0.17, 0.20), skin, (1.05, 1.05))
    part(-0.01, 0, 1.69, (0.23, 0.19, 0.10), hair, (0.6, 0.6))
