"""Weights of a backbone from the hub, from the package or from a file, whatever its layout."""

import re
from pathlib import Path

import torch
from torch import Tensor

from dinomix.backbones import TOY, Backbone
from dinomix.plumbing.errors import HubError
from dinomix.plumbing.tensorfiles import Tensors, beginnings, read_tensors, without_prefix

OURS = "backbone.trunk."  # in files of `save_model`
TOY_WEIGHTS = Path(__file__).parent / "standins" / "weights"
# Parts that the surgery cuts off, and what only DINO's pre-training uses: a token for masked
# patches, a norm for small crops.
CUT = ("norm.", "fc_norm.", "head.", "mask_token", "local_cls_norm.")
SHOWN = 8  # of the tensors that do not fit, in a message


def load_backbone_weights(backbone: Backbone, weights: str | Path | None) -> None:
    """Load pretrained weights into `backbone`, strictly.

    Args:
        weights: None leaves the random weights. "hub": timm's pretrained ones, through its hub;
            for the toy backbones the file that comes with the package. Else the path of a file
            (.safetensors, or a PyTorch file of tensors) in the layout of DINOv2's or DINOv3's
            release, of timm, or of `dinomix.save_model`, whose backbone part is taken. The names
            may have a prefix, such as "module." or a whole model's "backbone.".

    Raises:
        FileNotFoundError: if there is no such file.
        HubError: if the hub gives nothing.
        ValueError: for a file that is damaged or does not fit, tensor by tensor.
    """
    if weights is None:
        return
    source, tensors = _read(backbone, weights)
    expected, computed = backbone.trunk.state_dict(), dict(backbone.trunk.named_buffers())
    tensors = {
        key: tensor
        for key, tensor in tensors.items()
        if key in expected or not _is_dispensable(key, tensor, backbone, computed)
    }
    complaint = f"{source} does not fit {backbone.name}"
    if "norm.weight" in expected.keys() - tensors.keys():
        complaint += " with its last norm (final_norm=False cuts that off)"
    check_tensors(tensors, expected, complaint)
    backbone.trunk.load_state_dict(tensors)


def _read(backbone: Backbone, weights: str | Path) -> tuple[str | Path, Tensors]:
    """Where the weights are from, and the tensors by timm's names."""
    if str(weights) == "hub" and backbone.name not in TOY:
        try:
            return f"the hub's {backbone.name}", backbone.pretrained()
        except Exception as error:  # each hub client has errors of its own
            raise HubError(
                f"timm's hub gave no weights for {backbone.name} ({error}): without a network, "
                "give the path of a downloaded file"
            ) from error
    path, hint = Path(weights), "give the path of a file, 'hub' or None"
    if str(weights) == "hub":
        path = TOY_WEIGHTS / f"{backbone.name}.safetensors"
        hint = f"`make weights` pre-trains {backbone.name}"
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: {hint}")
    tensors = read_tensors(path)
    known = next(key for key in backbone.trunk.state_dict() if key.endswith(".weight"))
    ours = {key.removeprefix(OURS): t for key, t in tensors.items() if key.startswith(OURS)}
    try:
        return path, to_timm_layout(ours or without_prefix(tensors, known, path))
    except ValueError as error:
        raise ValueError(f"{path} does not fit {backbone.name}: {error}") from error


def _is_dispensable(key: str, tensor: Tensor, backbone: Backbone, computed: Tensors) -> bool:
    """Whether the trunk, which has no such tensor, gives the same maps without it."""
    if key.startswith(CUT) or key in backbone.cut_keys:
        return True
    if key.endswith(("q_bias", "k_bias", "v_bias")):  # all 0 in DINOv3's release
        return not tensor.any()
    # What the trunk computes itself, maybe rounded to bfloat16 in the file: rope.periods.
    own, rounding = computed.get(key), torch.finfo(torch.bfloat16).eps
    return (
        own is not None
        and own.shape == tensor.shape
        and torch.allclose(own.cpu().float(), tensor.float(), rtol=rounding, atol=0)
    )


