"""Which backbones there are, what timm calls them, and how their images are normalised."""

import difflib

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

DINOV2 = {
    f"dinov2_vit{size[0]}14{suffix}": f"vit_{size}_patch14_{registers}dinov2"
    for suffix, registers in (("", ""), ("_reg", "reg4_"))
    for size in ("small", "base", "large", "giant")
}
# Siméoni et al. 2025; timm has them since 1.0.20.
DINOV3 = {
    "dinov3_vits16": "vit_small_patch16_dinov3",
    "dinov3_vits16plus": "vit_small_plus_patch16_dinov3",
    "dinov3_vitb16": "vit_base_patch16_dinov3",
    "dinov3_vitl16": "vit_large_patch16_dinov3",
    "dinov3_vith16plus": "vit_huge_plus_patch16_dinov3",
    "dinov3_vit7b16": "vit_7b_patch16_dinov3",
}
# DINOv2's architecture, small enough to pre-train on the toy city: 12 blocks, an 8 x 8 grid.
_TOY_VIT = {"img_size": 112, "patch_size": 14, "num_classes": 0, "init_values": 1e-5}
TOY_VITS = {
    "toy_vits14": {**_TOY_VIT, "embed_dim": 96, "num_heads": 3},
    "toy_vitb14": {**_TOY_VIT, "embed_dim": 192, "num_heads": 6},
}
# The counterpart of the baselines' ResNets: timm's resnet18 with less than half of the channels.
TOY_RESNETS = {"toy_resnet": "resnet18"}
OPTIONS = {  # of `timm.create_model`
    "toy_resnet": {"channels": (32, 64, 128, 192), "stem_type": "deep", "stem_width": 16}
}
TOY = (*TOY_VITS, *TOY_RESNETS)


def timm_name(name: str) -> str:
    """What timm calls the backbone `name`, or the network that it is a thinner one of."""
    return (DINOV2 | DINOV3 | TOY_RESNETS).get(name) or name.removeprefix("timm/")


def is_vgg(name: str) -> bool:
    """Whether the backbone is one of timm's VGGs, which are cut inside their last stage."""
    return timm_name(name).startswith("vgg")


def check_name(name: str) -> None:
    """Raise ValueError, with the closest names, unless `name` is a backbone we can build."""
    listed = [*DINOV2, *DINOV3, *TOY]
    if name in listed or (name.startswith("timm/") and _is_in_timm(timm_name(name))):
        return
    every = listed + [f"timm/{model}" for model in timm.list_models()]
    close = difflib.get_close_matches(name, every, n=3)
    close = close or difflib.get_close_matches(f"timm/{name}", every, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise ValueError(
        f"unknown backbone {name!r}: {hint}Backbones are {', '.join(listed)} and timm/<model> "
        "for each model in timm.list_models()"
    )


def _is_in_timm(name: str) -> bool:
    """Whether timm has this model, and weights of this tag where one stands behind a dot."""
    try:
        return timm.is_model(name) and (
            "." not in name or bool(timm.get_pretrained_cfg(name, allow_unregistered=False))
        )
    except RuntimeError:
        return False


def normalization(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of the images (in 0..1) that `name` expects."""
    check_name(name)
    if not name.startswith("timm/"):
        return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    config = timm.get_pretrained_cfg(timm_name(name), allow_unregistered=False)
    return tuple(config.mean), tuple(config.std)
