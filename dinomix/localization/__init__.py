"""Own photos: where a picture was taken, by the database photos that it looks like.

What reads positions, keeps descriptors, votes on a place and shows what was found belongs here.
"""

from dinomix.localization.calibration import Calibration, calibrate
from dinomix.localization.gallery import write_gallery
from dinomix.localization.index import PhotoIndex
from dinomix.localization.localizing import Localization, estimate_position, localize
from dinomix.localization.maps import write_map
from dinomix.localization.photos import Position, find_photos, read_position
from dinomix.localization.untrained import stand_in, what_a_backbone_knows, zero_shot

__all__ = [
    "Calibration",
    "Localization",
    "PhotoIndex",
    "Position",
    "calibrate",
    "estimate_position",
    "find_photos",
    "localize",
    "read_position",
    "stand_in",
    "what_a_backbone_knows",
    "write_gallery",
    "write_map",
    "zero_shot",
]
