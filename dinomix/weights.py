"""Weights of a backbone from the hub, from the package or from a file, whatever its layout.

A layout is how a file names its tensors. To read one more, add to `LAYOUTS` how it is recognised
and a function that renames its tensors to timm's names.
"""

import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dinomix.backbones import TOY, Backbone

Tensors = dict[str, Tensor]

TOY_WEIGHTS = Path(__file__).parent / "toycity" / "weights"
# Parts that the surgery cuts off, and DINOv2's token for masked patches, used in pre-training only.
CUT = ("norm.", "fc_norm.", "head.", "mask_token")


def load_backbone_weights(backbone: Backbone, weights: str | Path | None) -> None:
    """Load pretrained weights into `backbone`, strictly.

    Args:
        backbone: from `dinomix.backbones.build_backbone`.
        weights: None leaves the random weights. "hub": timm's pretrained ones, through its hub;
            for the toy backbones the file that comes with the package. Else the path of a file
            (.safetensors, or a PyTorch file of tensors) in the layout of DINOv2's release, of timm,
            or of `dinomix.model.save_model`, whose backbone part is taken.

    Raises:
        FileNotFoundError: if there is no such file.
        RuntimeError: if the hub gives nothing, for example without a network.
        ValueError: for a file that is damaged or does not fit, tensor by tensor.
    """
    if weights is None:
        return
    if str(weights) == "hub" and backbone.name not in TOY:
        source, tensors = f"the hub's {backbone.name}", _from_hub(backbone)
    else:
        source = Path(weights)
        if str(weights) == "hub":
            source = TOY_WEIGHTS / f"{backbone.name}.safetensors"
            if not source.is_file():
                raise FileNotFoundError(
                    f"{source} is not there: `make weights` pre-trains {backbone.name}"
                )
        tensors = to_timm_layout(read_tensors(source))
    wanted = backbone.trunk.state_dict().keys()
    kept = {
        key: tensor
        for key, tensor in tensors.items()
        if key in wanted or not (key.startswith(CUT) or key in backbone.cut_keys)
    }
    load_strict(backbone.trunk, kept, f"{source} does not fit {backbone.name}")


def load_strict(module: nn.Module, tensors: Tensors, complaint: str) -> None:
    """Copy `tensors` into `module`: all of its tensors, and nothing else.

    Raises:
        ValueError: `complaint`, then each tensor that is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    problems = [f"missing {key}" for key in own if key not in tensors]
    problems += [f"unexpected {key}" for key in tensors if key not in own]
    problems += [
        f"{key} is {_shape(tensors[key])}, expected {_shape(own[key])}"
        for key in own
        if key in tensors and tensors[key].shape != own[key].shape
    ]
    if problems:
        raise ValueError("\n  ".join([f"{complaint}:", *problems]))
    module.load_state_dict(tensors)


def read_tensors(path: str | Path) -> Tensors:
    """The named tensors in a .safetensors or PyTorch file, on the CPU; no object is unpickled.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a damaged file, or one that holds other things than named tensors.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: give the path of a file, 'hub' or None")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise almost anything
        raise ValueError(
            f"{path} is damaged, or is no PyTorch file of tensors alone: {error}"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} holds no dictionary of named tensors")
    return content


def read_safetensors(path: str | Path) -> tuple[Tensors, dict[str, str]]:
    """The tensors of a .safetensors file, and the metadata in its header.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or no safetensors file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file of weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or is no safetensors file: {error}") from error


def to_timm_layout(tensors: Tensors) -> Tensors:
    """Rename tensors to timm's layout, from whichever of `LAYOUTS` recognises them."""
    for recognises, convert in LAYOUTS:
        if any(recognises(key) for key in tensors):
            return convert(tensors)
    return tensors


def _from_dinomix(tensors: Tensors) -> Tensors:
    prefix = "backbone.trunk."
    return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}


def _from_dinov2(tensors: Tensors) -> Tensors:
    """DINOv2's release: other names for SwiGLU and registers, and maybe blocks in chunks."""
    renamed = {}
    for key, tensor in tensors.items():
        key = re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", key)  # blocks.{chunk}.{block}
        key = key.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")
        renamed[key] = tensor
    if {"register_tokens", "cls_token", "pos_embed"} <= renamed.keys():
        # timm adds the class token's position to the token itself
        positions = renamed["pos_embed"]
        renamed["reg_token"] = renamed.pop("register_tokens")
        renamed["cls_token"] = renamed["cls_token"] + positions[:, :1]
        renamed["pos_embed"] = positions[:, 1:]
    return renamed


# What recognises a layout by one of its keys, and what turns it into timm's; the first that fits.
LAYOUTS: list[tuple[Callable[[str], object], Callable[[Tensors], Tensors]]] = [
    (re.compile(r"backbone\.trunk\.").match, _from_dinomix),
    (
        re.compile(r"mask_token|register_tokens|blocks\.\d+\.(mlp\.w12|\d+\.ls1)\.").match,
        _from_dinov2,
    ),
]


def _from_hub(backbone: Backbone) -> Tensors:
    try:
        return backbone.pretrained()
    except Exception as error:  # each hub client has errors of its own
        raise RuntimeError(
            f"timm's hub gave no weights for {backbone.name} ({error}): without a network, "
            "give the path of a downloaded file"
        ) from error


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
