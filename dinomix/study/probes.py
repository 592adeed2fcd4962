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
    """Size of a transformer backbone after the surgery, without allocating it.

    Channels are D, the number of maps; the grid is h x w at `image_size`.
    """
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

    Args:
        images: normalised (B, 3, H, W), resized to `size` here.

    Raises:
        ValueError: the backbone has no position embedding that could be resized.
    """
    from timm.layers import resample_abs_pos_embed

    if net.trunk.pos_embed is None:
        raise ValueError(f"{net.name} has no position embedding to resize: its positions rotate")
    images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    grid = net.grid_of((size, size))
    other = copy.deepcopy(net)
    resized = resample_abs_pos_embed(
        net.trunk.pos_embed, list(grid), num_prefix_tokens=net.trunk.num_prefix_tokens
    )
    other.trunk.pos_embed = torch.nn.Parameter(resized)  # at the grid already: used as it is
    with torch.inference_mode():
        ours, theirs = net(images), other(images)  # (B, s, h, w)
    return F.cosine_similarity(ours, theirs, dim=1).mean().item()


def saved_activations(net: Backbone, images: Tensor) -> tuple[Tensor, int]:
    """The map of `images`, and the bytes that autograd keeps for its backward pass.

    Parameters are not counted, and what several operations share counts once.
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

    Returns:
        columns trained_blocks, scheme, activations (MiB that autograd keeps), step (milliseconds
        of a forward and backward pass on the CPU, the median of `repeats`).
    """
    rows = []
    images = torch.randn(batch_size, 3, image_size, image_size)
    for count in trained_blocks:
        for train_tokens, scheme in SCHEMES.items():
            options = {"trained_blocks": count, "train_tokens": train_tokens}
            net = build_backbone(name, image_size=(image_size, image_size), **options)
            _, kept = saved_activations(net, images)
            seconds = timeit.repeat(partial(_step, net, images), number=1, repeat=repeats)
            row = {"trained_blocks": count, "scheme": scheme, "activations": kept / 2**20}
            rows.append({**row, "step": 1000 * statistics.median(seconds)})
    return pd.DataFrame(rows)


def _step(net: Backbone, images: Tensor) -> None:
    maps = net(images)
    if maps.requires_grad:
        maps.square().mean().backward()
