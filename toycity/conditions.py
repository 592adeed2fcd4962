"""Conditions: what changes between the day a place was mapped and the day it is asked for."""

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toycity.camera import Camera

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Condition:
    """Light, season, traffic, changes and camera of a photo: numbers, which can be blended.

    Light is linear, 1 being white paper in the sun; angles are degrees; lengths are metres.
    """

    name: str
    months: tuple[int, ...] = (5, 6, 7, 8)  # when such photos are taken: written to file names
    # light
    sun_heading: float = 150.0
    sun_elevation: float = 48.0
    sun: Colour = (1.22, 1.12, 0.95)
    zenith: Colour = (0.16, 0.33, 0.72)
    horizon: Colour = (0.66, 0.76, 0.86)
    ambient: float = 0.44  # how much of the sky's light reaches an open surface
    clouds: float = 0.45  # share of the sky
    haze: float = 900.0  # distance at which 63 % of the colour is the horizon's
    lit: float = 0.0  # share of windows with a light on
    lamps: float = 0.0  # brightness of lamps and signs
    exposure: float = 1.0
    # season
    leaves: float = 1.0  # share of the foliage on the trees
    autumn: float = 0.0
    snow: float = 0.0
    # street
    traffic: float = 0.0  # chance of something large close to the camera, for each view of a place
    changed: float = 0.0  # share of the buildings that were repainted, let anew or replaced
    # camera
    turn: float = 4.0  # half-width of the jitter of the heading
    aside: float = 0.7  # ... across the street
    along: float = 2.5  # ... along the street
    zoom: float = 0.05  # ... of the field of view, as a share
    motion: float = 0.0  # length of the motion blur as a share of the image's width
    noise: float = 0.0  # standard deviation of the sensor noise at mid-grey

    def at(self, severity: float) -> "Condition":
        """The condition at `severity`, from 0, the plain day, to 1; else ValueError."""
        if not 0 <= severity <= 1:
            raise ValueError(f"severity is {severity}: it goes from 0 (plain day) to 1")
        if severity == 1:
            return self
        values = {
            field.name: _blend(getattr(DAY, field.name), getattr(self, field.name), severity)
            for field in dataclasses.fields(self)
            if field.name not in ("name", "months")
        }
        return dataclasses.replace(self, **values)

    def jitter(self, camera: Camera, rng: np.random.Generator) -> Camera:
        """The camera of another visit: a little aside, ahead, turned and zoomed."""
        turn, aside, along, zoom, pitch = rng.uniform(-1, 1, 5)
        heading = np.radians(camera.heading)
        right, ahead = aside * self.aside, along * self.along
        return Camera(
            x=float(camera.x + right * np.cos(heading) + ahead * np.sin(heading)),
            y=float(camera.y - right * np.sin(heading) + ahead * np.cos(heading)),
            z=camera.z,
            heading=float((camera.heading + turn * self.turn) % 360),
            pitch=float(camera.pitch + 1.5 * pitch),
            fov=float(camera.fov * (1 + zoom * self.zoom)),
        )


def _blend(start, end, share: float):
    if isinstance(start, tuple):
        return tuple(_blend(a, b, share) for a, b in zip(start, end, strict=True))
    return start + (end - start) * share


_TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
CONDITIONS = {
    name: Condition(name, **{k: tuple(v) if isinstance(v, list) else v for k, v in table.items()})
    for name, table in _TABLES.items()
}
DAY = CONDITIONS["day"]


def condition_named(name: str) -> Condition:
    """The condition called `name`; KeyError lists those there are."""
    if name not in CONDITIONS:
        raise KeyError(f"no condition is called {name!r}; there are {', '.join(CONDITIONS)}")
    return CONDITIONS[name]
