"""What a toy data set holds: how many images of which cities under which conditions."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from toycity.conditions import CONDITIONS

# Every role has its own seeds. A test city is never seen in training, and the cities on which the
# stand-in backbone is pre-trained are never seen in the study.
TRAIN_SEEDS = (101, 102)
VAL_SEED = 201
TEST_SEED = 301
PRETRAIN_SEEDS = range(1000, 1064)

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


def _sides(size: int | tuple[int, int]) -> int | tuple[int, int]:
    for side in (size,) if isinstance(size, int) else size:
        if not 8 <= side <= 4096:
            raise ValueError(f"{side} is not from 8 to 4,096 pixels")
    return size


STRICT = ConfigDict(extra="forbid", strict=True)
_Listed = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
Count = Annotated[int, Field(ge=1, le=1_000_000)]
_Seed = Annotated[int, Field(ge=0, le=2**32)]
Conditions = Annotated[tuple[Literal[*CONDITIONS], ...], _Listed, Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class ToyCityConfig:
    """Sizes of a toy data set. ValueError: a field is of the wrong type or out of its range, a
    condition unknown, or a seed there twice.
    """

    image_size: Annotated[int | tuple[int, int], _Listed, AfterValidator(_sides)] = 112  # or (h, w)
    blocks: Annotated[int, Field(ge=2, le=64)] = 6  # a city has blocks x blocks of them
    train_places: Count = 250  # for each training city; neighbours in a street are 36 m apart
    images_per_place: Count = 8
    val_places: Count = 150  # database spots, each with two views
    test_places: Count = 360
    val_queries: Count = 60  # for each condition
    test_queries: Count = 120
    val_conditions: Conditions = ("viewpoint", "dusk", "snow", "occlusion")
    test_conditions: Conditions = (
        *("viewpoint", "dusk", "night", "autumn", "snow"),
        *("occlusion", "blur", "lowlight", "changed"),
    )
    severity: Annotated[float, Field(ge=0, le=1)] = 1.0  # of validation and test conditions
    train_seeds: Annotated[tuple[_Seed, ...], _Listed, Field(min_length=1)] = TRAIN_SEEDS
    val_seed: _Seed = VAL_SEED
    test_seed: _Seed = TEST_SEED

    def __post_init__(self) -> None:
        seeds = [*self.train_seeds, self.val_seed, self.test_seed]
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds {seeds} hold one twice: each split needs a city of its own")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size

    @classmethod
    def small(cls, **changes) -> Self:
        """A set that renders in seconds: 2 x 12 training places, two queries a condition."""
        sizes = dict.fromkeys(("train_places", "val_places", "test_places"), 12)
        sizes |= {"blocks": 2, "images_per_place": 4, "val_queries": 2, "test_queries": 2}
        return cls(**(sizes | changes))
