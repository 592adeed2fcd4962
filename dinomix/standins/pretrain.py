"""Pretrains the stand-in backbones, `toy_vits14`, `toy_vitb14` and `toy_resnet`, without labels.

Of two photos of one spot, under different conditions, one is cropped to a large and one to a small
crop within it. Contrastive losses bring images together, and each small patch and its same spot.
What was tried, and what it gave, stands in the README.md beside this file.
"""

import math
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from dinomix.backbones import TOY, Backbone, ViTBackbone, build_backbone, normalization
from dinomix.plumbing.files import atomic_path, config_hash, to_json
from dinomix.plumbing.tensorfiles import read_torch
from dinomix.retrieval import pick_device
from dinomix.runs.machine import fastest_precision
from dinomix.weights import TOY_WEIGHTS
from toycity import PRETRAIN_SEEDS, write_views

SAVE_EVERY = 300  # seconds
COST = "The transformers take six minutes on an H100; on a CPU days (toy_vits14 about 46 hours)."


@dataclass(frozen=True)
class PretrainConfig:
    """How the stand-ins are pretrained. Sizes in pixels, areas as shares of the image."""

    cities: int = len(PRETRAIN_SEEDS)  # the first ones
    cameras: int = 4000
    photos: int = 2  # of each camera, under different conditions
    distinct: bool = False  # the two of a pair; else they are the same one now and then
    photo_size: int = 144
    coarse_sizes: tuple[int, int] = (84, 56)  # of the large and the small crop, at first
    fine_sizes: tuple[int, int] = (112, 70)  # ... and at the end
    coarse_share: float = 0.8  # of the steps: they cost half and teach as much
    large_area: tuple[float, float] = (0.4, 1.0)
    small_area: tuple[float, float] = (0.3, 0.8)  # of the large crop, which it lies within
    batch_size: int = 40
    epochs: float = 20
    stop: int | None = None  # after this step, before the schedule ends
    lr: float = 1e-3  # at 128 channels; narrower networks take larger steps
    beta2: float = 0.999
    weight_decay: float = 0.05
    warmup: float = 0.1  # share of the steps
    temperature: float = 0.1
    pooled: bool = False  # a transformer's image is the GeM of its patches, not its class token
    spots: int | None = None  # small patches of a pair in the loss; None is all
    hidden: int = 2  # units of a head, as a multiple of its input
    projection: int = 128
    bfloat16: bool = False  # where the device is fast at it
    device: str = "cpu"
    seed: int = 0


_LARGE = {"cities": 40, "cameras": 20_000, "photos": 4, "distinct": True, "coarse_share": 0.7}
_LARGE |= {"batch_size": 1024, "epochs": 163.84, "beta2": 0.95, "warmup": 0.08, "hidden": 4}
_LARGE |= {"pooled": True, "spots": 8, "bfloat16": True, "device": "auto"}
RECIPES = {  # of 3,200 steps; a limit of time stopped the first two
    "toy_vits14": PretrainConfig(**_LARGE, lr=7.5e-4, stop=3037),
    "toy_vitb14": PretrainConfig(**_LARGE, lr=1.5e-3, stop=2530),
    # Multiples of stride 16; a CNN learns faster, from large steps and many of them.
    "toy_resnet": PretrainConfig(
        coarse_sizes=(96, 64), fine_sizes=(112, 80), batch_size=20, epochs=10, lr=3e-3
    ),
}


class Heads(nn.Module):
    """Projections of what `encode` gives for images and for patches; both are thrown away."""

    def __init__(self, image_width: int, patch_width: int, config: PretrainConfig) -> None:
        super().__init__()
        n, out = config.hidden, config.projection
        self.image, self.patch = (
            nn.Sequential(nn.LayerNorm(w), nn.Linear(w, n * w), nn.GELU(), nn.Linear(n * w, out))
            for w in (image_width, patch_width)
        )


