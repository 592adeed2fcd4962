"""Models where none was trained: pretrained backbones, and what needs no training on top."""

import warnings
from pathlib import Path

import torch

from dinomix.model import PRESETS, ModelConfig, PlaceModel, build_model

# Of the backbones that come with the package, the one that tells real photographs apart best: R@1
# 38.9 on the 203 places of the README's table, where the two small transformers have 26.1 and 25.1.
STAND_IN = ModelConfig(
    backbone="toy_resnet", stage=3, trained_blocks=0, aggregator="gem", image_size=112
)


def stand_in() -> PlaceModel:
    """GeM pooling on the small CNN that comes with the package, for trying things out.

    It has learnt from rendered streets alone, and finds four in ten of the README's real places at
    first rank, where a trained model finds eight.
    """
    return build_model(STAND_IN, "hub").eval()


def zero_shot(preset: str, weights: str | Path = "hub") -> PlaceModel:
    """A preset's model with a pretrained backbone (see `build_model`), not trained for places.

    GeM pooling (`gem_dinov2`) needs no more. The aggregators of other presets are random, the same
    at every call, and a warning says so.

    Raises:
        ValueError: there is no such preset, or the weights do not fit it.
        FileNotFoundError, HubError: there are no such weights.
    """
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}; choose one of {', '.join(PRESETS)}")
    config = PRESETS[preset]
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the same model at every call, or no index of it could be kept
        model = build_model(config, weights)
    if config.aggregator != "gem":
        warnings.warn(
            f"of the preset {preset} only the backbone is pretrained: its aggregator "
            f"{config.aggregator!r} is random. A trained model finds more",
            stacklevel=2,
        )
    return model.eval()
