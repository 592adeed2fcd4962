"""Where a model looks: heat maps of its descriptor (paper, Fig. 9).

`pytorch_grad_cam` goes back through the graph of a whole network, and frozen blocks leave none; so
it gets the part of the model behind the features alone. Models are left as they were.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinomix.backbones import Backbone, ViTBackbone
from dinomix.model import PlaceModel
from dinomix.plumbing.errors import extra

COLOURS = "inferno"  # of heat: as much brighter as hotter, which the field's usual jet is not


def match_attention(
    model: PlaceModel, queries: Tensor, matches: Tensor, block: int | None = None
) -> np.ndarray:
    """What made each query match its database image: Grad-CAM of their cosine similarity.

    Args:
        queries: normalised images (B, 3, H, W), on any device.
        matches: as many, of any size that the model takes.
        block: of a vision transformer, the block whose tokens are the map (0 is the first one);
            None: the map that the aggregator gets, of any backbone. The class token is held
            fixed, if the aggregator takes it from there.

    Returns:
        heat float32 (B, h, w) on the map's grid, at least 0; all 0 where the similarity does not
        depend on the map.

    Raises:
        ValueError: for tensors that are no batches of RGB images or differ in number, or a block
            that the backbone does not have.
    """
    check_images(queries)
    check_images(matches)
    if len(queries) != len(matches):
        raise ValueError(f"{len(queries)} queries with {len(matches)} matches: give each query one")
    with left_alone(model), torch.no_grad():
        found = model(matches.to(device_of(model)))  # (B, D)
    return _grad_cam(model, model.aggregator, queries, [match.dot for match in found], block)


def energy_attention(model: PlaceModel, images: Tensor, block: int | None = None) -> np.ndarray:
    """What a descriptor is made of: Grad-CAM of its squared length before normalisation.

    Zero all over with an aggregator that normalises the parts of its descriptor itself:
    `match_attention` has an answer there, and says what arguments, result and errors are.
    """
    check_images(images)
    # The normalised descriptor has length 1 whatever the image shows: its gradient is zero.
    targets = [lambda descriptor: descriptor.square().sum()] * len(images)
    return _grad_cam(model, model.aggregator.pool, images, targets, block)


def _grad_cam(
    model: PlaceModel,
    describe: Callable[..., Tensor],
    images: Tensor,
    targets: list[Callable[[Tensor], Tensor]],
    block: int | None,
) -> np.ndarray:
    """Heat (B, h, w) of each image's target, a number computed from what `describe` gives (D,)."""

    with extra("notebooks"):
        from pytorch_grad_cam import GradCAM  # here, for what needs no gradients needs no library

    def tail(features: Tensor) -> Tensor:
        maps, token = finish(features)
        return describe(maps, token) if model.aggregator.takes_token else describe(maps)

    with left_alone(model):
        with torch.no_grad():
            features, finish, as_map = _split(model.backbone, images.to(device_of(model)), block)
        features = features.detach().requires_grad_()
        network = _Tail(tail, features.device)
        with torch.enable_grad():
            cam = type("_GradCAM", (_AsPublished, GradCAM), {})(network, [network.features], as_map)
            heat = cam(features, targets)  # (B, h, w)
    # Where the true gradient is zero, what is left of it is rounding errors, which are no heat.
    change = features.grad.flatten(1).norm(dim=1) * features.detach().flatten(1).norm(dim=1)
    values = [target(output).abs() for target, output in zip(targets, cam.outputs, strict=True)]
    constant = (change <= 1e-4 * torch.stack(values)).cpu().numpy()
    return np.where(constant[:, None, None], 0, heat).astype(np.float32)


class _Tail(nn.Module):
    """From features to descriptors. The model is no submodule: GradCAM would clear its `.grad`."""

    def __init__(self, describe: Callable[[Tensor], Tensor], device: torch.device) -> None:
        super().__init__()
        self.features = nn.Identity()  # where GradCAM listens
        self.describe = describe
        self.place = nn.Parameter(torch.empty(0, device=device))  # where GradCAM sees the device

    def forward(self, features: Tensor) -> Tensor:
        return self.describe(self.features(features))


class _AsPublished:
    """Grad-CAM of Selvaraju et al. 2017; the library's, below it, also stretches maps to 0..1."""

    def compute_cam_per_layer(self, images: Tensor, targets: list, *_: bool) -> np.ndarray:
        seen, (layer,) = self.activations_and_grads, self.target_layers
        maps, slopes = seen.activations[0].numpy(), seen.gradients[0].numpy()  # (B, s, h, w)
        return np.maximum(self.get_cam_image(images, layer, targets, maps, slopes), 0)

    def aggregate_multi_layers(self, heat: np.ndarray) -> np.ndarray:
        return heat


def _split(
    backbone: Backbone, images: Tensor, block: int | None
) -> tuple[Tensor, Callable, Callable | None]:
    """The features of a block; how they become map and class token; and how they are a map."""
    if block is None:
        maps, token = backbone.features(images)
        return maps, lambda maps: (maps, token), None
    if not isinstance(backbone, ViTBackbone):
        raise ValueError(
            f"{backbone.name} is no plain transformer: block must be None, not {block}"
        )
    if type(block) is not int or not 0 <= block < backbone.num_blocks:
        raise ValueError(
            f"block of {backbone.name} must be 0 to {backbone.num_blocks - 1}, not {block!r}"
        )
    grid = backbone.grid_of(tuple(images.shape[-2:]))
    as_map = partial(backbone.as_map, grid=grid)

    def finish(tokens: Tensor) -> tuple[Tensor, Tensor]:
        tokens = backbone.run_blocks(tokens, slice(block + 1, None), grid)
        return as_map(tokens), tokens[:, 0]

    (tokens,) = tokens_after([backbone.trunk.blocks[block]], backbone, images)
    return tokens, finish, as_map


