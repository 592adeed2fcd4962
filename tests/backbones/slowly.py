"""A vision transformer written out, one image, one head and one patch at a time; and its memory."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def tokens_slowly(
    tensors: dict[str, Tensor],
    images: Tensor,
    heads: int,
    positions: Tensor | float = 0,
    turned: Callable[[Tensor], Tensor] = lambda x: x,
    eps: float = 1e-6,
) -> Tensor:
    """DINOv2's or DINOv3's tokens before the last norm: (B, prefix + n, s).

    Positions are added to the embedded tokens; `turned` turns a head's queries and keys (n, s / h).
    """
    weight, bias = tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"]
    patch, depth = weight.shape[-1], sum(key.endswith("norm1.weight") for key in tensors)
    h, w = images.shape[2] // patch, images.shape[3] // patch
    out = []
    for image in images:
        rows = [tensors["cls_token"][0, 0], *tensors.get("reg_token", torch.empty(1, 0))[0]]
        for i in range(h):
            for j in range(w):
                square = image[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
                rows.append(weight.flatten(1) @ square.flatten() + bias)
        x = torch.stack(rows) + positions
        for i in range(depth):
            start = f"blocks.{i}."
            part = {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}
            x = block_slowly(x, part, heads, turned, eps)
        out.append(x)
    return torch.stack(out)


def block_slowly(
    x: Tensor, part: dict[str, Tensor], heads: int, turned: Callable, eps: float
) -> Tensor:
    def linear(x: Tensor, name: str) -> Tensor:
        return x @ part[f"{name}.weight"].T + part.get(f"{name}.bias", 0)

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + eps).sqrt()
        return scaled * part[f"{name}.weight"] + part[f"{name}.bias"]

    queries, keys, values = linear(norm(x, "norm1"), "attn.qkv").chunk(3, dim=1)
    queries, values = queries + part.get("attn.q_bias", 0), values + part.get("attn.v_bias", 0)
    mixed = []
    for q, k, v in zip(*(y.chunk(heads, dim=1) for y in (queries, keys, values)), strict=True):
        attention = turned(q) @ turned(k).T / q.shape[1] ** 0.5
        mixed.append(attention.softmax(dim=1) @ v)
    scales = [part[key] for key in ("ls1.gamma", "ls2.gamma", "gamma_1", "gamma_2") if key in part]
    x = x + scales[0] * linear(torch.cat(mixed, dim=1), "attn.proj")
    y = norm(x, "norm2")
    if "mlp.fc1_g.weight" in part:  # SwiGLU, in two layers or in one
        gate, value = linear(y, "mlp.fc1_g"), linear(y, "mlp.fc1_x")
        hidden = gate * torch.sigmoid(gate) * value
    elif part["mlp.fc1.weight"].shape[0] == 2 * part["mlp.fc2.weight"].shape[1]:
        gate, value = linear(y, "mlp.fc1").chunk(2, dim=1)
        hidden = gate * torch.sigmoid(gate) * value
    else:
        y = linear(y, "mlp.fc1")
        hidden = 0.5 * y * (1 + torch.erf(y / 2**0.5))
    return x + scales[1] * linear(hidden, "mlp.fc2")


def saved_bytes(net: nn.Module, images: Tensor) -> int:
    """Bytes of activations that autograd keeps for the backward pass of `net`."""
    parameters = {p.untyped_storage().data_ptr() for p in net.parameters()}
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        if tensor.untyped_storage().data_ptr() not in parameters:
            total += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        net(images)
    return total
