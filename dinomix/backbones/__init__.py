"""Backbones: a pretrained network cut to a feature map, (B, 3, H, W) -> (B, s, h, w).

Vision transformers lose their last norm (unless it is asked for) and head, and the patch tokens of
the last block become the map (paper, Eq. 1). Any other network of timm gives the map of one of its
stages.
"""

import timm
from timm.layers import PatchEmbed, RotaryEmbeddingDinoV3
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dinomix.backbones.cnn import MapBackbone
from dinomix.backbones.names import (
    DINOV2,
    DINOV3,
    OPTIONS,
    TOY,
    TOY_VITS,
    check_name,
    normalization,
    timm_name,
)
from dinomix.backbones.rope import RopeViTBackbone
from dinomix.backbones.vit import Backbone, TrainedBlocks, ViTBackbone
from dinomix.images import as_size

__all__ = [
    "DINOV2",
    "DINOV3",
    "TOY",
    "Backbone",
    "MapBackbone",
    "RopeViTBackbone",
    "TrainedBlocks",
    "ViTBackbone",
    "build_backbone",
    "check_name",
    "normalization",
]


def build_backbone(
    name: str,
    *,
    image_size: int | tuple[int, int] = (224, 224),
    trained_blocks: TrainedBlocks = 3,
    train_tokens: bool = False,
    stage: int | None = None,
    final_norm: bool = False,
    moving_statistics: bool = False,
) -> Backbone:
    """Build a backbone with random weights (`dinomix.weights` loads pretrained ones).

    Args:
        name: of `DINOV2`, `DINOV3` or `TOY`, or `timm/<model>` for any network of timm.
        image_size: pixels, a side or (height, width); decides `.grid`.
        trained_blocks: how many of the last blocks learn; what comes before runs without an
            autograd graph. "all": everything learns, embeddings and stem too.
        train_tokens: class token and positional embedding learn although the first blocks are
            frozen, as in the authors' code: autograd then goes through every frozen block.
        stage: which stage's map a network that is no plain transformer gives (an index of timm's
            `out_indices`; None: the last, but a VGG's without its last ReLU and pool, at stride
            16). Its stages are what `trained_blocks` counts; stage 0 holds the stem and learns with
            "all" only.
        final_norm: keep a transformer's last norm, on class token and patches; it learns if any
            block does.
        moving_statistics: in training, BatchNorms of frozen stages normalise by the batch, and
            their running statistics move, as in most authors' ResNets; else they stay as loaded.

    Raises:
        ValueError: for a name, size or option that there is not.
    """
    check_name(name)
    size = as_size(image_size, native=False)
    if name in TOY_VITS:
        network = VisionTransformer(**TOY_VITS[name])
    else:
        network = timm.create_model(timm_name(name), **OPTIONS.get(name, {}))
    if transformer := _transformer_class(network):
        if stage is not None:
            raise ValueError(f"{name} has no stages: stage must be None, not {stage!r}")
        if moving_statistics:
            raise ValueError(f"moving_statistics is for BatchNorms, and {name} has none")
        return transformer(name, network, size, trained_blocks, train_tokens, final_norm)
    for option, given in {"train_tokens": train_tokens, "final_norm": final_norm}.items():
        if given:
            raise ValueError(f"{option} is for plain transformers, and {name} is none")
    return MapBackbone(name, network, size, trained_blocks, stage, moving_statistics)


def _transformer_class(network: nn.Module) -> type[ViTBackbone] | None:
    """The backbone that takes the tokens of `network`; None if that is no plain transformer."""
    if type(network) not in (VisionTransformer, Eva) or type(network.patch_embed) is not PatchEmbed:
        return None
    added = network.pos_embed is not None
    if type(network) is VisionTransformer:
        return ViTBackbone if added else None
    rotary = isinstance(network.rope, RotaryEmbeddingDinoV3)
    return RopeViTBackbone if rotary and not added else None
