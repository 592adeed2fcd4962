"""Line-ups: which methods are compared, and what each one is, in words of `studies.variants`.

A notebook names a line-up and the methods of it that it shows, so that all notebooks mean the same
model by the same name, and share its runs.
"""

from collections.abc import Iterable, Mapping
from typing import Any

# The stand-in CNN, cut where MixVPR cuts its ResNet, and trained as much: in its last stage.
_CNN = {"backbone": "toy_resnet", "stage": 3, "trained_blocks": 1}

LINEUPS: dict[str, dict[str, dict[str, Any]]] = {
    # On the toy city: 512 entries where an aggregator leaves the choice. "ViT" marks the field's
    # aggregators on DINO-Mix's own backbone; without it, they stand on a CNN.
    "toy": {
        "DINO-Mix": {},
        "SALAD": {
            "aggregator": "salad",
            "aggregator_options": {
                "clusters": 16,
                "cluster_dim": 24,
                "token_dim": 128,
                "hidden": 64,
            },
        },
        "BoQ": {
            "aggregator": "boq",
            "aggregator_options": {"channels": 32, "queries": 16, "row_dim": 16},
        },
        "NetVLAD, ViT": {"aggregator": "netvlad", "aggregator_options": {"clusters": 8}},
        "Conv-AP, ViT": {"aggregator": "convap", "out_channels": 128},
        "CosPlace, ViT": {"aggregator": "cosplace", "out_channels": 512},
        "GeM, ViT": {"aggregator": "gem"},
        "GeM, ViT, frozen": {"aggregator": "gem", "trained_blocks": 0, "train": False},
        "MixVPR": {**_CNN, "mix_depth": 4},
        "NetVLAD": {**_CNN, "aggregator": "netvlad", "aggregator_options": {"clusters": 4}},
        "Conv-AP": {**_CNN, "aggregator": "convap", "out_channels": 128},
        "CosPlace": {**_CNN, "aggregator": "cosplace", "out_channels": 512},
        "GeM": {**_CNN, "aggregator": "gem"},
        "GeM, frozen": {**_CNN, "aggregator": "gem", "trained_blocks": 0, "train": False},
    },
    # As the papers have them; see `model.PRESETS` for where each default comes from.
    "paper": {
        "DINO-Mix": {},
        "SALAD": {"preset": "salad"},
        "BoQ": {"preset": "boq"},
        "NetVLAD, ViT": {"preset": "netvlad_dinov2"},
        "Conv-AP, ViT": {"preset": "convap_dinov2"},
        "CosPlace, ViT": {"preset": "cosplace_dinov2"},
        "GeM, ViT": {"preset": "gem_dinov2"},
        "GeM, ViT, frozen": {"preset": "gem_dinov2", "trained_blocks": 0, "train": False},
        "MixVPR": {"preset": "mixvpr_resnet50"},
        "NetVLAD": {"preset": "netvlad_resnet50"},
        "Conv-AP": {"preset": "convap_resnet50"},
        "CosPlace": {"preset": "cosplace_resnet50"},
        "GeM": {"preset": "gem_resnet50"},
        "GeM, frozen": {"preset": "gem_resnet50", "trained_blocks": 0, "train": False},
    },
}


def lineup(name: str, methods: Iterable[str] | None = None) -> Mapping[str, Mapping[str, Any]]:
    """The methods of a line-up, in the order asked for; None means all of them.

    Raises:
        ValueError: there is no such line-up, or it has no such method.
    """
    if name not in LINEUPS:
        raise ValueError(f"no line-up {name!r}; there are {', '.join(LINEUPS)}")
    every = LINEUPS[name]
    methods = list(every if methods is None else methods)
    unknown = [method for method in methods if method not in every]
    if unknown:
        raise ValueError(f"line-up {name!r} has no methods {unknown}; it has {list(every)}")
    return {method: every[method] for method in methods}
