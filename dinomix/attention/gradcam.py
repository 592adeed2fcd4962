"""Grad-CAM of whatever is computed from a descriptor, on frozen backbones as on trained ones.

`pytorch_grad_cam` does the arithmetic, but goes back through the graph of the whole network, and
frozen blocks leave none; so it gets the part of the network behind the features alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from torch import Tensor, nn

from dinomix.backbones import Backbone, ViTBackbone
from dinomix.model import PlaceModel


def grad_cam(
    model: PlaceModel,
    describe: Callable[..., Tensor],
    images: Tensor,
    targets: list[Callable[[Tensor], Tensor]],
    block: int | None,
) -> np.ndarray:
    """Each channel of the map weighed with its mean gradient; the sum's positive part is the heat.

    Use it inside of `left_alone`.

    Args:
        describe: the model's aggregator, or its `pool`.
        images: normalised (B, 3, H, W).
        targets: one an image, from its descriptor (D,) to the number that is explained.
        block: whose tokens, in a vision transformer, are the map; None: what the aggregator gets.

    Returns:
        float32 (B, h, w), at least 0; all 0 for an image whose number does not depend on the map.

    Raises:
        ValueError: for a block that the backbone does not have.
    """
    with torch.no_grad():
        features, finish, as_map = _split(model.backbone, images.to(device_of(model)), block)
    features = features.detach().requires_grad_()

    def tail(features: Tensor) -> Tensor:
        maps, token = finish(features)
        return describe(maps, token) if model.aggregator.takes_token else describe(maps)

    network = _Tail(tail, features.device)
    with torch.enable_grad():
        cam = _UnscaledGradCAM(network, [network.features], as_map)
        heat = cam(features, targets)
    values = [
        abs(target(output).item()) for target, output in zip(targets, cam.outputs, strict=True)
    ]
    slopes = features.grad.flatten(1).norm(dim=1) * features.detach().flatten(1).norm(dim=1)
    # Where the true gradient is zero, what is left of it is rounding errors, which are no heat.
    constant = slopes.cpu().numpy() <= 1e-4 * np.array(values)
    return np.where(constant[:, None, None], 0, heat).astype(np.float32)


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
    blocks, grid = backbone.trunk.blocks, backbone.grid_of(tuple(images.shape[-2:]))
    seen: list[Tensor] = []
    hook = blocks[block].register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        backbone.features(images)
    finally:
        hook.remove()

    as_map = partial(backbone.as_map, grid=grid)

    def finish(tokens: Tensor) -> tuple[Tensor, Tensor]:
        tokens = backbone.run_blocks(tokens, slice(block + 1, None), grid)
        return as_map(tokens), tokens[:, 0]

    return seen[0], finish, as_map


class _Tail(nn.Module):
    """From features to descriptors. The model is no submodule: GradCAM would clear its `.grad`."""

    def __init__(self, finish: Callable[[Tensor], Tensor], device: torch.device) -> None:
        super().__init__()
        self.features = nn.Identity()  # where GradCAM listens
        self.finish = finish
        self.place = nn.Parameter(torch.empty(0, device=device))  # tells GradCAM the device

    def forward(self, features: Tensor) -> Tensor:
        return self.finish(self.features(features))


class _UnscaledGradCAM(GradCAM):
    """GradCAM as published (Selvaraju et al. 2017); the library also stretches maps to 0..1."""

    def compute_cam_per_layer(
        self, input_tensor: Tensor, targets: list, eigen_smooth: bool
    ) -> np.ndarray:
        (layer,), seen = self.target_layers, self.activations_and_grads
        (activations,), (gradients,) = seen.activations, seen.gradients  # (B, s, h, w)
        heat = self.get_cam_image(
            input_tensor, layer, targets, activations.numpy(), gradients.numpy()
        )
        return np.maximum(heat, 0)

    def aggregate_multi_layers(self, cam_per_target_layer: np.ndarray) -> np.ndarray:
        return cam_per_target_layer


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
    return next(model.parameters()).device


def check_images(images: Tensor) -> None:
    """Raise ValueError unless these are RGB images, at least one."""
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ValueError(f"images must be (B, 3, H, W), B > 0, not {tuple(images.shape)}")