def check_tensors(tensors: Tensors, expected: Tensors, complaint: str) -> None:
    """Compare names, shapes and kinds of number; `complaint` heads what the ValueError lists."""
    # Torch does without a BatchNorm's count of batches, which older files lack.
    needed = [key for key in expected if not key.endswith(".num_batches_tracked")]
    problems = [f"missing {key}" for key in needed if key not in tensors]
    problems += [f"unexpected {key}" for key in tensors if key not in expected]
    for key in (key for key in expected if key in tensors):
        found, wanted = tensors[key], expected[key]
        if found.shape != wanted.shape:
            problems.append(f"{key} is {shape_of(found)}, expected {shape_of(wanted)}")
        if found.is_floating_point() != wanted.is_floating_point():
            problems.append(f"{key} is {found.dtype}, expected {wanted.dtype}")
    if len(problems) > SHOWN:
        told = f"and {len(problems) - SHOWN:,} more. Of {len(tensors):,} tensors, names begin with "
        problems[SHOWN:] = [told + beginnings(tensors)]
    if problems:
        raise ValueError("\n  ".join([f"{complaint}:", *problems]))


def shape_of(tensor: Tensor) -> str:
    """A tensor's shape as messages show it."""
    return str(tuple(tensor.shape))


def to_timm_layout(tensors: Tensors) -> Tensors:
    """A backbone's tensors by timm's names; ValueError where some that become one do not fit."""
    if "storage_tokens" in tensors:
        return _from_dinov3(tensors)
    dinov2 = re.compile(r"mask_token|register_tokens|blocks\.\d+\.(mlp\.w12|\d+\.ls1)\.")
    return _from_dinov2(tensors) if any(map(dinov2.match, tensors)) else tensors


def _from_dinov2(tensors: Tensors) -> Tensors:
    """DINOv2's release: other names for SwiGLU and registers, and maybe blocks in chunks."""
    renamed = {}
    for key, tensor in tensors.items():
        key = re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", key)  # blocks.{chunk}.{block}
        renamed[key.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")] = tensor
    if {"register_tokens", "cls_token", "pos_embed"} <= renamed.keys():
        # timm adds the class token's position to the token itself
        positions, token = renamed["pos_embed"], renamed["cls_token"]
        if token.ndim != 3 or positions.ndim != 3 or positions[:, :1].shape != token.shape:
            raise ValueError("pos_embed has no position for cls_token")
        renamed["reg_token"] = renamed.pop("register_tokens")
        renamed["cls_token"] = token + positions[:, :1]
        renamed["pos_embed"] = positions[:, 1:]
    return renamed


def _from_dinov3(tensors: Tensors) -> Tensors:
    """DINOv3's release: other names for registers, SwiGLU and LayerScale, and one bias of q, k, v.

    The keys' third of that bias is masked; timm has separate biases of queries and values, or none.
    """
    names = {".w1.": ".fc1_g.", ".w2.": ".fc1_x.", ".w3.": ".fc2.", "rope_embed.": "rope."}
    names |= {".ls1.gamma": ".gamma_1", ".ls2.gamma": ".gamma_2", "storage_tokens": "reg_token"}
    renamed = {}
    for key, tensor in tensors.items():
        if key.endswith(".qkv.bias"):
            mask = tensors.get(f"{key}_mask", torch.ones_like(tensor))
            if mask.shape != tensor.shape or tensor.ndim != 1 or len(tensor) % 3:
                raise ValueError(f"{key} is no bias of q, k and v with a mask of its own")
            for part, bias in zip("qkv", (tensor * mask).chunk(3), strict=True):
                renamed[key.removesuffix("qkv.bias") + f"{part}_bias"] = bias
        elif not key.endswith(".bias_mask"):
            for theirs, ours in names.items():
                key = key.replace(theirs, ours)
            renamed[key] = tensor
    return renamed
