"""Vision transformers of DINOv3's kind: each block turns queries and keys by their positions."""

from typing import Any

from torch import Tensor

from dinomix.backbones.names import DINOV3
from dinomix.backbones.vit import ViTBackbone


class RopeViTBackbone(ViTBackbone):
    """A vision transformer with rotary positions (DINOv3), without its last norm and head.

    Positions are computed from the grid in every block, so there is nothing to resize. The models
    named `dinov3_*` compute as Meta's code does: its files keep the periods of the rotation rounded
    to bfloat16. `timm/*` computes as timm does, in float32, which gives slightly other descriptors
    from the same weights.
    """

    def __init__(self, *arguments: Any) -> None:  # ViTBackbone's
        super().__init__(*arguments)
        # timm 1.0.22 makes it on the CPU whatever the default device is.
        rope = self.trunk.rope.to(self.trunk.patch_embed.proj.weight.device)
        if self.name in DINOV3:
            rope.periods.copy_(rope.periods.bfloat16())

    def run_blocks(self, tokens: Tensor, which: slice, grid: tuple[int, int]) -> Tensor:
        rope = self.trunk.rope.get_embed(shape=grid)  # (h*w, 2 * s / heads), sines and cosines
        for block in self.trunk.blocks[which]:
            tokens = block(tokens, rope=rope)
        return tokens

    def embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        patches = self.trunk.patch_embed(images).flatten(1, -2)  # (B, h*w, s)
        return self.trunk.norm_pre(self.trunk.pos_drop(self.with_prefix(patches)))
