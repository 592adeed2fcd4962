"""Failures that their message explains, and words for messages. Bad input: ValueError, OSError."""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

Found = TypeVar("Found")


class ExplainedError(RuntimeError):
    """What was asked cannot be done here and now; the message says why, and what would help.

    The command line shows it as one line, and notebooks do. What is neither this nor a ValueError,
    an OSError or a FloatingPointError is a mistake in the program, and shows where it came from.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"error: {self}"]


class MissingDataError(FileNotFoundError, ExplainedError):
    """What a notebook needs is not in the data folder."""


class ParameterError(ValueError, ExplainedError):
    """A notebook does not have the parameter that it is given, or takes other values for it."""


class HubError(ExplainedError):
    """A hub gave nothing: there is no network, no such repository, or no right to read it."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports of what an extra of pyproject.toml brings: ModuleNotFoundError names it."""
    try:
        yield
    except ModuleNotFoundError as error:
        told = f"{error.name} is not installed: pip install 'dinomix[{name}]'"
        raise ModuleNotFoundError(told, name=error.name) from None


def first_of(names: Sequence[str], limit: int = 5) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def named(known: Mapping[str, Found], name: str, what: str) -> Found:
    """What has this name; ValueError, with the nearest names or else with all, if nothing has."""
    if name not in known:
        raise ValueError(f"no {what} {name!r}; {did_you_mean(str(name), known, len(known))}")
    return known[name]


def did_you_mean(name: str, known: Collection[str], limit: int = 5) -> str:
    """The nearest of the known names, in any case, or where none is near, the first of them."""
    small = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), small, n=2)
    if near:
        return f"did you mean {' or '.join(repr(small[each]) for each in near)}?"
    return f"there are {first_of(sorted(known), limit)}"
