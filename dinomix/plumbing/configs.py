"""Configs: frozen dataclasses whose fields pydantic checks, with errors of one line a field.

And arguments that are numbers: here those of any library become Python's.
"""

import dataclasses
import functools
import reprlib
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any, Self, dataclass_transform

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from dinomix.plumbing.errors import did_you_mean

# No "4" for 4, no True for 1, no 2.0 for 2; an integer is a real number, NaN and infinity are none.
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass_transform(frozen_default=True)
def strict_dataclass(cls: type) -> type:
    """Make a class of annotated fields a frozen dataclass that refuses what its fields don't take.

    The ValueError says "ModelConfig.mix_depth is '2'; it should be a whole number", a line each.
    """
    made = dataclass(frozen=True, config=STRICT)(cls)
    checked = made.__init__

    @functools.wraps(checked)
    def __init__(self, *args: Any, **fields: Any) -> None:
        try:
            checked(self, *plain(args), **plain(fields))
        except ValidationError as error:
            raise ValueError(in_words(error)) from None

    made.__init__ = __init__
    return made


def plain(value: Any) -> Any:
    """Numbers of any library as Python's own, arrays as lists; all else, True and "4", as it is."""
    if hasattr(value, "tolist"):  # NumPy's, torch's, pandas'
        return value.tolist()
    if isinstance(value, Real) and type(value) not in (bool, int, float):
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return (list if isinstance(value, list) else tuple)(map(plain, value))
    return value


def whole(name: str, value: Any, least: int = 0, why: str = "") -> int:
    """The argument `name`, a whole number, as an int; ValueError for 4.0, "4", True or too few."""
    number = plain(value)
    if type(number) is not int or number < least:
        raise ValueError(f"{name} is {value!r}; it should be a whole number from {least} on{why}")
    return number


def wholes(name: str, values: Any, least: int = 0) -> list[int]:
    """The argument `name`, a list of whole numbers, as ints; ValueError for anything else."""
    values = plain(values)
    numbers = [whole(name, v, least) for v in values] if isinstance(values, Iterable) else []
    if not numbers:
        raise ValueError(f"{name} is {values!r}; it should be a list such as [1, 5]")
    return numbers


def real(name: str, value: Any) -> float:
    """The argument `name`, a number from 0 on, as Python's; ValueError for anything else."""
    number = plain(value)
    if type(number) not in (int, float) or not 0 <= number < float("inf"):
        raise ValueError(f"{name} is {value!r}; it should be a number from 0 on")
    return number


class Config:
    """What all configs have beside their fields."""

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Build a config from literals; ValueError for a key or a value that it does not take."""
        if not isinstance(fields, Mapping):
            raise ValueError(f"{cls.__name__} is made of named fields, not of {fields!r}")
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := [key for key in fields if key not in known]:
            hint = did_you_mean(str(unknown[0]), known)
            raise ValueError(f"{cls.__name__} has no fields {unknown}; {hint}")
        return cls(**fields)


def with_family(own: Mapping[str, Any], families: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an entry, and behind them those of the family that it is `like`."""
    family = with_family(families[own["like"]], families) if "like" in own else {}
    tables = {key: family.get(key, {}) | v for key, v in own.items() if isinstance(v, dict)}
    return {key: v for key, v in {**family, **own, **tables}.items() if key != "like"}


WORDS = {
    "Value error, ": "",
    "Input should be ": "",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "True or False",
    "a valid string": "text",
    "a valid tuple": "a list",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
}


def in_words(error: ValueError) -> str:
    """An error's message; of pydantic's, a line for each field: what it is, what it should be."""
    if not isinstance(error, ValidationError):
        return str(error)
    wrong: dict[str, tuple[Any, list[str]]] = {}
    lines = []
    for problem in error.errors(include_url=False):
        message = problem["msg"]
        for words, plainer in WORDS.items():
            message = message.replace(words, plainer)
        if problem["type"] == "value_error":  # of our own checks, which say it all
            lines.append(": ".join([*map(str, problem["loc"]), message]))
            continue
        field, *inside = problem["loc"]
        if problem["type"] == "missing":
            lines.append(f"{error.title}.{field} is missing")
            continue
        if problem["type"] == "unexpected_keyword_argument":
            message = "left out: there is no such field"
        elif inside and isinstance(inside[-1], int):
            message = f"a list of what is {message}"
        messages = wrong.setdefault(str(field), (problem["input"], []))[1]
        if message not in messages:
            messages.append(message)
    lines += [
        f"{error.title}.{field} is {reprlib.repr(value)}; it should be {' or '.join(messages)}"
        for field, (value, messages) in wrong.items()
    ]
    return "\n".join(lines)