def pretrain(
    name: str, photos: np.ndarray, config: PretrainConfig, checkpoint: Path, progress: bool = True
) -> dict[str, Tensor]:
    """Pretrain a toy backbone on photos, uint8 (N, T, H, W, 3): T of each of N cameras.

    Returns the trunk's tensors in timm's key layout, as float16 (but for counts). What is killed
    goes on from the file `checkpoint`, on a CPU to the same weights.
    """
    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    net = build_backbone(name, image_size=config.fine_sizes[0], trained_blocks="all")
    if isinstance(net, ViTBackbone):
        for block in net.trunk.blocks:  # DINOv2's 1e-5 wakes deep blocks over weeks, not minutes
            nn.init.ones_(block.ls1.gamma)
            nn.init.ones_(block.ls2.gamma)
    heads = Heads(*encoded_widths(net), config).to(device)
    parameters = [*net.to(device).parameters(), *heads.parameters()]
    decayed = [p for p in parameters if p.ndim > 1 and p.shape[0] > 1]
    others = [p for p in parameters if p.ndim == 1 or p.shape[0] == 1]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0}]
    rates = {"lr": config.lr * 128 / net.out_channels, "betas": (0.9, config.beta2)}
    optimizer = torch.optim.AdamW(groups, **rates, weight_decay=config.weight_decay)
    size = min(config.batch_size, len(photos))
    order = torch.cat([torch.randperm(len(photos)) for _ in range(math.ceil(config.epochs))])
    batches = order[: int(config.epochs * len(photos) / size) * size].to(device).split(size)
    factor = partial(warmup_cosine, steps=len(batches), warmup=config.warmup)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    parts, start, saved = (net, heads, optimizer, schedule), 0, time.monotonic()
    dice = torch if device.type == "cpu" else torch.get_device_module(device)
    if checkpoint.exists():
        start, drawn, *states = read_torch(checkpoint)
        dice.set_rng_state(drawn)
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)
    half = config.bfloat16 and fastest_precision(device) == "bf16"
    cameras = torch.from_numpy(photos).to(device)
    todo = range(start, min(len(batches), config.stop or len(batches)))
    bar = tqdm(todo, name, todo.stop, unit="step", initial=start, disable=not progress)
    with device, bar:  # what is drawn is drawn there
        for step in bar:
            coarse = step < config.coarse_share * len(batches)
            sizes = config.coarse_sizes if coarse else config.fine_sizes
            times = torch.randint(photos.shape[1], (size, 2))
            if config.distinct:
                times = torch.rand(size, photos.shape[1]).argsort(1)[:, :2]
            pairs = cameras[batches[step][:, None], times]
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss, accuracy = contrast(net, heads, pairs, sizes, config)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}", matched=f"{accuracy:.2f}")
            if time.monotonic() - saved >= SAVE_EVERY:
                states = [step + 1, dice.get_rng_state(), *(part.state_dict() for part in parts)]
                with atomic_path(checkpoint) as temporary, temporary.open("wb") as file:
                    torch.save(states, file)
                saved = time.monotonic()
    return {
        key: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for key, value in net.trunk.state_dict().items()
    }


def warmup_cosine(step: int, steps: int, warmup: float) -> float:
    """Factor of the learning rate: linear up over `warmup * steps`, then half a cosine down."""
    start = max(1, int(warmup * steps))
    if step < start:
        return (step + 1) / start
    return 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, steps - start)))


def encode(net: Backbone, images: Tensor, pooled: bool = False) -> tuple[Tensor, Tensor]:
    """A vector for each image (B, s), and one for each patch (B, h*w, s'), of (B, 3, H, W)."""
    if isinstance(net, ViTBackbone):
        tokens = net.tokens(images)  # (B, 1 + h*w, s)
        gem = tokens[:, 1:].float().clamp(min=1e-4).pow(3).mean(1).pow(1 / 3)
        return gem if pooled else tokens[:, 0], tokens[:, 1:]
    before, last = net.trunk.forward_intermediates(
        images, indices=[net.stage - 1, net.stage], intermediates_only=True
    )
    return last.mean(dim=(2, 3)), before.flatten(2).transpose(1, 2)


def encoded_widths(net: Backbone) -> tuple[int, int]:
    """Widths s and s' of what `encode` gives."""
    if isinstance(net, ViTBackbone):
        return net.out_channels, net.out_channels
    return net.out_channels, net.trunk.feature_info[net.stage - 1]["num_chs"]


def contrast(
    net: Backbone, heads: Heads, pairs: Tensor, sizes: tuple[int, int], config: PretrainConfig
) -> tuple[Tensor, float]:
    """The loss of a batch of pairs, uint8 (B, 2, H, W, 3), and the share of patches matched.

    `sizes`: pixels of the large and of the small crop. Shapes below: a ViT's at (112, 70).
    """
    first, second = (pairs.permute(1, 0, 4, 2, 3).float() / 255).unbind()  # (B, 3, H, W) each
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(len(pairs), 4)
    large_box = random_boxes(whole, config.large_area)
    small_box = random_boxes(large_box, config.small_area)
    large, large_patches = encode(net, view(first, large_box, sizes[0]), config.pooled)
    small, small_patches = encode(net, view(second, small_box, sizes[1]), config.pooled)
    # (B, s) and (B, 64, s); (B, s) and (B, 25, s)
    image_loss, _ = info_nce(heads.image(large), heads.image(small), config.temperature)
    grid = math.isqrt(large_patches.shape[1])
    spots = heads.patch(large_patches).float()  # (B, 64, p)
    large_map = spots.transpose(1, 2).unflatten(2, (grid, grid))  # (B, p, 8, 8)
    centres = patch_centres(math.isqrt(small_patches.shape[1]), small_box)  # (B, 25, 2)
    if config.spots:
        chosen = torch.rand(centres.shape[:2]).argsort(1)[:, : config.spots, None]  # (B, n, 1)
        centres, small_patches = (x.take_along_dim(chosen, 1) for x in (centres, small_patches))
    within = (centres - large_box[:, None, :2]) / large_box[:, None, 2:]  # in the large crop
    same_spots = F.grid_sample(large_map, (2 * within - 1)[:, None], align_corners=False)
    same_spots = same_spots[:, :, 0].transpose(1, 2).flatten(0, 1)  # (B*25, p)
    small_spots = heads.patch(small_patches).flatten(0, 1)
    patch_loss, accuracy = info_nce(same_spots, small_spots, config.temperature)
    return image_loss + patch_loss, accuracy


