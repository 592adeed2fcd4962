"""Where a model looks: heat maps of its descriptors, matches of patches, heat by class of pixel.

Notebooks write `attention.match_attention` and the like; a click on a patch is `attention.patches`.
"""

from dinomix.attention.heatmaps import (
    energy_attention,
    match_attention,
    overlay,
    rollout,
    upsample,
)
from dinomix.attention.shares import class_shares, share_change

__all__ = [
    "class_shares",
    "energy_attention",
    "match_attention",
    "overlay",
    "rollout",
    "share_change",
    "upsample",
]
