"""Backbones: a pretrained network cut to a feature map, (B, 3, H, W) -> (B, s, h, w).

Vision transformers lose their last norm and head, and the patch tokens of the last block become
the map (paper, Eq. 1). Any other network of timm gives the map of one of its stages.
"""

import difflib
import itertools
from collections.abc import Collection, Iterator
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

TrainedBlocks = int | Literal["all"]

DINOV2 = {
    f"dinov2_vit{size[0]}14{suffix}": f"vit_{size}_patch14_{registers}dinov2"
    for suffix, registers in (("", ""), ("_reg", "reg4_"))
    for size in ("small", "base", "large", "giant")
}
# DINOv2's architecture, small enough to pre-train on the toy city: 12 blocks, an 8 x 8 grid.
TOY = {
    "toy_vits14": {"embed_dim": 64, "num_heads": 2},
    "toy_vitb14": {"embed_dim": 128, "num_heads": 4},
}
TOY_IMAGE_SIZE = 112


def check_name(name: str) -> None:
    """Raise ValueError, with the closest names, unless `name` is a backbone we can build."""
    listed = [*DINOV2, *TOY]
    if name in listed or (name.startswith("timm/") and timm.is_model(_timm_name(name))):
        return
    every = listed + [f"timm/{model}" for model in timm.list_models()]
    close = difflib.get_close_matches(name, every, n=3) or difflib.get_close_matches(
        f"timm/{name}", every, n=3
    )
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise ValueError(
        f"unknown backbone {name!r}: {hint}Backbones are {', '.join(listed)} and timm/<model> "
        "for each model in timm.list_models()"
    )


