"""The stages of a CNN, and of other networks that are no plain transformers."""

import pytest
import timm
import torch

from dinomix.backbones import MapBackbone, build_backbone
from tests.backbones.slowly import saved_bytes


@pytest.mark.parametrize(
    ("stage", "shape"),
    [(None, (512, 2, 3)), (3, (256, 4, 6)), (1, (64, 16, 23)), (0, (64, 32, 45))],
)
def test_cnn_stages(stage, shape):
    backbone = build_backbone(
        "timm/resnet18", image_size=(64, 90), stage=stage, trained_blocks=0
    ).eval()
    assert (backbone.out_channels, *backbone.grid) == shape
    reference = timm.create_model("resnet18", features_only=True).eval()
    reference.load_state_dict(backbone.trunk.state_dict(), strict=False)
    images = torch.randn(2, 3, 64, 90)
    with torch.no_grad():
        torch.testing.assert_close(
            backbone(images), reference(images)[4 if stage is None else stage]
        )


def test_lite0_at_stride_16_has_no_later_stage():
    backbone = build_backbone(
        "timm/tf_efficientnet_lite0", image_size=64, stage=3, trained_blocks=0
    )
    assert (backbone.out_channels, backbone.grid) == (112, (4, 4))
    prefixes = {".".join(key.split(".")[:2]) for key in backbone.trunk.state_dict()}
    assert prefixes == {f"blocks.{i}" for i in range(5)} | {
        f"{part}.{tensor}"
        for part in ("conv_stem", "bn1")
        for tensor in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        if part == "bn1" or tensor == "weight"
    }


@pytest.mark.parametrize(
    ("name", "stage", "trained_blocks", "expected"),
    [
        ("timm/resnet18", None, 2, {"layer3", "layer4"}),
        ("timm/resnet18", 3, 1, {"layer3"}),
        ("timm/resnet18", 3, 0, set()),
        ("timm/tf_efficientnet_lite0", 3, 1, {"blocks.3", "blocks.4"}),
        ("timm/tf_efficientnet_lite0", 4, 1, {"blocks.5", "blocks.6"}),
        ("timm/convnext_atto", None, 3, {"stages.1", "stages.2", "stages.3"}),
    ],
)
def test_trained_stages_of_a_cnn(name, stage, trained_blocks, expected):
    backbone = build_backbone(name, image_size=64, stage=stage, trained_blocks=trained_blocks)
    parts = 1 if "resnet" in name else 2
    learning = {
        ".".join(key.split(".")[:parts])
        for key, p in backbone.trunk.named_parameters()
        if p.requires_grad
    }
    assert learning == expected
    assert backbone(torch.randn(2, 3, 64, 64)).requires_grad == bool(expected)


def test_frozen_stages_keep_their_statistics_and_no_activations():
    images = torch.randn(2, 3, 64, 64)
    kept = []
    for count in (0, 1, 2, "all"):
        backbone = build_backbone("timm/resnet18", image_size=64, trained_blocks=count).train()
        before = {key: t.clone() for key, t in backbone.trunk.named_buffers()}
        kept.append(saved_bytes(backbone, images))
        moved = {
            key.split(".")[0]
            for key, t in backbone.trunk.named_buffers()
            if not torch.equal(t, before[key])
        }
        stages = ["bn1", "layer1", "layer2", "layer3", "layer4"]
        assert moved == set(stages if count == "all" else stages[len(stages) - count :])
    assert kept[0] == 0 < kept[1] < kept[2] < kept[3]
    assert kept[3] > 3 * kept[2]  # early stages, of large maps, weigh most


@pytest.mark.parametrize("trained_blocks", [0, 1, "all"])
def test_moving_statistics_are_those_of_a_network_in_training(trained_blocks):
    """In the authors' code, the whole ResNet is in training mode, whatever of it learns."""
    backbone = build_backbone(
        "timm/resnet18", image_size=64, trained_blocks=trained_blocks, moving_statistics=True
    ).train()
    reference = timm.create_model("resnet18").train()
    reference.load_state_dict(backbone.trunk.state_dict(), strict=False)
    images = torch.randn(4, 3, 64, 64)
    torch.testing.assert_close(backbone(images), reference.forward_features(images))
    stem = backbone.trunk.conv1(images)  # (B, 64, 32, 32)
    for channel in range(3):  # from 0, by torch's momentum of 0.1
        moved = float(backbone.trunk.bn1.running_mean[channel])
        assert moved == pytest.approx(0.1 * stem[:, channel].mean().item(), rel=1e-4, abs=1e-7)
    expected = dict(reference.named_buffers())
    for key, found in backbone.trunk.named_buffers():
        torch.testing.assert_close(found, expected[key])
    before = {key: buffer.clone() for key, buffer in backbone.eval().trunk.named_buffers()}
    assert not backbone.has_prefix
    backbone(images)
    assert all(torch.equal(t, before[key]) for key, t in backbone.trunk.named_buffers())