def tokens_after(
    blocks: Sequence[nn.Module], backbone: ViTBackbone, images: Tensor
) -> list[Tensor]:
    """All tokens (B, prefix + h*w, s) that each of these blocks of the backbone gives."""
    seen: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda *call: seen.append(call[2])) for block in blocks]
    try:
        backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@contextmanager
def left_alone(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no gradients for parameters, for a while; then all is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    learning = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval().requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, learns in learning:
            parameter.requires_grad_(learns)


def device_of(model: nn.Module) -> torch.device:
    """Where the model lies, and its input has to be."""
    return next(model.backbone.parameters()).device


def check_images(images: Tensor) -> None:
    """Raise ValueError unless these are RGB images, at least one."""
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ValueError(f"images must be (B, 3, H, W), B > 0, not {tuple(images.shape)}")


def rollout(model: PlaceModel, images: Tensor) -> np.ndarray:
    """Attention rollout (Abnar & Zuidema 2020): how much of each patch reached the class token.

    Per block of the backbone, attention on normalised images (B, 3, H, W) is averaged over the
    heads, and half of it is replaced by the identity, for the residual path. The product of all
    blocks is read in the class token's row; the aggregator plays no part.

    Returns:
        float32 (B, h, w), at least 0; the sum is 1 less what stayed with class and registers.

    Raises:
        ValueError: for a backbone without a class token or with blocks of another kind, or a
            tensor that is no batch of RGB images.
    """
    check_images(images)
    backbone = model.backbone
    if not backbone.has_token:
        raise ValueError(
            f"{backbone.name} has no class token whose attention could be followed: choose "
            "energy_attention"
        )
    layers = [module for module in backbone.trunk.blocks.modules() if hasattr(module, "fused_attn")]
    if len(layers) != backbone.num_blocks:
        raise ValueError(
            f"{backbone.name} has {len(layers)} attention layers in {backbone.num_blocks} blocks: "
            "rollout is for one a block; choose energy_attention"
        )
    flow: list[Tensor] = []

    def follow(module: nn.Module, inputs: object, attention: Tensor) -> None:
        step = attention.float().mean(dim=1)  # (B, heads, N, N) -> (B, N, N)
        step = 0.5 * step + 0.5 * torch.eye(step.shape[-1], device=step.device)
        flow[:] = [step @ flow[0] if flow else step]

    fused = [layer.fused_attn for layer in layers]
    hooks = [layer.attn_drop.register_forward_hook(follow) for layer in layers]
    try:
        for layer in layers:
            layer.fused_attn = False  # the fused kernel never forms the attention matrix
        with left_alone(model), torch.no_grad():
            maps, _ = backbone.features(images.to(device_of(model)))
    finally:
        for layer, setting, hook in zip(layers, fused, hooks, strict=True):
            layer.fused_attn = setting
            hook.remove()
    patches = flow[0][:, 0, backbone.trunk.num_prefix_tokens :]  # (B, h*w)
    return patches.unflatten(1, tuple(maps.shape[-2:])).cpu().numpy()  # (B, h, w)


def upsample(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Heat (B, h, w) as pictures float32 (B, *size), each over 0..1; a constant one is 0."""
    pictures = resize(heat, size)
    low, high = (limit(pictures, axis=(1, 2), keepdims=True) for limit in (np.min, np.max))
    # What remains of a constant map after resizing is rounding errors.
    varies = high - low > 1e-5 * np.abs(high)
    return np.where(varies, (pictures - low) / np.where(varies, high - low, 1), 0)


def overlay(image: np.ndarray, heat: np.ndarray, strength: float = 0.5) -> np.ndarray:
    """An image, uint8 (H, W, 3), under its heat in `COLOURS`, dark where it is low: as the image.

    Heat (H, W) is in 0..1, from `upsample`, and so is `strength`, the weight of the colours; other
    shapes, types and ranges raise ValueError.
    """
    if image.dtype != np.uint8 or image.shape != (*heat.shape, 3):
        raise ValueError(
            f"an image of {image.dtype} {image.shape} under heat {heat.shape}: give uint8 "
            "(H, W, 3) and (H, W)"
        )
    if not ((heat >= 0) & (heat <= 1)).all() or not 0 <= strength <= 1:
        raise ValueError(
            f"heat from {heat.min()} to {heat.max()} at strength {strength}: both must lie in 0..1"
        )
    colours = 255 * matplotlib.colormaps[COLOURS](heat)[..., :3]  # (H, W, 3)
    return np.round((1 - strength) * image + strength * colours).astype(np.uint8)


def resize(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Heat at another size, bilinear and not scaled: (B, h, w) -> float32 (B, *size)."""
    maps = torch.from_numpy(np.asarray(heat, dtype=np.float32))[:, None]  # (B, 1, h, w)
    return F.interpolate(maps, size=tuple(size), mode="bilinear")[:, 0].numpy()
