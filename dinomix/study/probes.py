"""Measurements on a backbone: what it is made of, what freezing saves, what resizing changes."""

import copy
import statistics
import timeit
from collections.abc import Sequence
from functools import partial

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from dinomix.backbones import Backbone, ViTBackbone, build_backbone

SCHEMES = {False: "frozen prefix", True: "tokens trained (authors)"}


def anatomy(name: str, image_size: int) -> dict[str, object]:
    """Size of a transformer backbone after the surgery; the grid is h x w at `image_size`."""
    with torch.device("meta"):
        net = build_backbone(name, image_size=(image_size, image_size), trained_blocks=0)
    return {
        "backbone": name,
        "blocks": net.num_blocks,
        "channels": net.out_channels,
        "grid": "{} x {}".format(*net.grid),
        "parameters": sum(p.numel() for p in net.parameters()),
    }


def resize_disagreement(net: ViTBackbone, images: Tensor, size: int) -> float:
    """Mean cosine between the tokens under DINOv2's and under timm's resized position embedding.

    Of normalised images (B, 3, H, W), resized to `size` here.

    Raises:
        ValueError: the backbone has no position embedding.
    """
    from timm.layers import resample_abs_pos_embed

    if net.trunk.pos_embed is None:
        raise ValueError(f"{net.name} has no position embedding to resize: its positions rotate")
    images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    other, tokens = copy.deepcopy(net), net.trunk.num_prefix_tokens
    grid = list(net.grid_of((size, size)))
    resized = resample_abs_pos_embed(net.trunk.pos_embed, grid, num_prefix_tokens=tokens)
    other.trunk.pos_embed = torch.nn.Parameter(resized)  # at the grid already: used as it is
    with torch.inference_mode():
        ours, theirs = net(images), other(images)  # (B, s, h, w)
    return F.cosine_similarity(ours, theirs, dim=1).mean().item()


def saved_activations(net: Backbone, images: Tensor) -> tuple[Tensor, int]:
    """The map of `images`, and the bytes that autograd keeps for its backward pass.

    Without parameters; what several operations share counts once.
    """
    parameters = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        maps = net(images)
    return maps, sum(kept.values())


def freezing_costs(
    name: str, trained_blocks: Sequence[int], image_size: int, batch_size: int, repeats: int
) -> pd.DataFrame:
    """What one training step costs, by trained blocks, with and without trained tokens.

    Columns trained_blocks, scheme, activations (MiB that autograd keeps), step (milliseconds of a
    forward and backward pass on the CPU, the median of `repeats`).
    """
    rows = []
    images = torch.randn(batch_size, 3, image_size, image_size)
    for count in trained_blocks:
        for train_tokens, scheme in SCHEMES.items():
            options = {"trained_blocks": count, "train_tokens": train_tokens}
            net = build_backbone(name, image_size=(image_size, image_size), **options)
            _, kept = saved_activations(net, images)
            seconds = timeit.repeat(partial(_step, net, images), number=1, repeat=repeats)
            rows.append((count, scheme, kept / 2**20, 1000 * statistics.median(seconds)))
    return pd.DataFrame(rows, columns=["trained_blocks", "scheme", "activations", "step"])


def _step(net: Backbone, images: Tensor) -> None:
    maps = net(images)
    if maps.requires_grad:
        maps.square().mean().backward()
