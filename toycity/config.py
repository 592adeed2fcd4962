"""What a toy data set holds: how many images of which cities under which conditions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from dinomix.plumbing.settings import check_fields
from toycity.conditions import CONDITIONS
from toycity.names import TEST_SEED, TRAIN_SEEDS, VAL_SEED

# What the training images show, how strongly, and how often. Night, blur, low light and changed
# places are left out on purpose: they are the challenges that a model has not been trained for.
TRAIN_MIX: tuple[tuple[str, float, float], ...] = (  # condition, severity, share
    ("day", 1.0, 0.30),
    ("viewpoint", 0.5, 0.20),
    ("dusk", 1.0, 0.13),
    ("autumn", 1.0, 0.12),
    ("snow", 1.0, 0.12),
    ("occlusion", 0.5, 0.13),
)

SIDES = (8, 4096)  # pixels, least and most
SIZES = {  # least and most; a city has room for some dozen places a block
    "blocks": (2, 64),
    **dict.fromkeys(("train_places", "val_places", "test_places"), (1, 1_000_000)),
    **dict.fromkeys(("images_per_place", "val_queries", "test_queries"), (1, 1_000_000)),
}


@dataclass(frozen=True)
class ToyCityConfig:
    """Sizes of a toy data set. Numbers of places are for each city.

    Raises:
        ValueError: a field of the wrong type or out of its range, an unknown condition, or a seed
            twice.
    """

    image_size: int | tuple[int, int] = 112  # or (height, width)
    blocks: int = 6  # a city has blocks x blocks of them
    train_places: int = 250  # for each training city; neighbours in a street are 36 m apart
    images_per_place: int = 8
    val_places: int = 150  # database spots, each with two views
    test_places: int = 360
    val_queries: int = 60  # for each condition
    test_queries: int = 120
    val_conditions: tuple[str, ...] = ("viewpoint", "dusk", "snow", "occlusion")
    test_conditions: tuple[str, ...] = (
        *("viewpoint", "dusk", "night", "autumn", "snow"),
        *("occlusion", "blur", "lowlight", "changed"),
    )
    severity: float = 1.0  # of the validation and test conditions
    train_seeds: tuple[int, ...] = TRAIN_SEEDS
    val_seed: int = VAL_SEED
    test_seed: int = TEST_SEED

    def __post_init__(self) -> None:
        for name in ("val_conditions", "test_conditions", "train_seeds"):
            given = getattr(self, name)
            if not isinstance(given, (tuple, list)):
                raise ValueError(f"{name} is {given!r}: expected a list")
            if not given:
                raise ValueError(f"{name} is empty: name at least one")
            object.__setattr__(self, name, tuple(given))
        if isinstance(self.image_size, (tuple, list)):
            object.__setattr__(self, "image_size", tuple(self.image_size))
            if len(self.image_size) != 2:
                raise ValueError(f"image_size is {self.image_size}: one side, or (height, width)")
        for side in self.image_size if isinstance(self.image_size, tuple) else (self.image_size,):
            _whole("image_size", side, *SIDES)
        for name, (least, most) in SIZES.items():
            _whole(name, getattr(self, name), least, most)
        for seed in (*self.train_seeds, self.val_seed, self.test_seed):
            _whole("a seed", seed, 0, 2**32)
        if type(self.severity) not in (int, float):
            raise ValueError(f"severity is {self.severity!r}: expected a number from 0 to 1")
        for name in (*self.val_conditions, *self.test_conditions):
            if not isinstance(name, str) or name not in CONDITIONS:
                raise ValueError(
                    f"no condition is called {name!r}; there are {', '.join(CONDITIONS)}"
                )
            CONDITIONS[name].at(self.severity)
        seeds = [*self.train_seeds, self.val_seed, self.test_seed]
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds {seeds} hold one twice: each split needs a city of its own")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Build a config from literals; fields left out take their defaults.

        Raises:
            ValueError: for a key that is no field, or a value that its field does not take.
        """
        check_fields(cls, fields, "a toy city's config")
        return cls(**fields)

    @classmethod
    def small(cls, **changes) -> "ToyCityConfig":
        """A set that renders in seconds: 2 x 12 training places, two queries a condition."""
        sizes = {
            "blocks": 2,
            "train_places": 12,
            "images_per_place": 4,
            "val_places": 12,
            "test_places": 12,
            "val_queries": 2,
            "test_queries": 2,
        }
        return cls(**(sizes | changes))


def _whole(name: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}: expected a whole number from {least} to {most:,}")
