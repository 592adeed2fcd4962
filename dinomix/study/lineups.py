"""Line-ups: the methods that are compared, from `lineups.toml`.

A notebook names a line-up and the methods of it that it shows, so that all notebooks mean the same
model by the same name, and share its runs.
"""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def lineups() -> dict[str, dict[str, dict[str, Any]]]:
    """Every line-up: name -> method -> what is special about it, in words of `study.variants`."""
    return tomllib.loads(Path(__file__).with_name("lineups.toml").read_text(encoding="utf-8"))


def lineup(name: str, methods: Iterable[str] | None = None) -> Mapping[str, Mapping[str, Any]]:
    """The methods of a line-up, in the order asked for; None means all of them.

    Raises:
        ValueError: there is no such line-up, or it has no such method.
    """
    known = lineups()
    if name not in known:
        raise ValueError(f"no line-up {name!r}; there are {', '.join(known)}")
    every = known[name]
    methods = list(every if methods is None else methods)
    if unknown := [method for method in methods if method not in every]:
        raise ValueError(f"line-up {name!r} has no methods {unknown}; it has {list(every)}")
    return {method: every[method] for method in methods}
