"""Models that others have published: their files as models of ours.

Read are the files of DINO-Mix (Huang et al. 2024; github.com/GaoShuang98/DINO-Mix) for each size of
DINOv2, and of MixVPR (Ali-bey et al. 2023; github.com/amaralibey/MixVPR) on ResNet-50. Both name
the mixer as we do; how they name the backbone, a `Layout` says. Such a file may come from PyTorch
Lightning, with much beside the tensors: all of it is read as data, see
`dinomix.plumbing.tensorfiles`.
"""

import dataclasses
import math
from pathlib import Path

import torch

from dinomix.model import PRESETS, ModelConfig, PlaceModel, build_model, outline
from dinomix.plumbing.tensorfiles import Tensors, beginnings, read_tensors, without_prefix
from dinomix.weights import OURS, check_tensors, shape_of

CHANNELS, ROWS = "aggregator.channel_proj.weight", "aggregator.row_proj.weight"


@dataclasses.dataclass(frozen=True)
class Layout:
    """How published files of one method name their tensors, and what their shapes say."""

    method: str
    trunk: str  # what stands in their names for our `backbone.trunk.`
    preset: str  # of `dinomix.PRESETS`, for whatever the shapes leave open
    backbones: dict[int, str]  # our backbone for each number of channels
    stride: int  # pixels from one cell of the map to the next
    unused: tuple[str, ...] = ()  # names, behind `trunk`, of (1, channels) that no model needs

    def recognises(self, tensors: Tensors) -> bool:
        """Whether the names are those of this layout: backbone and mixer."""
        marks = (self.trunk, "aggregator.row_proj.")
        return all(any(key.startswith(mark) for key in tensors) for mark in marks)

    def name_in_file(self, key: str, backbone: str) -> str:
        """What the file calls the tensor that a model of ours calls `key`."""
        if backbone == "dinov2_vitg14":  # its SwiGLU, as DINOv2's code names it
            key = key.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3.")
        return key.replace("backbone.trunk.", self.trunk)


DINOV2 = {384: "vits14", 768: "vitb14", 1024: "vitl14", 1536: "vitg14"}
LAYOUTS = (
    Layout(
        "DINO-Mix",
        trunk="backbone.dino_model.",
        preset="dino_mix",
        backbones={channels: f"dinov2_{vit}" for channels, vit in DINOV2.items()},
        stride=14,
        unused=("mask_token",),
    ),
    Layout(
        "MixVPR",
        trunk="backbone.model.",
        preset="mixvpr_resnet50",
        backbones={1024: "timm/resnet50.tv_in1k"},
        stride=16,
    ),
)


def load_published(path: str | Path) -> PlaceModel:
    """The model in a file that its authors published, on the CPU, in evaluation mode.

    Backbone, image size, mixing layers and descriptor are read off the tensors' shapes.

    Args:
        path: of a PyTorch file, such as `dinov2_vitb14_mix.ckpt` or
            `resnet50_MixVPR_4096_channels(1024)_rows(4).ckpt`, or of a .safetensors file of the
            same tensors.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that is damaged, holds objects of other types, or is in no layout
            known here; and for each tensor that does not fit, by its name in the file.
    """
    tensors = without_prefix(read_tensors(path), ROWS, path)
    layout = next((layout for layout in LAYOUTS if layout.recognises(tensors)), None)
    if layout is None:
        known = "; ".join(f"{layout.method} ({layout.trunk}*, aggregator.*)" for layout in LAYOUTS)
        trunks = {"dinomix": OURS} | {layout.method: layout.trunk for layout in LAYOUTS}
        near = (name for name, trunk in trunks.items() if any(trunk in key for key in tensors))
        raise ValueError(
            f"{path} is in no published layout known here. Known are {known}; the nearest is "
            f"{next(near, 'none')}. It holds {len(tensors)} tensors: {beginnings(tensors)}. Those "
            "of a dinomix model alone are read by load_model(path, config), those of a backbone by "
            "build_model(config, weights=path)"
        )
    config = _config(layout, tensors, path)
    skeleton = outline(config)
    own = skeleton.state_dict()
    names = {key: layout.name_in_file(key, config.backbone) for key in own}
    expected = {names[key]: tensor for key, tensor in own.items()}
    unused = torch.empty(1, skeleton.backbone.out_channels)
    expected |= {layout.trunk + name: unused for name in layout.unused}
    described = [f"{key}, {shape_of(tensors[key])}," for key in (CHANNELS, ROWS)]
    complaint = f"{path} does not fit {layout.method} as {' and '.join(described)} describe it"
    check_tensors(tensors, expected, complaint)
    model = build_model(config)
    model.load_state_dict({key: tensors[name] for key, name in names.items()})
    return model.eval()


def _config(layout: Layout, tensors: Tensors, path: str | Path) -> ModelConfig:
    """What the shapes say: the projections are (d, s) and (r, n), the map is square."""
    misfit = f"{path} does not fit {layout.method}:\n  "
    for key in (CHANNELS, ROWS):
        if key not in tensors:
            raise ValueError(f"{misfit}missing {key}")
        if tensors[key].ndim != 2:
            raise ValueError(f"{misfit}{key} is {shape_of(tensors[key])}, expected two axes")
    (out_channels, channels), (out_rows, positions) = tensors[CHANNELS].shape, tensors[ROWS].shape
    if channels not in layout.backbones:
        raise ValueError(
            f"{misfit}{CHANNELS} is {shape_of(tensors[CHANNELS])}, and no backbone of "
            f"{layout.method} has maps of {channels} channels; known are {layout.backbones}"
        )
    side = math.isqrt(positions)
    if side**2 != positions:
        shape = shape_of(tensors[ROWS])
        raise ValueError(f"{misfit}{ROWS} is {shape}, and {positions} positions are no square map")
    try:
        return dataclasses.replace(
            PRESETS[layout.preset],
            backbone=layout.backbones[channels],
            image_size=layout.stride * side,
            mix_depth=len({k.split(".")[2] for k in tensors if k.startswith("aggregator.mix.")}),
            out_channels=out_channels,
            out_rows=out_rows,
        )
    except ValueError as error:
        raise ValueError(f"{path} holds no {layout.method} that can be built: {error}") from error
