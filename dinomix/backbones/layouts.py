"""Layouts of backbones' weights: how a file names its tensors.

To read one more, add to `LAYOUTS` how it is recognised and a function that renames its tensors to
timm's names.
"""

import re
from collections.abc import Callable

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def to_timm_layout(tensors: Tensors) -> Tensors:
    """Rename tensors to timm's layout, from whichever of `LAYOUTS` recognises them.

    Raises:
        ValueError: tensors that become one do not go together.
    """
    for recognises, convert in LAYOUTS:
        if any(recognises(key) for key in tensors):
            return convert(tensors)
    return tensors


def _from_dinomix(tensors: Tensors) -> Tensors:
    prefix = "backbone.trunk."
    return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}


def _from_dinov3(tensors: Tensors) -> Tensors:
    """DINOv3's release: other names for registers, SwiGLU and LayerScale, and one bias of q, k, v.

    The keys' third of that bias is masked; timm has separate biases of queries and values, or none.
    """
    names = {".w1.": ".fc1_g.", ".w2.": ".fc1_x.", ".w3.": ".fc2."}
    names |= {".ls1.gamma": ".gamma_1", ".ls2.gamma": ".gamma_2"}
    names |= {"storage_tokens": "reg_token", "rope_embed.": "rope."}
    renamed = {}
    for key, tensor in tensors.items():
        if key.endswith(".qkv.bias"):
            mask = tensors.get(f"{key}_mask", torch.ones_like(tensor))
            if mask.shape != tensor.shape or tensor.ndim != 1 or len(tensor) % 3:
                raise ValueError(f"{key} is no bias of q, k and v with a mask of its own")
            parts = (tensor * mask).chunk(3)
            bias = key.removesuffix("qkv.bias") + "{}_bias"
            renamed |= {bias.format(part): t for part, t in zip("qkv", parts, strict=True)}
        elif not key.endswith(".bias_mask"):
            for theirs, ours in names.items():
                key = key.replace(theirs, ours)
            renamed[key] = tensor
    return renamed


def _from_dinov2(tensors: Tensors) -> Tensors:
    """DINOv2's release: other names for SwiGLU and registers, and maybe blocks in chunks."""
    renamed = {}
    for key, tensor in tensors.items():
        key = re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", key)  # blocks.{chunk}.{block}
        key = key.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")
        renamed[key] = tensor
    if {"register_tokens", "cls_token", "pos_embed"} <= renamed.keys():
        # timm adds the class token's position to the token itself
        positions, token = renamed["pos_embed"], renamed["cls_token"]
        if token.ndim != 3 or positions.ndim != 3 or positions[:, :1].shape != token.shape:
            raise ValueError("pos_embed has no position for cls_token")
        renamed["reg_token"] = renamed.pop("register_tokens")
        renamed["cls_token"] = token + positions[:, :1]
        renamed["pos_embed"] = positions[:, 1:]
    return renamed


# What recognises a layout by one of its keys, and what turns it into timm's; the first that fits.
LAYOUTS: list[tuple[Callable[[str], object], Callable[[Tensors], Tensors]]] = [
    (re.compile(r"backbone\.trunk\.").match, _from_dinomix),
    (re.compile(r"storage_tokens$").match, _from_dinov3),
    (
        re.compile(r"mask_token|register_tokens|blocks\.\d+\.(mlp\.w12|\d+\.ls1)\.").match,
        _from_dinov2,
    ),
]
