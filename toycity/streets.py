"""The ground and what stands on it for years: pavements, markings, lamps, trees."""

import numpy as np

from toycity.city import DEPTH, PAVEMENT, City, Street, inset
from toycity.conditions import Condition
from toycity.mesh import BUILDING, ROAD, VEGETATION, MeshBuilder, up
from toycity.tiles import LEAVES

KERB = 0.14
LAMP_HEIGHT = 5.2
GREEN = ((0.30, 0.47, 0.20), (0.36, 0.50, 0.22), (0.26, 0.42, 0.22))
AUTUMN = ((0.80, 0.50, 0.16), (0.72, 0.36, 0.14), (0.84, 0.66, 0.22))


def add_ground(mesh: MeshBuilder, city: City) -> None:
    """Fields around the city, asphalt in it, a raised pavement around every block, and markings."""
    corners = np.c_[city.outline, np.zeros(4)]
    centre = corners.mean(axis=0)
    fields = centre + np.array([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)]) * 2500.0
    grass = (0.80, 0.80, 0.72)
    mesh.add(fields - up(0.05), "grass", VEGETATION, grass, repeat=(700, 700))
    size = corners[2] - corners[0]
    mesh.add(corners, "asphalt", ROAD, repeat=(size[0] / 4, size[1] / 4))
    for block in city.blocks:
        outer = np.c_[inset(block.corners, -PAVEMENT), np.zeros(4)]
        raised = outer + up(KERB)
        rim = np.c_[block.corners, np.full(4, KERB)]
        lengths = np.linalg.norm(np.roll(outer, -1, axis=0) - outer, axis=1)
        for i in range(4):
            j = (i + 1) % 4
            slab = np.array([raised[i], raised[j], rim[j], rim[i]])
            mesh.add(slab, "paving", ROAD, repeat=(lengths[i] / 3, 1))
            kerb = np.array([outer[i], outer[j], raised[j], raised[i]])
            mesh.add(kerb, "kerb", ROAD, repeat=(lengths[i], 1))
        floor = np.c_[block.corners, np.full(4, KERB)]
        if block.kind in ("park", "church"):
            mesh.add(floor, "grass", VEGETATION, repeat=(14, 14))
        else:
            mesh.add(floor, "yard", ROAD, repeat=(14, 14))
        if block.kind == "houses":  # a lawn in the courtyard
            lawn = np.c_[inset(block.corners, DEPTH + 4), np.full(4, KERB + 0.05)]
            mesh.add(lawn, "grass", VEGETATION, repeat=(8, 8))
    for street in city.streets:
        for start, end in street.segments:
            _markings(mesh, street, start, end)


def _markings(mesh: MeshBuilder, street: Street, start: np.ndarray, end: np.ndarray) -> None:
    """A dashed middle line, and a crossing for walkers at either end."""
    length = np.linalg.norm(end - start)
    ahead = (end - start) / length
    right = np.array((ahead[1], -ahead[0]))
    half = street.width / 2 - PAVEMENT

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
    for start, end in street.segments:
        length = np.linalg.norm(end - start)
        ahead = (end - start) / length
        heading = float(np.degrees(np.arctan2(*ahead)))
        for side in (0, 1):
            right = np.array((ahead[1], -ahead[0])) * (1 if side else -1)
            at = 19 + rng.uniform(0, gap[0])
            while at < length - 19:
                x, y = start + at * ahead + (street.width / 2 - out) * right
                spots.append((side, float(x), float(y), heading))
                at += rng.uniform(*gap)
    return spots


def lamp_spots(city: City) -> list[tuple[float, float, float]]:
    """Where lamps stand: (x, y, heading from the pavement towards the road)."""
    rng = np.random.default_rng([city.seed, 5])
    spots = []
    for street in city.streets:
        for side, x, y, heading in kerb_spots(street, (22, 26), PAVEMENT - 0.4, rng):
            spots.append((x, y, heading + (-90 if side else 90)))
    return spots