def info_nce(a: Tensor, b: Tensor, temperature: float) -> tuple[Tensor, float]:
    """Row i of `a` and of `b`, both (N, p), should find each other: loss, and share that does."""
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature  # (N, N)
    target = torch.arange(len(logits))
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    return loss, (logits.argmax(dim=1) == target).float().mean().item()


# A box is (left, top, width, height) in shares of the photo.


def random_boxes(within: Tensor, area: tuple[float, float]) -> Tensor:
    """A box inside each of `within` (B, 4), of a share of its area."""
    share = torch.empty(len(within)).uniform_(*area)
    aspect = torch.empty(len(within)).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()
    sides = torch.stack([(share * aspect).sqrt(), (share / aspect).sqrt()], dim=1).clamp(max=1)
    corner = torch.rand(len(within), 2) * (1 - sides)
    return torch.cat([within[:, :2] + corner * within[:, 2:], sides * within[:, 2:]], dim=1)


def patch_centres(grid: int, boxes: Tensor) -> Tensor:
    """Centres of the grid x grid patches of each box, row by row: (B, grid*grid, 2) as x, y."""
    ticks = (torch.arange(grid) + 0.5) / grid
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    centres = torch.stack([x, y], dim=-1).flatten(0, 1)  # (grid*grid, 2)
    return boxes[:, None, :2] + centres * boxes[:, None, 2:]


def view(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop, resize, disturb and normalise: (B, 3, H, W) in 0..1 -> (B, 3, size, size)."""
    centres = patch_centres(size, boxes).unflatten(1, (size, size))  # (B, size, size, 2)
    crops = F.grid_sample(images, 2 * centres - 1, padding_mode="border", align_corners=False)
    crops = disturb(crops)
    mean, std = (torch.tensor(v)[:, None, None] for v in normalization(TOY[0]))
    return (crops - mean) / std


def disturb(images: Tensor) -> Tensor:
    """Other light, other camera: gamma, gain, white balance, saturation, grey, blur and noise."""

    def draw(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.empty(len(images), channels, 1, 1).uniform_(low, high)

    images = images.clamp(1e-3, 1) ** draw(-0.5, 0.5).exp()
    images = images * draw(-0.5, 0.4).exp() * draw(-0.15, 0.15, 3).exp()
    grey = images.mean(dim=1, keepdim=True)
    saturation = draw(0.2, 1.5) * (torch.rand(len(images), 1, 1, 1) > 0.15)
    images = grey + saturation * (images - grey)
    contrast_centre = images.mean(dim=(1, 2, 3), keepdim=True)
    images = contrast_centre + draw(0.6, 1.3) * (images - contrast_centre)
    blurred = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    blur = draw(-1, 1).clamp(min=0)  # none in half of the cases
    images = images + blur * (blurred - images)
    return (images + torch.randn_like(images) * draw(0, 0.04)).clamp(0, 1)


def pretrain_to_file(name: str, views: Path, config: PretrainConfig, out: Path) -> Path:
    """Pretrain one backbone on one thread, whose sums are the same on any number of cores."""
    torch.set_num_threads(1)
    photos = np.load(views, mmap_mode="c")  # (N*T, H, W, 3)
    photos = photos.reshape(config.cameras, config.photos, *photos.shape[1:])
    tensors = pretrain(name, photos, config, views.with_name(f"{name}.pt"))
    file, about = out / f"{name}.safetensors", {"backbone": name, "pretrained": to_json(config)}
    with atomic_path(file) as temporary:
        save_file(tensors, temporary, metadata=about)
    return file


def pretrain_files(
    names: Sequence[str] | None = None, out: Path = TOY_WEIGHTS, **changes: int
) -> list[Path]:
    """Render views, then pretrain each backbone (default: all) in a process of its own.

    `changes` are those of the recipes: epochs, cameras. Returns the files of weights. Killed, the
    same call goes on, from a folder in `out`. ValueError: there is no stand-in of this name.
    """
    names = names or list(RECIPES)
    if unknown := [name for name in names if name not in RECIPES]:
        raise ValueError(f"no stand-ins {unknown}; there are {', '.join(RECIPES)}")
    tqdm.write(COST, file=sys.stderr)
    whole = {"stop": None} if changes else {}
    recipes = {name: replace(RECIPES[name], **whole, **changes) for name in names}
    work, views = out / f"unfinished-{config_hash(recipes)}", {}
    for name, r in recipes.items():
        folder, count = work / f"{r.cities}-{r.cameras}-{r.photos}", r.cameras * r.photos
        seeds = PRETRAIN_SEEDS[: r.cities]
        views[name] = write_views(folder, seeds, count, r.photo_size, group=r.photos)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(pretrain_to_file, n, views[n], r, out) for n, r in recipes.items()]
        files = [job.result() for job in jobs]
    shutil.rmtree(work)
    return files
