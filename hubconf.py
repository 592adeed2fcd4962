"""Models for `torch.hub.load`, from dinomix's repository or from a checkout of it:

```python
model = torch.hub.load("<owner>/dinomix", "dino_mix", pretrained="backbone")
model = torch.hub.load("path/of/a/checkout", "dino_mix_toy", source="local")
```

Each takes normalised images (B, 3, H, W) and gives descriptors (B, D) of unit length.
`model.config` says which images, `dinomix.retrieval.load_images(model, files)` makes them.
"""

dependencies = ["torch", "torchvision", "timm", "safetensors", "huggingface_hub"]


def dino_mix(pretrained=None, **changes):
    """DINO-Mix with the paper's best config, in evaluation mode.

    Args:
        pretrained: None: random weights. "backbone": the backbone's pretrained ones from the hub,
            the aggregator's random. Else a trained model: the path of a file of
            `dinomix.save_model`, a folder of `save_pretrained`, or a repository of `push_to_hub`.
        changes: fields of `dinomix.ModelConfig`, such as `image_size=322`, unless it is trained.
    """
    return _build("dino_mix", pretrained, changes)


def dino_mix_toy(pretrained="backbone", **changes):
    """The small DINO-Mix of the toy city, whose backbone's weights come with it; see `dino_mix`."""
    return _build("dino_mix_toy", pretrained, changes)


def published(path_or_name):
    """A model that its authors published, see `dinomix.load_published`."""
    from dinomix.exchange.published import load_published

    return load_published(path_or_name)


def _build(preset, pretrained, changes):
    from pathlib import Path

    from dinomix.model import PRESETS, ModelConfig, PlaceModel, build_model, load_model

    if pretrained in (None, "backbone"):
        config = ModelConfig.from_dict(PRESETS[preset].to_dict() | changes)
        return build_model(config, "hub" if pretrained else None).eval()
    if changes:
        raise ValueError(f"{pretrained} is trained with a config of its own: leave out {changes}")
    if Path(pretrained).is_file():
        return load_model(pretrained)
    return PlaceModel.from_pretrained(pretrained)
