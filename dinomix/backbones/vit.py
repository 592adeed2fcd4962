"""A network cut to a feature map; of a vision transformer, its last patch tokens (paper, Eq. 1)."""

import itertools
import math
from typing import Literal

import timm
import torch
import torch.nn.functional as F
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dinomix.backbones.names import timm_name

TrainedBlocks = int | Literal["all"]


class Backbone(nn.Module):
    """A network of timm, cut to a feature map: (B, 3, H, W) -> (B, s, h, w).

    Attributes:
        name, trained_blocks: as given to `build_backbone`.
        trunk: the cut network.
        cut_keys: names of the tensors that the whole network has and `.trunk` has not.
        out_channels: s.
        grid: (h, w) for images of the size given to `build_backbone`.
        num_blocks: how many blocks (or stages) `trained_blocks` chooses from.
        has_prefix: whether `frozen_features` does the frozen blocks' work.
        size_step, fixed_size: images' sides must be multiples of so many pixels; or no other than
            those given to `build_backbone`.
    """

    name: str
    trained_blocks: TrainedBlocks
    trunk: nn.Module
    cut_keys: frozenset[str]
    out_channels: int
    grid: tuple[int, int]
    num_blocks: int
    size_step: int = 1
    fixed_size: bool = False
    has_token: bool = False
    has_prefix: bool = False
    moving: tuple[nn.Module, ...] = ()  # frozen, but in training mode all the same

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, s, h, w)
        return self.features(images)[0]

    def features(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map (B, s, h, w) and class token (B, s), None where there is none, of (B, 3, H, W)."""
        return self.finish(self.frozen_features(images))

    def frozen_features(self, images: Tensor) -> Tensor:
        """What the frozen part alone makes of images; `finish` goes on from there."""
        raise NotImplementedError

    def finish(
        self, frozen: Tensor, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """`features`, from `frozen_features` of images whose map has `grid` (None: `self.grid`)."""
        raise NotImplementedError

    def trained_modules(self) -> list[nn.Module]:
        """The modules that learn, in order of use."""
        raise NotImplementedError

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
        for module in (*self.trained_modules(), *self.moving):
            module.train(mode)
        return self

    def pretrained(self) -> dict[str, Tensor]:
        """Tensors of timm's pretrained network, which it fetches through its hub."""
        return timm.create_model(timm_name(self.name), pretrained=True).state_dict()


class ViTBackbone(Backbone):
    """A plain vision transformer without its head, and its last norm unless `final_norm`.

    Images may have any size that is a multiple of the patch.

    Patch embedding, tokens and the first blocks are frozen and run without a graph, unless all
    blocks train, or the tokens do (`train_tokens`).
    """

    def __init__(
        self,
        name: str,
        network: VisionTransformer | Eva,
        image_size: tuple[int, int],
        trained_blocks: TrainedBlocks,
        train_tokens: bool,
        final_norm: bool = False,
    ) -> None:
        super().__init__()
        whole = network.state_dict().keys()
        network.reset_classifier(0, "")  # pooling by attention has weights too
        if final_norm and isinstance(network.norm, nn.Identity):
            raise ValueError(f"{name} has no last norm: final_norm must be False")
        network.norm = network.norm if final_norm else nn.Identity()
        network.fc_norm = nn.Identity()
        network.patch_embed.strict_img_size = False
        self.name, self.trunk, self.trained_blocks = name, network, trained_blocks
        self.cut_keys = frozenset(whole - network.state_dict().keys())
        self.num_blocks = len(network.blocks)
        self.out_channels = network.embed_dim
        self.patch_size: tuple[int, int] = network.patch_embed.patch_size
        self.size_step = math.lcm(*self.patch_size)
        self.grid = self.grid_of(image_size)
        self.has_token = network.cls_token is not None
        self.has_prefix = trained_blocks != "all" and not train_tokens
        self.freeze()
        for token in (network.cls_token, network.reg_token, network.pos_embed):
            if train_tokens and token is not None:
                token.requires_grad_(True)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.finish(self.frozen_features(images), self.grid_of(images.shape[-2:]))

    def frozen_features(self, images: Tensor) -> Tensor:
        """All tokens as the first trained block finds them: (B, prefix + h*w, s)."""
        grid = self.grid_of(images.shape[-2:])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.has_prefix):
            return self.run_blocks(self.embed(images, grid), slice(0, self.first_trained), grid)

    def finish(
        self, frozen: Tensor, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        grid = grid or self.grid
        x = self.last_tokens(frozen, grid)
        return self.as_map(x, grid), x[:, 0] if self.has_token else None

    def tokens(self, images: Tensor) -> Tensor:
        """All tokens of the last block, class and registers first: (B, prefix + h*w, s)."""
        return self.last_tokens(self.frozen_features(images), self.grid_of(images.shape[-2:]))

    def last_tokens(self, frozen: Tensor, grid: tuple[int, int]) -> Tensor:
        """`tokens`, from `frozen_features` of images whose map has `grid`."""
        blocks = slice(self.first_trained, None)
        return self.trunk.norm(self.run_blocks(frozen, blocks, grid))  # the norm may be cut off

    def embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches behind class token and registers, with positions: (B, prefix + h*w, s)."""
        vit = self.trunk
        x = vit.patch_embed(images)  # (B, h*w, s)
        placed = 0 if vit.no_embed_class else vit.num_prefix_tokens  # prefix tokens with a position
        antialias = vit.reg_token is not None
        positions = resize_positions(vit.pos_embed, grid, placed, antialias=antialias)
        x = self.with_prefix(x) + positions if placed else self.with_prefix(x + positions)
        return vit.norm_pre(vit.patch_drop(vit.pos_drop(x)))

    def with_prefix(self, patches: Tensor) -> Tensor:
        """Class token and registers, as far as there are any, before patches (B, h*w, s)."""
        tokens = [t for t in (self.trunk.cls_token, self.trunk.reg_token) if t is not None]
        return torch.cat([*(t.expand(len(patches), -1, -1) for t in tokens), patches], dim=1)

    def run_blocks(self, tokens: Tensor, which: slice, grid: tuple[int, int]) -> Tensor:
        """The blocks `which` on all tokens, (B, prefix + h*w, s) kept; some look at the grid."""
        return self.trunk.blocks[which](tokens)

    def as_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """The patches among all tokens, (B, prefix + h*w, s), on their grid: (B, s, h, w)."""
        patches = tokens[:, self.trunk.num_prefix_tokens :]  # (B, h*w, s)
        return patches.transpose(1, 2).unflatten(2, grid)

    @property
    def first_trained(self) -> int:
        """Index of the first block that learns; `num_blocks` if none does."""
        return 0 if self.trained_blocks == "all" else self.num_blocks - self.trained_blocks

    def trained_modules(self) -> list[nn.Module]:
        whole = self.trained_blocks == "all"
        norm = [self.trunk.norm] if self.trained_blocks else []
        return [self.trunk] if whole else [*self.trunk.blocks[self.first_trained :], *norm]

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
