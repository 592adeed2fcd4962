"""What a toy data set holds: how many images of which cities under which conditions."""

import dataclasses
from dataclasses import dataclass

from dinomix.toycity.conditions import condition_named
from dinomix.toycity.names import TEST_SEED, TRAIN_SEEDS, VAL_SEED

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


@dataclass(frozen=True)
class ToyCityConfig:
    """Sizes of a toy data set. Numbers of places are for each city.

    Raises:
        ValueError: a number too small, no conditions, a severity outside [0, 1], a seed twice.
        KeyError: an unknown condition.
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
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: name at least one")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not isinstance(self.image_size, int):
            object.__setattr__(self, "image_size", tuple(self.image_size))
            if len(self.image_size) != 2:
                raise ValueError(f"image_size is {self.image_size}: one side, or (height, width)")
        sizes = dataclasses.asdict(self) | {"image_size": min(self.size)}
        for name in (
            *("image_size", "blocks", "train_places", "images_per_place"),
            *("val_places", "test_places", "val_queries", "test_queries"),
        ):
            least = {"blocks": 2, "image_size": 8}.get(name, 1)
            if not isinstance(sizes[name], int) or sizes[name] < least:
                raise ValueError(f"{name} is {sizes[name]!r}: expected a whole number from {least}")
        for name in (*self.val_conditions, *self.test_conditions):
            condition_named(name).at(self.severity)
        seeds = [*self.train_seeds, self.val_seed, self.test_seed]
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds {seeds} hold one twice: each split needs a city of its own")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size

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