def test_moving_statistics_wake_no_frozen_layer():
    kept = []
    for moving in (False, True):
        backbone = build_backbone(
            "timm/resnet18", image_size=64, trained_blocks=1, moving_statistics=moving
        )
        learning = {
            k.split(".")[0] for k, p in backbone.trunk.named_parameters() if p.requires_grad
        }
        assert learning == {"layer4"}
        kept.append(saved_bytes(backbone.train(), torch.randn(2, 3, 64, 64)))
    assert kept[0] == kept[1] > 0


@pytest.mark.parametrize(("name", "trained"), [("vgg16", 1), ("vgg11_bn", 0), ("vgg11_bn", "all")])
def test_vgg_is_cut_before_its_last_relu_and_pool(name, trained):
    backbone = build_backbone(f"timm/{name}", image_size=(64, 96), trained_blocks=trained).eval()
    assert (backbone.out_channels, *backbone.grid) == (512, 4, 6)  # stride 16
    whole = timm.create_model(name).eval()
    whole.load_state_dict(backbone.trunk.state_dict(), strict=False)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = images
        for layer in list(whole.features.children())[:-2]:
            expected = layer(expected)
        torch.testing.assert_close(backbone(images), expected)
    assert expected.min() < 0
    learning = {k for k, p in backbone.trunk.named_parameters() if p.requires_grad}
    if name == "vgg16":  # the three convolutions behind the fourth pool
        assert learning == {f"features.{i}.{t}" for i in (24, 26, 28) for t in ("weight", "bias")}


def test_a_network_of_fixed_size_is_built_for_the_image_size():
    backbone = build_backbone(
        "timm/swin_tiny_patch4_window7_224", image_size=(64, 128), trained_blocks=1
    )
    assert isinstance(backbone, MapBackbone)
    assert (backbone.out_channels, backbone.grid) == (768, (2, 4))
    assert {m.training for m in backbone.trunk.layers[3].modules()} == {True}
    assert {m.training for m in backbone.trunk.layers[2].modules()} == {False}


@pytest.mark.parametrize(("stage", "shape"), [(3, (128, 7, 7)), (None, (192, 4, 4))])
def test_toy_resnet(stage, shape):
    backbone = build_backbone("toy_resnet", image_size=112, stage=stage, trained_blocks=2).eval()
    assert (backbone.out_channels, *backbone.grid) == shape
    learning = {key.split(".")[1] for key, p in backbone.named_parameters() if p.requires_grad}
    assert learning == ({"layer2", "layer3"} if stage else {"layer3", "layer4"})
    cut = {key.split(".")[0] for key in backbone.cut_keys}
    assert cut == ({"layer4", "fc"} if stage else {"fc"})


def test_toy_resnet_is_a_thinner_resnet18():
    """The same tensors but for the deep stem, which has three convolutions for one of 7 x 7."""
    thin = build_backbone("toy_resnet", image_size=112).trunk.state_dict()
    whole = build_backbone("timm/resnet18", image_size=112).trunk.state_dict()
    assert {k for k in thin if k[:5] != "conv1"} == {k for k in whole if k[:5] != "conv1"}
    halves = {thin[f"layer{i}.0.conv1.weight"].shape[0] * 2 for i in (1, 2, 3)}
    assert halves == {whole[f"layer{i}.0.conv1.weight"].shape[0] for i in (1, 2, 3)}
    assert sum(tensor.numel() for tensor in thin.values()) < 2e6


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("timm/resnet18", {"stage": 5}, "stage .* must be 0 to 4, not 5"),
        ("timm/resnet18", {"stage": 2, "trained_blocks": 3}, "trained_blocks .* must be 0 to 2"),
        ("toy_vits14", {"stage": 3}, "toy_vits14 has no stages"),
        ("timm/resnet18", {"train_tokens": True}, "train_tokens is for plain transformers"),
        ("timm/resnet18", {"final_norm": True}, "final_norm is for plain transformers"),
        ("timm/vgg11", {"moving_statistics": True}, "for BatchNorms, and timm/vgg11 has none"),
        ("toy_vits14", {"moving_statistics": True}, "for BatchNorms, and toy_vits14 has none"),
        ("timm/resnet18", {"stage": "conv"}, "stage .* must be 0 to 4, not 'conv'"),
        ("timm/convnext_atto", {"image_size": (16, 24)}, "cannot take images of 16x24"),
    ],
)
def test_errors_of_stages_and_sizes(name, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        build_backbone(name, **options)


def test_a_network_that_does_not_part_into_stages_is_refused():
    """HRNet's branches run side by side; releases of timm differ in how far they get with it."""
    said = "hrnet_w18_small.*(gives no feature map|has no separate stages)"
    with pytest.raises(ValueError, match=said):
        build_backbone("timm/hrnet_w18_small", image_size=64)


def test_images_that_ask_for_gradients_do_not_wake_frozen_layers():
    images = torch.randn(1, 3, 56, 56, requires_grad=True)
    frozen = build_backbone("timm/resnet18", image_size=56, trained_blocks=0)
    assert not frozen(images).requires_grad
