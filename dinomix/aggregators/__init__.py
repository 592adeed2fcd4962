"""Aggregators: a feature map (B, s, h, w) becomes one descriptor an image, (B, D), of unit length.

To add one: a subclass of `Aggregator` that sets `dim` and writes `pool`, decorated with
`register_aggregator` (or, in this package, a line in `AGGREGATORS`). Its constructor takes by name
whichever it needs of `SETTINGS`, and options of its own, with defaults, which are
`dinomix.ModelConfig(aggregator_options={...})`. CONTRIBUTING.md has an example.
"""

import inspect
import re
from collections.abc import Callable
from typing import Any

from dinomix.aggregators.base import Aggregator
from dinomix.aggregators.boq import BoQ
from dinomix.aggregators.convap import ConvAP
from dinomix.aggregators.cosplace import CosPlaceHead
from dinomix.aggregators.gem import GeM
from dinomix.aggregators.mixer import FeatureMixer
from dinomix.aggregators.netvlad import NetVLAD
from dinomix.aggregators.salad import SALAD

AGGREGATORS: dict[str, type[Aggregator]] = {
    "mix": FeatureMixer,
    "gem": GeM,
    "netvlad": NetVLAD,
    "convap": ConvAP,
    "cosplace": CosPlaceHead,
    "salad": SALAD,
    "boq": BoQ,
}
BUILT_IN = frozenset(AGGREGATORS)
SETTINGS = ("in_channels", "grid", "mix_depth", "out_channels", "out_rows")


def build_aggregator(
    name: str, in_channels: int, grid: tuple[int, int], **settings: Any
) -> Aggregator:
    """Build the aggregator `name` for maps of `in_channels` and `grid`.

    Args:
        settings: the other `SETTINGS`, of which each aggregator takes what it needs, and its own
            options.

    Raises:
        ValueError: for an unknown name, or an option that the aggregator does not have.
    """
    shared = {"in_channels": in_channels, "grid": grid}
    shared |= {key: settings.pop(key) for key in SETTINGS if key in settings}
    check_options(name, settings)
    taken = inspect.signature(AGGREGATORS[name]).parameters
    return AGGREGATORS[name](**{k: v for k, v in shared.items() if k in taken}, **settings)


def check_options(name: str, options: dict[str, Any]) -> None:
    """Raise ValueError unless there is an aggregator `name` that has all these options."""
    if name not in AGGREGATORS:
        raise ValueError(
            f"unknown aggregator {name!r}: choose one of {', '.join(AGGREGATORS)}; one of your own "
            f"must be registered first: import the module with its register_aggregator({name!r}), "
            "on the command line by dinomix --import MODULE"
        )
    own = [key for key in inspect.signature(AGGREGATORS[name]).parameters if key not in SETTINGS]
    if unknown := sorted(set(options) - set(own)):
        has = own or "none of its own"
        raise ValueError(f"aggregator {name!r} has no options {unknown}; it has {has}")


def register_aggregator(name: str) -> Callable[[type[Aggregator]], type[Aggregator]]:
    """A decorator that makes a class known as `ModelConfig(aggregator=name)`.

    A saved model holds the name, not the class: import the class's module before you load it.
    Defining the same class again, as a notebook's cell does that runs twice, replaces the old one.

    Raises:
        ValueError: for a name or a class that cannot be one.
    """
    if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError(
            f"an aggregator's name is made of a-z, 0-9 and _, a letter first, not {name!r}"
        )

    def register(aggregator: type[Aggregator]) -> type[Aggregator]:
        if not (isinstance(aggregator, type) and issubclass(aggregator, Aggregator)):
            raise ValueError(
                f"{aggregator!r} cannot be the aggregator {name!r}: derive the class "
                "from dinomix.Aggregator"
            )
        for key, parameter in inspect.signature(aggregator).parameters.items():
            named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if not named or (key not in SETTINGS and parameter.default is parameter.empty):
                raise ValueError(
                    f"the constructor of {_origin(aggregator)} takes {str(parameter)!r}: an "
                    f"aggregator takes by name any of {', '.join(SETTINGS)}, and options with a "
                    "default"
                )
        holder = _origin(AGGREGATORS.get(name, aggregator))
        if name in BUILT_IN or holder != _origin(aggregator):
            raise ValueError(
                f"there is an aggregator {name!r} already, {holder}: choose another name"
            )
        AGGREGATORS[name] = aggregator
        return aggregator

    return register


def own_aggregators() -> dict[str, type[Aggregator]]:
    """Those that `register_aggregator` added, to be registered in other processes, too."""
    return {name: found for name, found in AGGREGATORS.items() if name not in BUILT_IN}


def _origin(aggregator: type[Aggregator]) -> str:
    return f"{aggregator.__module__}.{aggregator.__qualname__}"