def add_lamps(mesh: MeshBuilder, city: City, brightness: float) -> None:
    """Posts with an arm over the road and a lantern at its end."""
    iron = (0.22, 0.25, 0.25)
    for x, y, inward in lamp_spots(city):
        a = np.radians(inward)
        reach = np.array((np.sin(a), np.cos(a), 0.0))
        foot = np.array((x, y, KERB))
        mesh.box(foot, inward, (0.13, 0.13, LAMP_HEIGHT), "plain", BUILDING, iron)
        arm = foot + reach * 0.5 + up(LAMP_HEIGHT - 0.08)
        mesh.box(arm, inward, (1.1, 0.08, 0.08), "plain", BUILDING, iron)
        glow = np.array((1.0, 0.80, 0.48)) * 4 * brightness
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
            x, y = (
                (x, low[1] - away),
                (x, high[1] + away),
                (low[0] - away, y),
                (high[0] + away, y),
            )[side]
            spots.append((float(x), float(y), rng.uniform(7, 13)))
    return spots


def add_trees(mesh: MeshBuilder, city: City, condition: Condition) -> None:
    """Trees as trunks, a few branches and loose leaf cards, lit as if the crown were a ball."""
    rng = np.random.default_rng([city.seed, 9])
    for x, y, height in tree_spots(city):
        trunk = 0.36 * height
        foot, turn = (x, y, 0.0), rng.uniform(0, 90)
        girth = 0.035 * height
        mesh.box(foot, turn, (girth, girth, trunk * 1.5), "bark", VEGETATION, taper=(0.6, 0.6))
        centre = np.array((x, y, trunk + 0.31 * height))
        radii = np.array((0.29, 0.29, 0.34)) * height * rng.uniform(0.9, 1.1, 3)
        _branches(mesh, np.array((x, y, trunk)), radii, rng)
        pick = int(rng.integers(len(GREEN)))
        green, yellow = np.array(GREEN[pick]), np.array(AUTUMN[rng.integers(len(AUTUMN))])
        tint = green + condition.autumn * (yellow - green)
        cards = 90 if city.contains(x, y) else 36  # those in the fields are far away
        _crown(mesh, centre, radii, tint * rng.uniform(0.85, 1.1), cards, condition.leaves, rng)


def _branches(mesh: MeshBuilder, fork: np.ndarray, radii: np.ndarray, rng) -> None:
    count = 9
    angle = np.arange(count) * 2.4 + rng.uniform(0, 6)
    reach = np.stack([np.cos(angle), np.sin(angle), rng.uniform(1.0, 2.0, count)], axis=1)
    tips = fork + reach * radii * rng.uniform(0.6, 0.95, (count, 1))
    aside = np.stack([-np.sin(angle), np.cos(angle), np.zeros(count)], axis=1) * 0.11
    foot = np.broadcast_to(fork, tips.shape)
    quads = np.stack([foot - aside, foot + aside, tips + aside / 4, tips - aside / 4], axis=1)
    mesh.add(quads, "bark", VEGETATION)


def _crown(mesh: MeshBuilder, centre, radii, tint, total: int, leaves: float, rng) -> None:
    """Square cards on a shell; the first ones stay when the leaves fall."""
    out = rng.normal(size=(total, 3))
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    middle = centre + out * radii * rng.uniform(0.55, 1.0, (total, 1))
    facing = out + 0.8 * rng.normal(size=(total, 3))
    side = np.cross(facing, rng.normal(size=(total, 3)))
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(facing, side)
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    half = (1.5 / np.sqrt(total) * radii.max() * rng.uniform(0.8, 1.5, total))[:, None]
    side, up = side * half, up * half
    quads = np.stack(
        [middle - side - up, middle + side - up, middle + side + up, middle - side + up]
    )
    tiles = mesh.tile("leaf/0") + rng.integers(0, LEAVES, total)
    tints = tint * rng.uniform(0.85, 1.15, (total, 1))
    keep = slice(0, round(total * leaves))
    mesh.add(quads.swapaxes(0, 1)[keep], tiles[keep], VEGETATION, tints[keep], normals=out[keep])
