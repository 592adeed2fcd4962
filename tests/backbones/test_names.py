"""Names of backbones, sizes of images, and how images are normalised."""

import pytest
import timm

from dinomix.backbones import DINOV2, DINOV3, build_backbone, normalization
from dinomix.images import as_size


def test_normalization():
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    own = ("dinov2_vitb14", "toy_vits14", "toy_resnet", *DINOV3)
    theirs = [f"timm/{name}" for name in DINOV3.values()]
    assert all(normalization(name) == imagenet for name in (*own, *theirs))
    half = (0.5, 0.5, 0.5)
    assert normalization("timm/tf_efficientnet_lite0") == (half, half)
    satellites = normalization("timm/vit_large_patch16_dinov3.sat493m")
    assert satellites == ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))


def test_names_are_timms():
    assert set(DINOV2) >= {f"dinov2_vit{size}14" for size in "sblg"}
    assert all(timm.is_model(name) for name in (DINOV2 | DINOV3).values())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dinov2_vitb", "dinov2_vitb14"),
        ("timm/resnet5", "timm/resnet50"),
        ("resnet50", "timm/resnet50"),
        ("dinov3_vitb14", "did you mean dinov3_vitb16"),
        ("???", "Backbones are dinov2_vits14"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(name, hint):
    for named in (build_backbone, normalization):
        with pytest.raises(ValueError, match="unknown backbone") as error:
            named(name)
        assert repr(name) in str(error.value) and hint in str(error.value)


@pytest.mark.parametrize("size", ["224", 0, -14, 224.0, (224,), (224, 0), (14, "14"), True, None])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match="image_size must be"):
        as_size(size)
