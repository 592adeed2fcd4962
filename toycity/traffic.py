"""What is there today and gone tomorrow: parked cars, people, and what stands before the camera."""

import zlib

import numpy as np

from toycity.camera import compass
from toycity.city import PAVEMENT, City
from toycity.conditions import Condition
from toycity.mesh import PERSON, VEHICLE, MeshBuilder, up
from toycity.streets import KERB, kerb_spots
from toycity.tiles import TRUCKS

CAR_PAINTS = (
    *((0.88, 0.88, 0.88), (0.24, 0.25, 0.27), (0.60, 0.62, 0.64), (0.56, 0.13, 0.12)),
    *((0.16, 0.26, 0.45), (0.10, 0.10, 0.11), (0.42, 0.46, 0.40)),
)
CLOTHES = (*CAR_PAINTS, (0.80, 0.62, 0.30), (0.30, 0.42, 0.34), (0.46, 0.30, 0.48))
SKIN = ((0.90, 0.70, 0.58), (0.72, 0.52, 0.40), (0.46, 0.32, 0.25))


def add_traffic(mesh: MeshBuilder, city: City, condition: Condition) -> None:
    """Cars along the kerb and people on the pavement, other ones in every condition, and, with the
    chance `condition.traffic`, something large in each database view of a place.
    """
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
    """Trucks and vans in the lane, or people, to the right of the cameras of the places.

    Returns where the vehicles stand; no two of them overlap.
    """
    taken: list[np.ndarray] = []
    cameras = np.array([(place.x, place.y) for place in city.places])

    def free(spot: np.ndarray, distance: float) -> bool:
        """Whether no camera, of this place or of one round the corner, would be inside."""
        return bool(np.linalg.norm(cameras - spot, axis=1).min() > distance)

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
    paint = CAR_PAINTS[rng.integers(len(CAR_PAINTS))]
    length, width = rng.uniform(3.9, 4.6), rng.uniform(1.70, 1.82)
    body, cabin = 0.85 * tall, rng.uniform(0.55, 0.68) * tall
    ahead, _ = compass(heading)
    foot = np.array((x, y, 0.0))
    glow = np.array((0.9, 0.35, 0.2)) * 0.15 * lamps
    names = ("car/side", "car/front", "car/rear", "plain")
    mesh.box(foot, heading, (length, width, body), names, VEHICLE, paint, (0.97, 0.94), light=glow)
    shift, share = (-0.35, 0.58) if rng.random() < 0.6 else (-0.55, 0.80)  # a saloon, an estate
    roof = foot + ahead * shift + up(body)
    names = ("car/glass", "car/glass", "car/glass", "plain")
    size, repeats = (length * share, width * 0.92, cabin), ((2, 1), (1, 1), (1, 1))
    mesh.box(roof, heading, size, names, VEHICLE, paint, (0.72, 0.82), repeats=repeats)


def _truck(mesh: MeshBuilder, x, y, heading, rng) -> None:
    paint, cab = (CAR_PAINTS[i] for i in rng.integers(len(CAR_PAINTS), size=2))
    ahead, _ = compass(heading)
    foot, tall = np.array((x, y, 0.0)), rng.uniform(2.9, 3.5)
    names = (f"truck/{rng.integers(TRUCKS)}", "plain", "truck/rear", "plain")
    mesh.box(foot - ahead * 0.9, heading, (5.4, 2.3, tall), names, VEHICLE, paint)
    names = ("car/side", "truck/cab", "plain", "plain")
    mesh.box(foot + ahead * 2.7, heading, (1.6, 2.2, 2.4), names, VEHICLE, cab, (0.8, 0.94))


def _person(mesh: MeshBuilder, x, y, heading, rng) -> None:
    """A walker: two legs, a coat, two arms, a head with hair."""
    trousers, coat = (np.array(CLOTHES[i]) for i in rng.integers(len(CLOTHES), size=2))
    skin, hair = SKIN[rng.integers(len(SKIN))], np.array((0.30, 0.22, 0.15)) * rng.uniform(0.3, 2)
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