def normalization(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, one a channel, of the images (in 0..1) that `name` expects.

    Raises:
        ValueError: for an unknown name.
    """
    check_name(name)
    if not name.startswith("timm/"):
        return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    config = timm.get_pretrained_cfg(_timm_name(name), allow_unregistered=False)
    return tuple(config.mean), tuple(config.std)


def as_size(image_size: int | Collection[int]) -> tuple[int, int]:
    """Height and width from one number (a square) or two.

    Raises:
        ValueError: for anything but one or two positive integers.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(f"image_size must be a number or (height, width), not {image_size!r}")
    if any(type(side) is not int or side < 1 for side in size):
        raise ValueError(f"image_size must be positive integers, not {image_size!r}")
    return tuple(size)


def build_backbone(
    name: str,
    *,
    image_size: int | tuple[int, int] = (224, 224),
    trained_blocks: TrainedBlocks = 3,
    train_tokens: bool = False,
    stage: int | None = None,
) -> "Backbone":
    """Build a backbone with random weights (`dinomix.weights` loads pretrained ones).

    Args:
        name: `dinov2_vits14`, `b`, `l`, `g` (also with `_reg`), `toy_vits14`, `toy_vitb14`, or
            `timm/<model>` for any network of timm.
        image_size: pixels, a side or (height, width); decides `.grid`.
        trained_blocks: how many of the last blocks learn; what comes before is frozen, and runs
            without an autograd graph. "all": everything learns, embeddings and stem too.
        train_tokens: class token and positional embedding learn although the first blocks are
            frozen, as in the authors' code: autograd then goes through every frozen block.
        stage: which stage's map a network that is no plain transformer gives (an index of timm's
            `out_indices`; None: the last). Its stages are what `trained_blocks` counts; stage 0
            holds the stem and learns with "all" only.

    Raises:
        ValueError: for an unknown name, an image size the network cannot take, or an option out
            of its range.
    """
    check_name(name)
    size = as_size(image_size)
    if name in TOY:
        network = VisionTransformer(
            TOY_IMAGE_SIZE, 14, num_classes=0, init_values=1e-5, **TOY[name]
        )
    else:
        network = timm.create_model(_timm_name(name))
    if _is_plain_vit(network):
        if stage is not None:
            raise ValueError(
                f"{name} has no stages to choose from: stage must be None, not {stage!r}"
            )
        return ViTBackbone(name, network, size, trained_blocks, train_tokens)
    if train_tokens:
        raise ValueError(f"train_tokens is for plain transformers, and {name} is none")
    return MapBackbone(name, network, size, trained_blocks, stage)


class Backbone(nn.Module):
    """What all backbones share: `.trunk`, the cut timm network, of which the last part learns.

    Attributes:
        name: as given to `build_backbone`, and so `trained_blocks`.
        out_channels: s, channels of the map.
        grid: (h, w), rows and columns of the map for images of the size given to `build_backbone`.
        num_blocks: how many blocks (or stages) `trained_blocks` chooses from.
        cut_keys: names of the tensors that the whole network has and `.trunk` has not.
    """

    name: str
    trunk: nn.Module
    out_channels: int
    grid: tuple[int, int]
    num_blocks: int
    trained_blocks: TrainedBlocks
    cut_keys: frozenset[str]

    def trained_modules(self) -> list[nn.Module]:
        """The modules that learn, in order of use."""
        raise NotImplementedError

    def pretrained(self) -> dict[str, Tensor]:
        """Tensors of timm's pretrained network, which it fetches through its hub."""
        return timm.create_model(_timm_name(self.name), pretrained=True).state_dict()

    def freeze(self) -> None:
        """Leave gradients and training mode to the trained modules alone."""
        count = self.trained_blocks
        if count != "all" and (type(count) is not int or not 0 <= count <= self.num_blocks):
            raise ValueError(
                f"trained_blocks of {self.name} must be 0 to {self.num_blocks} or 'all', "
                f"not {count!r}"
            )
        self.requires_grad_(False)
        for module in self.trained_modules():
            module.requires_grad_(True)
        self.train()

    def train(self, mode: bool = True) -> "Backbone":
        """As nn.Module.train, but frozen modules stay in evaluation mode."""
        super().train(False)
        self.training = mode
        for module in self.trained_modules():
            module.train(mode)
        return self


class ViTBackbone(Backbone):
    """A plain vision transformer without its last norm and head; any multiple of the patch fits."""

    def __init__(
        self,
        name: str,
        network: VisionTransformer,
        image_size: tuple[int, int],
        trained_blocks: TrainedBlocks,
        train_tokens: bool,
    ) -> None:
        super().__init__()
        whole = network.state_dict().keys()
        network.reset_classifier(0, "")  # pooling by attention has weights too
        network.norm, network.fc_norm = nn.Identity(), nn.Identity()
        network.patch_embed.strict_img_size = False
        self.name, self.trunk, self.trained_blocks = name, network, trained_blocks
        self.cut_keys = frozenset(whole - network.state_dict().keys())
        self.num_blocks = len(network.blocks)
        self.out_channels = network.embed_dim
        self.patch_size: tuple[int, int] = network.patch_embed.patch_size
        self.grid = self.grid_of(image_size)
        self.train_tokens = train_tokens
        self.freeze()
        for token in (network.cls_token, network.reg_token, network.pos_embed):
            if train_tokens and token is not None:
                token.requires_grad_(True)

    @property
    def first_trained(self) -> int:
        """Index of the first block that learns; `num_blocks` if none does."""
        return 0 if self.trained_blocks == "all" else self.num_blocks - self.trained_blocks

    def trained_modules(self) -> list[nn.Module]:
        if self.trained_blocks == "all":
            return [self.trunk]
        return list(self.trunk.blocks[self.first_trained :])

    def grid_of(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches in an image of (height, width) pixels.

        Raises:
            ValueError: if a side is no multiple of the patch.
        """
        sides = list(zip(image_size, self.patch_size, strict=True))
        if any(side % patch for side, patch in sides):
            options = [
                sorted({max(side // patch, 1) * patch, -(-side // patch) * patch})
                for side, patch in sides
            ]
            nearest = ", ".join(f"{h}x{w}" for h, w in itertools.product(*options))
            raise ValueError(
                f"{self.name} takes images whose sides are multiples of {self.patch_size[0]} "
                f"pixels, not {image_size[0]}x{image_size[1]}: the nearest are {nearest}"
            )
        return tuple(side // patch for side, patch in sides)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, H, W)
        grid = self.grid_of(tuple(images.shape[-2:]))
        x = self.tokens(images)[:, self.trunk.num_prefix_tokens :]  # (B, h*w, s): patches alone
        return x.transpose(1, 2).unflatten(2, grid)  # (B, s, h, w)

    def tokens(self, images: Tensor) -> Tensor:
        """All tokens of the last block, class and registers first: (B, prefix + h*w, s)."""
        grid = self.grid_of(tuple(images.shape[-2:]))
        blocks, start = self.trunk.blocks, self.first_trained
        in_graph = self.train_tokens or self.trained_blocks == "all"
        with torch.set_grad_enabled(in_graph and torch.is_grad_enabled()):
            x = blocks[:start](self._embed(images, grid))
        return blocks[start:](x)

    def _embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        vit = self.trunk
        prefix = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
        prefix = [token.expand(len(images), -1, -1) for token in prefix]
        x = vit.patch_embed(images)  # (B, h*w, s)
        placed = 0 if vit.no_embed_class else vit.num_prefix_tokens  # prefix tokens with a position
        antialias = vit.reg_token is not None
        positions = resize_positions(vit.pos_embed, grid, placed, antialias=antialias)
        if placed:
            x = torch.cat([*prefix, x], dim=1) + positions
        else:
            x = torch.cat([*prefix, x + positions], dim=1)
        return vit.norm_pre(vit.patch_drop(vit.pos_drop(x)))  # (B, prefix + h*w, s)


class MapBackbone(Backbone):
    """The map of one stage of any other timm network, mostly a CNN; later stages are cut off."""

    def __init__(
        self,
        name: str,
        network: nn.Module,
        image_size: tuple[int, int],
        trained_blocks: TrainedBlocks,
        stage: int | None,
    ) -> None:
        super().__init__()
        last = len(network.feature_info) - 1
        stage = last if stage is None else stage
        if type(stage) is not int or not 0 <= stage <= last:
            raise ValueError(f"stage of {name} must be 0 to {last}, not {stage!r}")
        # Networks with a fixed input size, such as Swin, are built for it.
        fixed = timm.get_pretrained_cfg(_timm_name(name)).fixed_input_size
        self._options: dict[str, Any] = {"img_size": image_size} if fixed else {}
        features = timm.create_model(
            _timm_name(name),
            features_only=True,
            feature_cls="getter",  # keeps timm's names of the tensors; the default renames some
            out_indices=(stage,),
            **self._options,
        )
        trunk = getattr(features, "model", None)
        if not hasattr(trunk, "forward_intermediates"):
            raise ValueError(f"timm {timm.__version__} gives no feature map of {name}")
        self.name, self.trunk, self.trained_blocks = name, trunk, trained_blocks
        self.cut_keys = frozenset(network.state_dict().keys() - self.trunk.state_dict().keys())
        self.num_blocks = self.stage = stage
        self._ends = [info["module"] for info in network.feature_info[: stage + 1]]
        self.freeze()
        self.out_channels, *grid = self._map_shape(image_size)
        self.grid = tuple(grid)

    def trained_modules(self) -> list[nn.Module]:
        if self.trained_blocks == "all":
            return [self.trunk]
        units = dict(_units(self.trunk, self._ends))
        first, last = self._ends[-1 - self.trained_blocks], self._ends[-1]
        if first not in units or last not in units:
            raise ValueError(f"{self.name} has no separate stages: trained_blocks must be 'all'")
        names = list(units)
        return [units[name] for name in names[names.index(first) + 1 : names.index(last) + 1]]

    def pretrained(self) -> dict[str, Tensor]:
        network = timm.create_model(_timm_name(self.name), pretrained=True, **self._options)
        return network.state_dict()

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, H, W)
        if self.trained_blocks != "all":
            images = images.detach()  # so that no graph reaches through the frozen stages
        maps = self.trunk.forward_intermediates(
            images, indices=[self.stage], output_fmt="NCHW", intermediates_only=True
        )
        return maps[0]  # (B, s, h, w)

    def _map_shape(self, image_size: tuple[int, int]) -> tuple[int, int, int]:
        training = self.training
        try:
            with torch.no_grad():
                return tuple(self.eval()(torch.zeros(1, 3, *image_size)).shape[1:])
        except (AssertionError, RuntimeError) as error:
            size = "x".join(map(str, image_size))
            raise ValueError(f"{self.name} cannot take images of {size}: {error}") from error
        finally:
            self.train(training)


def resize_positions(
    embedding: Tensor, grid: tuple[int, int], prefix: int = 0, *, antialias: bool = False
) -> Tensor:
    """Resize a positional embedding to another grid exactly as DINOv2's hub code does.

    Bicubic by the factors (h + 0.1) / M and (w + 0.1) / M, in float32: the 0.1, there against
    rounding, shifts every sample, so that a resize to the size (h, w) gives other descriptors.
    The hub's register models resize to the size, antialiased (`antialias=True`).

    Args:
        embedding: (1, prefix + M*M, s).
        grid: h and w.
        prefix: how many leading entries belong to class and register tokens.

    Returns:
        (1, prefix + h*w, s) in the dtype of `embedding`; `embedding` itself if M = h = w.
    """
    tokens, patches = embedding[:, :prefix], embedding[:, prefix:]
    m = round(patches.shape[1] ** 0.5)
    if grid == (m, m):
        return embedding
    patches = patches.float().unflatten(1, (m, m)).permute(0, 3, 1, 2)  # (1, s, M, M)
    if antialias:
        patches = F.interpolate(patches, size=grid, mode="bicubic", antialias=True)
    else:
        scale = tuple((side + 0.1) / m for side in grid)
        patches = F.interpolate(patches, scale_factor=scale, mode="bicubic")
    patches = patches.flatten(2).transpose(1, 2)  # (1, h*w, s)
    return torch.cat([tokens, patches.to(embedding.dtype)], dim=1)


def _timm_name(name: str) -> str:
    return DINOV2.get(name) or name.removeprefix("timm/")


def _is_plain_vit(model: nn.Module) -> bool:
    return (
        type(model) is VisionTransformer
        and type(model.patch_embed) is PatchEmbed
        and model.pos_embed is not None
    )


def _units(module: nn.Module, taps: list[str], prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Modules in order of use, opened up just enough that every tap is one of them."""
    for child_name, child in module.named_children():
        path = prefix + child_name
        if any(tap.startswith(f"{path}.") for tap in taps):
            yield from _units(child, taps, f"{path}.")
        else:
            yield path, child
