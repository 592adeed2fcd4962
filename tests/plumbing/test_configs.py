"""Configs refuse what their fields do not take, a line for each field."""

import dataclasses
import pickle
from typing import Annotated, Literal

import pytest
from pydantic import Field

from dinomix.plumbing.configs import Config, strict_dataclass


@strict_dataclass
class Recipe(Config):
    epochs: Annotated[int, Field(ge=1, le=9)] = 3
    lr: Annotated[float, Field(gt=0)] = 0.1
    name: str = "plain"
    blocks: Annotated[int, Field(ge=0)] | Literal["all"] = 1
    marks: Annotated[tuple[int, ...], Field(strict=False)] = ()

    def __post_init__(self):
        if self.name == "bad":
            raise ValueError("name must not be bad")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "Recipe.epochs is 0; it should be at least 1"),
        ({"epochs": 10}, "Recipe.epochs is 10; it should be at most 9"),
        ({"epochs": "3"}, "Recipe.epochs is '3'; it should be a whole number"),
        ({"epochs": True}, "Recipe.epochs is True; it should be a whole number"),
        ({"lr": float("nan")}, "Recipe.lr is nan; it should be a finite number"),
        ({"lr": None}, "Recipe.lr is None; it should be a number"),
        ({"name": 5}, "Recipe.name is 5; it should be text"),
        ({"name": "bad"}, "name must not be bad"),
        ({"blocks": "some"}, "Recipe.blocks is 'some'; it should be a whole number or 'all'"),
        ({"marks": [1, "2"]}, "Recipe.marks is '2'; it should be a list of what is a whole number"),
        ({"marks": 2}, "Recipe.marks is 2; it should be a list"),
        ({"lr": 0, "epochs": "x"}, "Recipe.epochs is 'x'; it should be a whole number\n"
                                   "Recipe.lr is 0; it should be greater than 0"),
    ],
)  # fmt: skip
def test_each_wrong_field_is_a_line(fields, message):
    with pytest.raises(ValueError) as error:
        Recipe(**fields)
    assert str(error.value) == message


def test_unknown_fields_are_named_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"no fields \['epoch'\]; the fields are epochs"):
        Recipe.from_dict({"epoch": 3})
    with pytest.raises(ValueError, match=r"Recipe\.epoch is 3; it should be left out"):
        Recipe(epoch=3)
    with pytest.raises(ValueError, match="made of named fields, not of 5"):
        Recipe.from_dict(5)


def test_a_config_is_a_frozen_dataclass():
    recipe = Recipe(lr=1, marks=[2, 3])
    assert recipe == Recipe(lr=1.0, marks=(2, 3)) == pickle.loads(pickle.dumps(recipe))
    assert type(recipe.lr) is float and hash(recipe) == hash(Recipe(lr=1, marks=(2, 3)))
    assert dataclasses.replace(recipe, epochs=4).epochs == 4
    with pytest.raises(ValueError, match="epochs"):
        dataclasses.replace(recipe, epochs=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.epochs = 4
