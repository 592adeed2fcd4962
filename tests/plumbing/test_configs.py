"""Configs refuse what their fields do not take, a line for each field."""

import dataclasses
import pickle
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import Field

from dinomix.plumbing.configs import Config, plain, real, strict_dataclass, whole, wholes
from dinomix.plumbing.files import config_hash


@strict_dataclass
class Recipe(Config):
    epochs: Annotated[int, Field(ge=1, le=9)] = 3
    lr: Annotated[float, Field(gt=0)] = 0.1
    name: str = "plain"
    blocks: Annotated[int, Field(ge=0)] | Literal["all"] = 1
    marks: Annotated[tuple[int, ...], Field(strict=False)] = ()
    options: Any = ()

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
        ({"epochs": np.array([3])}, "Recipe.epochs is [3]; it should be a whole number"),
        ({"epochs": np.True_}, "Recipe.epochs is True; it should be a whole number"),
        ({"lr": np.float32("nan")}, "Recipe.lr is nan; it should be a finite number"),
        ({"lr": np.complex64(1)}, "Recipe.lr is (1+0j); it should be a number"),
        ({"epochs": np.int64(0)}, "Recipe.epochs is 0; it should be at least 1"),
        ({"lr": 0, "epochs": "x"}, "Recipe.epochs is 'x'; it should be a whole number\n"
                                   "Recipe.lr is 0; it should be greater than 0"),
    ],
)  # fmt: skip
def test_each_wrong_field_is_a_line(fields, message):
    with pytest.raises(ValueError) as error:
        Recipe(**fields)
    assert str(error.value) == message


def test_unknown_fields_are_named_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"no fields \['epoch'\]; did you mean 'epochs'"):
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


WHOLE = [np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), pd.Series([3])[0]]


@pytest.mark.parametrize("three", WHOLE, ids=repr)
def test_whole_numbers_of_any_library_are_pythons(three):
    recipe = Recipe(epochs=three, blocks=three, lr=three, marks=[three], options={"a": (three,)})
    same = Recipe(epochs=3, blocks=3, lr=3, marks=(3,), options={"a": (3,)})
    assert recipe == same and config_hash(recipe) == config_hash(same)
    assert dataclasses.replace(Recipe(), epochs=three) == Recipe.from_dict({"epochs": 3})
    assert type(whole("k", three, least=3)) is type(wholes("ks", [1, three])[1]) is int


REAL = [np.float64(0.5), np.float32(0.5), torch.tensor(0.5), np.array(0.5), Fraction(1, 2)]


@pytest.mark.parametrize("half", REAL, ids=repr)
def test_real_numbers_of_any_library_are_pythons(half):
    recipe = Recipe(lr=half)
    assert recipe == Recipe(lr=0.5) and config_hash(recipe) == config_hash(Recipe(lr=0.5))
    assert type(recipe.lr) is type(real("threshold", half)) is float


@pytest.mark.parametrize("several", [range(1, 6, 4), np.array([1, 5]), torch.tensor([1, 5])])
def test_arrays_are_lists(several):
    assert wholes("ks", several) == [1, 5] and Recipe(marks=several).marks == (1, 5)


def test_what_is_no_number_stays():
    assert plain({"a": ["4", True, None, np.False_]}) == {"a": ["4", True, None, False]}
    assert type(plain(True)) is type(plain(np.True_)) is bool


NO_NUMBER = [True, np.True_, "4", None, [4], float("nan"), -1, np.int64(-1), 1 + 0j]


@pytest.mark.parametrize("value", [*NO_NUMBER, 4.0, np.float64(4)], ids=repr)
def test_arguments_that_are_no_whole_numbers_are_named(value):
    with pytest.raises(ValueError, match=r"^k is .*; it should be a whole number from 1 on: why"):
        whole("k", value, least=1, why=": why")
    for values in ([1, value], value, []):
        with pytest.raises(ValueError, match=r"^ks is .*; it should be a (list|whole number)"):
            wholes("ks", values, least=5)


@pytest.mark.parametrize("value", [*NO_NUMBER, np.inf], ids=repr)
def test_arguments_that_are_no_numbers_are_named(value):
    with pytest.raises(ValueError, match=r"^share is .*; it should be a number from 0 on"):
        real("share", value)
