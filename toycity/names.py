"""Seeds, names and coordinates: which city is whose, and where it lies."""

import hashlib

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


def image_id(*parts: object) -> str:
    """22 letters and digits that identify a photo, in the place of a street-view panorama's id."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:22]
