"""AmsterTime (Yildiz et al., ICPR 2022) and SPED in VPR-Bench (Zaffar et al., IJCV 2021).

The downloads: `new/0000.png` (street views, the database) and `old/0000.jpg` (archive photos, the
queries); `ref/0000000.jpg` and `query/0000000.jpg`. A pair has one number. VPR-Bench's
`ground_truth_new.npy` is not read: it is a pickle, which could hold any program.
"""

from pathlib import Path

from dinomix.datasets.prepare.planning import LAYOUTS, Plan, find_images, utm_image


def plan(name: str, raw: Path) -> Plan:
    """Pair i lies at east = 0, north = i km, as in the field's formatter: no position is known."""
    layout = LAYOUTS["pairs"][name]
    inner, hint, planned = layout["inner"], layout["hint"], Plan([])
    planned.notes += filter(None, [layout.get("note")])
    sides = {
        side: find_images(raw, [layout[side], f"{inner}/{layout[side]}"], hint)
        for side in ("database", "queries")
    }
    stems = sorted(set().union(*(names for _, names in sides.values())))
    if odd := next((stem for stem in stems if not stem.isdecimal()), ""):
        raise ValueError(f"{raw}: the image {odd!r} has no number, expected such as 0042. {hint}")
    for side, (folder, names) in sides.items():
        for stem in stems:
            source = folder / names.get(stem, f"{stem}.jpg")
            image = utm_image(f"test/{side}", source, 0, 1000 * int(stem), pano_id=stem)
            planned.images.append(image)
    return planned
