"""Seeds, names and coordinates: which city is whose, and what the field calls its photos."""

import hashlib

import numpy as np
import utm

# Every role has its own seeds. A test city is never seen in training, and the cities on which the
# stand-in backbone is pre-trained are never seen in the study.
TRAIN_SEEDS = (101, 102)
VAL_SEED = 201
TEST_SEED = 301
PRETRAIN_SEEDS = range(1000, 1064)

ZONE, LETTER = 31, "T"  # the cities are invented; this UTM zone gives them true coordinates
_ORIGIN = (500_000.0, 5_000_000.0)
_APART = 4_000.0  # metres from one city's origin to the next: no two cities share a 25 m circle

_HEADS = ("Alder", "Birk", "Cold", "Dun", "East", "Fern", "Grim", "Hazel", "Iron", "Kirk", "Lind")
_TAILS = ("bridge", "by", "dale", "field", "ford", "ham", "holm", "mere", "moor", "port", "stead")


def city_name(seed: int) -> str:
    """The city's name, which ends in its seed: names differ as seeds do."""
    return f"{_HEADS[seed % len(_HEADS)]}{_TAILS[seed // 11 % len(_TAILS)]}{seed}"


def city_origin(seed: int) -> tuple[float, float]:
    """UTM east and north, in metres, of local (0, 0). 1024 seeds in a row have distinct origins."""
    return _ORIGIN[0] + _APART * (seed % 32), _ORIGIN[1] + _APART * (seed // 32 % 32)


def latlon(east: np.ndarray | float, north: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude, in degrees, of UTM coordinates."""
    return utm.to_latlon(np.asarray(east), np.asarray(north), ZONE, LETTER)


def image_id(*parts: object) -> str:
    """22 letters and digits that identify a photo, in the place of a street-view panorama's id."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:22]


def gsv_name(row: dict) -> str:
    """File name of a training image, composed of its row in the city's CSV as GSV-Cities does."""
    return (
        f"{row['city_id']}_{row['place_id']:07d}_{row['year']}_{row['month']:02d}_"
        f"{row['northdeg']:03d}_{row['lat']}_{row['lon']}_{row['panoid']}.jpg"
    )


def utm_name(
    east: float, north: float, *, pano: str, heading: float, pitch: float, timestamp: str, note: str
) -> str:
    """File name of a test image: the `@`-separated fields that VPR test sets agree on."""
    latitude, longitude = latlon(east, north)
    return (
        f"@{east:010.2f}@{north:010.2f}@{ZONE}@{LETTER}@{latitude:09.5f}@{longitude:010.5f}"
        f"@{pano}@@{heading:03.0f}@{pitch:.0f}@@@{timestamp}@{note}@.jpg"
    )
