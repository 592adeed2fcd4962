"""Models where none was trained: pretrained backbones, and what needs no training on top."""

import warnings
from dataclasses import replace
from pathlib import Path

from dinomix.data import PlaceDataset
from dinomix.images import eval_transform
from dinomix.model import PRESETS, ModelConfig, PlaceModel, build_model
from dinomix.plumbing.errors import named
from dinomix.runs.machine import reproducible
from dinomix.training import initialise

# Of the backbones that come with the package, the one that tells real photographs apart best: R@1
# 38.9 on the 203 places of docs/own-data.md, where the two transformers have 27.1 and 22.7.
STAND_IN = ModelConfig(
    backbone="toy_resnet", stage=3, trained_blocks=0, aggregator="gem", image_size=112
)


def stand_in() -> PlaceModel:
    """GeM pooling on the small CNN that comes with the package, for trying things out."""
    return build_model(STAND_IN, "hub").eval()


def zero_shot(preset: str, weights: str | Path = "hub") -> PlaceModel:
    """A preset's model with a pretrained backbone (see `build_model`), not trained for places.

    GeM pooling (`gem_dinov2`) needs no more. The aggregators of other presets are random, the same
    at every call, and a warning says so.

    Raises:
        ValueError: no such preset, or weights that do not fit it.
        FileNotFoundError, HubError: no such weights.
    """
    config = named(PRESETS, preset, "preset")
    with reproducible(0):  # the same model at every call, or no index of it could be kept
        model = build_model(config, weights)
    if config.aggregator != "gem":
        warnings.warn(
            f"of the preset {preset} only the backbone is pretrained: its aggregator "
            f"{config.aggregator!r} is random. A trained model finds more",
            stacklevel=2,
        )
    return model.eval()


def what_a_backbone_knows(
    config: ModelConfig, places: PlaceDataset, weights: str | Path | None, start: PlaceModel | None
) -> dict[str, PlaceModel]:
    """GeM, and NetVLAD with the clusters of the first training images, on a model's backbone.

    Nothing is trained. A trained model that finds less than these lost what its backbone knew.
    """
    places, models = places.with_transform(eval_transform(config.image_size)), {}
    clusters = {"clusters": min(64, 2 * len(places))}  # of as many images, at least
    for name, aggregator, options in (("GeM", "gem", {}), ("NetVLAD", "netvlad", clusters)):
        own = replace(config, aggregator=aggregator, aggregator_options=options, trained_blocks=0)
        with reproducible(0):
            model = build_model(own, weights)
        if start is not None:
            model.backbone.load_state_dict(start.backbone.state_dict())
        if model.aggregator.needs_features:
            initialise(model, places)
        models[f"{name}, untrained"] = model.eval()
    return models
