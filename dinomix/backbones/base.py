"""What all backbones share: a cut network, of which the last part learns."""

from typing import Literal

import timm
from torch import Tensor, nn

from dinomix.backbones.names import timm_name

TrainedBlocks = int | Literal["all"]


class Backbone(nn.Module):
    """A network of timm, cut to a feature map: (B, 3, H, W) -> (B, s, h, w).

    Attributes:
        name, trained_blocks: as given to `build_backbone`.
        trunk: the cut network.
        cut_keys: names of the tensors that the whole network has and `.trunk` has not.
        out_channels: s, channels of the map.
        grid: (h, w), rows and columns of the map for images of the size given to `build_backbone`.
        num_blocks: how many blocks (or stages) `trained_blocks` chooses from.
        has_token: whether there is a class token.
        has_prefix: whether `frozen_features` does the frozen blocks' work, once for all.
    """

    name: str
    trained_blocks: TrainedBlocks
    trunk: nn.Module
    cut_keys: frozenset[str]
    out_channels: int
    grid: tuple[int, int]
    num_blocks: int
    has_token: bool = False
    has_prefix: bool = False

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
        for module in self.trained_modules():
            module.train(mode)
        return self

    def pretrained(self) -> dict[str, Tensor]:
        """Tensors of timm's pretrained network, which it fetches through its hub."""
        return timm.create_model(timm_name(self.name), pretrained=True).state_dict()
