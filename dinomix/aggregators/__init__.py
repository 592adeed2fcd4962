"""Aggregators: a feature map (B, s, h, w) becomes one descriptor an image, (B, D), of unit length.

To add one: a module with a subclass of `Aggregator` that sets `dim` and writes `pool`; then a line
in `AGGREGATORS`. Its constructor takes by name whichever settings of `build_aggregator` it needs,
and options of its own, with defaults. `dinomix.ModelConfig(aggregator=...)` knows it from then on,
and its own options as `aggregator_options={...}`. The class attribute `takes_token` asks for the
class token too, `needs_features` for maps of training images before the training (`initialise`).
"""

import inspect
from typing import Any

from dinomix.aggregators.base import Aggregator, unit_length
from dinomix.aggregators.boq import BoQ
from dinomix.aggregators.convap import ConvAP
from dinomix.aggregators.cosplace import CosPlaceHead
from dinomix.aggregators.gem import GeM
from dinomix.aggregators.mix import FeatureMixer
from dinomix.aggregators.netvlad import NetVLAD
from dinomix.aggregators.salad import SALAD

__all__ = [
    "AGGREGATORS",
    "SALAD",
    "Aggregator",
    "BoQ",
    "ConvAP",
    "CosPlaceHead",
    "FeatureMixer",
    "GeM",
    "NetVLAD",
    "build_aggregator",
    "check_options",
    "unit_length",
]

AGGREGATORS: dict[str, type[Aggregator]] = {
    "mix": FeatureMixer,
    "gem": GeM,
    "netvlad": NetVLAD,
    "convap": ConvAP,
    "cosplace": CosPlaceHead,
    "salad": SALAD,
    "boq": BoQ,
}
SETTINGS = ("in_channels", "grid", "mix_depth", "out_channels", "out_rows")


def build_aggregator(
    name: str,
    in_channels: int,
    grid: tuple[int, int],
    *,
    mix_depth: int = 2,
    out_channels: int = 1024,
    out_rows: int = 4,
    **options: Any,
) -> Aggregator:
    """Build the aggregator `name` for maps of `in_channels` and `grid`, with the settings it takes.

    Args:
        options: the aggregator's own, by the names of its constructor.

    Raises:
        ValueError: for an unknown name, or an option that the aggregator does not have.
    """
    check_options(name, options)
    settings = dict(
        zip(SETTINGS, (in_channels, grid, mix_depth, out_channels, out_rows), strict=True)
    )
    taken = inspect.signature(AGGREGATORS[name]).parameters
    given = {key: settings[key] for key in taken if key in settings}
    return AGGREGATORS[name](**given, **options)


def check_options(name: str, options: dict[str, Any]) -> None:
    """Raise ValueError unless there is an aggregator `name` that has all these options."""
    if name not in AGGREGATORS:
        raise ValueError(f"unknown aggregator {name!r}: choose one of {', '.join(AGGREGATORS)}")
    own = [key for key in inspect.signature(AGGREGATORS[name]).parameters if key not in SETTINGS]
    unknown = sorted(set(options) - set(own))
    if unknown:
        raise ValueError(
            f"aggregator {name!r} has no options {unknown}; "
            + (f"it has {own}" if own else "it has none of its own")
        )
