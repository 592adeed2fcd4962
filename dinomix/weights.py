"""Weights of a backbone from the hub, from the package or from a file, whatever its layout."""

import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dinomix.backbones import TOY, Backbone
from dinomix.backbones.layouts import Tensors, to_timm_layout

TOY_WEIGHTS = Path(__file__).parent / "toycity" / "weights"
# Parts that the surgery cuts off, and what only DINO's pre-training uses: a token for masked
# patches, a norm for small crops.
CUT = ("norm.", "fc_norm.", "head.", "mask_token", "local_cls_norm.")


def load_backbone_weights(backbone: Backbone, weights: str | Path | None) -> None:
    """Load pretrained weights into `backbone`, strictly.

    Args:
        backbone: from `dinomix.backbones.build_backbone`.
        weights: None leaves the random weights. "hub": timm's pretrained ones, through its hub;
            for the toy backbones the file that comes with the package. Else the path of a file
            (.safetensors, or a PyTorch file of tensors) in the layout of DINOv2's or DINOv3's
            release, of timm, or of `dinomix.model.save_model`, whose backbone part is taken.

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
        source, hint = Path(weights), "give the path of a file, 'hub' or None"
        if str(weights) == "hub":
            source = TOY_WEIGHTS / f"{backbone.name}.safetensors"
            hint = f"`make weights` pre-trains {backbone.name}"
        if not source.is_file():
            raise FileNotFoundError(f"no weights at {source}: {hint}")
        tensors = to_timm_layout(read_tensors(source))
    wanted = backbone.trunk.state_dict().keys()
    kept = {
        key: tensor
        for key, tensor in tensors.items()
        if key in wanted or not _is_dispensable(key, tensor, backbone)
    }
    load_strict(backbone.trunk, kept, f"{source} does not fit {backbone.name}")


def load_strict(module: nn.Module, tensors: Tensors, complaint: str) -> None:
    """Copy `tensors` into `module`: all of its tensors, and nothing else.

    Raises:
        ValueError: `complaint`, then each tensor that is missing, unexpected or of another shape.
    """
    check_tensors(tensors, module.state_dict(), complaint)
    module.load_state_dict(tensors)


def check_tensors(tensors: Tensors, expected: Tensors, complaint: str) -> None:
    """Compare names and shapes.

    Raises:
        ValueError: as `load_strict`.
    """
    problems = [f"missing {key}" for key in expected if key not in tensors]
    problems += [f"unexpected {key}" for key in tensors if key not in expected]
    problems += [
        f"{key} is {shape_of(tensors[key])}, expected {shape_of(expected[key])}"
        for key in expected
        if key in tensors and tensors[key].shape != expected[key].shape
    ]
    if problems:
        raise ValueError("\n  ".join([f"{complaint}:", *problems]))


def read_tensors(path: str | Path) -> Tensors:
    """The named tensors in a .safetensors or PyTorch file, on the CPU.

    A PyTorch file may be a checkpoint with its tensors under `state_dict` or `model`. It is read
    as data: types other than tensors, numbers, text and collections of them are never unpickled.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a damaged file, one with objects of other types (naming them), or one
            without named tensors.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights at {path}")
    try:
        mapped = zipfile.is_zipfile(path)  # then numbers stay on disk until they are used
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged file can raise almost anything
        others = _objects_in(path)
        if not others:
            raise ValueError(f"{path} is damaged, or is no PyTorch file: {error}") from error
        raise ValueError(
            f"{path} holds objects that are no tensors: {', '.join(others)}. Reading them could "
            "run any code, so the file is refused. If you trust where it comes from, write its "
            "tensors alone to a new file, on a machine where such code could do no harm:\n"
            f"  content = torch.load({path.name!r}, map_location='cpu', weights_only=False)\n"
            "  torch.save({'state_dict': content['state_dict']}, 'tensors.ckpt')"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
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


def _from_hub(backbone: Backbone) -> Tensors:
    try:
        return backbone.pretrained()
    except Exception as error:  # each hub client has errors of its own
        raise RuntimeError(
            f"timm's hub gave no weights for {backbone.name} ({error}): without a network, "
            "give the path of a downloaded file"
        ) from error


def _is_dispensable(key: str, tensor: Tensor, backbone: Backbone) -> bool:
    """Whether the trunk, which has no such tensor, gives the same maps without it."""
    if key.startswith(CUT) or key in backbone.cut_keys:
        return True
    if key.endswith(("q_bias", "k_bias", "v_bias")):  # all 0 in DINOv3's release
        return not tensor.any()
    # What the trunk computes itself, maybe rounded to bfloat16 in the file: rope.periods.
    own = dict(backbone.trunk.named_buffers()).get(key)
    return own is not None and own.shape == tensor.shape and _close(own, tensor)


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.cpu().float(), b.float(), rtol=torch.finfo(torch.bfloat16).eps, atol=0)


def _objects_in(path: Path) -> list[str]:
    """Names of the classes and functions, other than tensors' own, that a PyTorch file asks for."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # damaged, or of another format
        return []


def shape_of(tensor: Tensor) -> str:
    """A tensor's shape as messages show it."""
    return str(tuple(tensor.shape))
