"""Pretrains a candidate stand-in: `dinomix.standins.pretrain` with large batches, on a GPU too.

python benchmarks/standins/pretrain_long.py views/views.npy vit14_192.safetensors --dim 192

`views.npy` is `toycity.write_views("views", PRETRAIN_SEEDS[:40], 80_000, 144, group=4)`.
"""

import argparse
import json
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from dinomix.backbones import build_backbone, names
from dinomix.standins import pretrain

NAME = "toy_vitb14"  # whose width is changed below
CONDITIONS = 4  # photos of each camera


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("views")
    parser.add_argument("out")
    parser.add_argument("--dim", type=int, default=192)
    parser.add_argument("--head-width", type=int, default=32)
    parser.add_argument("--image-loss", choices=("token", "both", "pooled"), default="pooled")
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--coarse", type=float, default=0.7, help="share of steps at small sizes")
    parser.add_argument("--temperature", type=float, default=0.1)
    parser.add_argument("--spots", type=int, default=8, help="patches of a pair in the loss")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds, then stop")
    return parser.parse_args()


def head(width: int) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, 128)
    )


def gem(patches: Tensor) -> Tensor:  # (B, h*w, s) -> (B, s)
    return patches.clamp(min=1e-4).pow(3).mean(1).pow(1 / 3)


def nce(a: Tensor, b: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Row i of `a` and of `b`, both (N, p), should find each other: loss, and share that does."""
    logits = F.normalize(a.float(), dim=1) @ F.normalize(b.float(), dim=1).T / temperature
    target = torch.arange(len(logits))
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    return loss, (logits.argmax(1) == target).float().mean()


def main() -> None:
    args = options()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wide = {"embed_dim": args.dim, "num_heads": args.dim // args.head_width}
    names.TOY_VITS[NAME] = names.TOY_VITS[NAME] | wide
    torch.manual_seed(0)
    net = build_backbone(NAME, image_size=112, trained_blocks="all").to(device)
    for block in net.trunk.blocks:
        nn.init.ones_(block.ls1.gamma)
        nn.init.ones_(block.ls2.gamma)
    torch.set_default_device(device)
    heads = nn.ModuleDict({key: head(args.dim) for key in ("token", "pooled", "patch")})
    photos = torch.from_numpy(np.load(args.views)).to(device).unflatten(0, (-1, CONDITIONS))
    parameters = [*net.parameters(), *heads.parameters()]
    matrices = [p for p in parameters if p.ndim > 1 and p.shape[0] > 1]
    others = [p for p in parameters if p.ndim == 1 or p.shape[0] == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: pretrain.warmup_cosine(step, args.steps, 0.08)
    )
    start = time.time()
    for step in range(args.steps):
        sizes = (84, 56) if step < args.coarse * args.steps else (112, 70)
        cameras = torch.randint(len(photos), (args.batch,))
        times = torch.rand(args.batch, CONDITIONS).argsort(1)[:, :2]
        with torch.autocast(device.type, torch.bfloat16):
            losses, matched = contrast(net, heads, photos[cameras[:, None], times], sizes, args)
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            shown = {key: round(loss.item(), 3) for key, loss in losses.items()}
            print(
                f"{step}: {shown}, matched {matched:.2f}, {time.time() - start:.0f} s", flush=True
            )
        if time.time() - start > args.limit:
            print(f"stopped at step {step}")
            break
    tensors = {
        key: value.half().contiguous().cpu() for key, value in net.trunk.state_dict().items()
    }
    save_file(tensors, args.out, metadata={"made": json.dumps(vars(args))})


def contrast(
    net: nn.Module, heads: nn.ModuleDict, pairs: Tensor, sizes: tuple[int, int], args
) -> tuple[dict[str, Tensor], Tensor]:
    """Losses of pairs, uint8 (B, 2, H, W, 3), and the share of patches matched."""
    first, second = (pairs.permute(1, 0, 4, 2, 3).float() / 255).unbind()
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(len(pairs), 4)
    large_box = pretrain.random_boxes(whole, (0.4, 1.0))
    small_box = pretrain.random_boxes(large_box, (0.3, 0.8))
    large = pretrain.encode(net, pretrain.view(first, large_box, sizes[0]))
    small = pretrain.encode(net, pretrain.view(second, small_box, sizes[1]))
    (token, patches), (small_token, small_patches) = large, small
    losses = {}
    if args.image_loss in ("token", "both"):
        views = heads["token"](token), heads["token"](small_token)
        losses["token"], _ = nce(*views, args.temperature)
    if args.image_loss in ("pooled", "both"):
        views = heads["pooled"](gem(patches.float())), heads["pooled"](gem(small_patches.float()))
        losses["pooled"], _ = nce(*views, args.temperature)
    grid = math.isqrt(patches.shape[1])
    large_map = heads["patch"](patches).float().transpose(1, 2).unflatten(2, (grid, grid))
    centres = pretrain.patch_centres(math.isqrt(small_patches.shape[1]), small_box)
    chosen = torch.rand(centres.shape[:2]).argsort(1)[:, : args.spots, None]  # (B, spots, 1)
    centres = centres.gather(1, chosen.expand(-1, -1, 2))
    spots = small_patches.gather(1, chosen.expand(-1, -1, small_patches.shape[2]))
    within = (centres - large_box[:, None, :2]) / large_box[:, None, 2:]  # in the large crop
    same = F.grid_sample(large_map, (2 * within - 1)[:, None], align_corners=False)
    same = same[:, :, 0].transpose(1, 2).flatten(0, 1)  # (B * spots, p)
    losses["patch"], matched = nce(same, heads["patch"](spots).flatten(0, 1), args.temperature)
    return losses, matched


if __name__ == "__main__":
    main()
