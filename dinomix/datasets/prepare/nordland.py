"""Nordland (Sünderhauf et al., 2013): one railway line, filmed in every season, frame by frame.

The download: the frames of summer and winter at one a second, `summer/images-00000.png` and so
on, and the clean list of 27,592 of them, without tunnels and stops
(`nordland_imageNames.txt`, also spread as `cleanImageNames.txt`).
"""

import re
from collections import Counter
from pathlib import Path, PureWindowsPath

from dinomix.datasets.prepare import planning
from dinomix.datasets.prepare.planning import LAYOUTS, Plan
from dinomix.plumbing.errors import first_of

FRAMES = 27_592
SPACING = 25 / 10.5  # metres a frame: ten frames away is within 25 m, eleven are not
SIDES = {"database": "summer", "queries": "winter"}
LAYOUT = LAYOUTS["nordland"]


def plan(raw: Path) -> Plan:
    """Summer as database, winter as queries; frame i lies at east = i * 25/10.5 m, north = 0.

    Frames count from 0 in the list's order, or without a list in the order of their numbers; the
    note field has the frame, the pano_id field the original name.
    """
    seasons = {
        side: planning.find_images(
            raw, [season, f"{season}/{season}", f"data/{season}"], LAYOUT["hint"]
        )
        for side, season in SIDES.items()
    }
    path = next((raw / name for name in LAYOUT["lists"] if (raw / name).is_file()), None)
    if path is not None:
        listed = planning.read_lines(path)
        planning.refuse_outside_paths(listed, path)
        stems = [PureWindowsPath(name).stem for name in listed]
        if double := [stem for stem, count in Counter(stems).items() if count > 1]:
            raise ValueError(f"{path} lists {len(double):,} frames twice: {first_of(double)}")
        origin = f"{path.name} lists {len(stems):,} frames"
    else:
        stems = sorted(set().union(*(frames for _, frames in seasons.values())), key=_number)
        origin = (
            f"there is no clean list ({LAYOUT['lists'][0]}), so all {len(stems):,} frames are used"
        )
    planned = Plan([])
    if len(stems) != FRAMES:
        planned.notes.append(f"{origin}; results do not compare with those on the clean {FRAMES:,}")
    for side, (folder, frames) in seasons.items():
        for frame, stem in enumerate(stems):
            source = folder / frames.get(stem, f"{stem}.png")
            where = {"east": frame * SPACING, "north": 0.0, "note": f"{frame:05d}"}
            planned.images.append(planning.utm_image(f"test/{side}", source, pano_id=stem, **where))
    return planned


def _number(stem: str) -> tuple[int, str]:
    digits = re.search(r"\d+$", stem)
    return (int(digits[0]) if digits else -1), stem
