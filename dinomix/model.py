"""The model: a backbone, an aggregator, the config that describes both, and the file of all three.

Images (B, 3, H, W) become descriptors (B, D) of unit length.
"""

import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from dinomix.aggregators import build_aggregator, check_options
from dinomix.backbones import TOY, build_backbone, check_name, normalization
from dinomix.backbones.names import is_vgg, timm_name
from dinomix.images import NATIVE, Size, as_size, size_text
from dinomix.plumbing import __version__
from dinomix.plumbing.configs import Config, strict_dataclass
from dinomix.plumbing.files import atomic_path
from dinomix.plumbing.hub import HubMixin
from dinomix.plumbing.summary import as_html, as_text, count_parameters, facts
from dinomix.plumbing.tensorfiles import read_safetensors, read_tensors, without_prefix
from dinomix.weights import check_tensors, load_backbone_weights

# Far more than any paper uses, and little enough that a stranger's config can neither fill the
# memory nor keep a processor busy for hours.
MOST_PIXELS = 4096  # a side
MOST = {"layers": 128, "iterations": 1000}  # of these options of aggregators, and of all others:
MOST_OTHERS = 65_536  # channels, clusters and the like
MOST_ENTRIES = 2**20  # of a descriptor
LATER = {"final_norm": False, "moving_statistics": False}  # fields that older models do not have
LONGEST = 10_000  # characters of a config in a file's header

Count = Annotated[int, Field(ge=1, le=MOST_OTHERS)]


@strict_dataclass
class ModelConfig(Config):
    """Everything that decides a model but its weights. The defaults are the paper's best.

    Args:
        backbone: see `backbones.build_backbone`.
        trained_blocks: how many of its last blocks learn, or "all".
        train_tokens: class token and positional embedding learn too (the authors' code).
        aggregator: a name in `aggregators.AGGREGATORS`.
        mix_depth: L, of "mix".
        out_channels: d, of "mix", "convap" and "cosplace".
        out_rows: r, of "mix", whose descriptor has d * r entries.
        image_size: pixels, a side or (height, width); a multiple of the backbone's patch.
        stage: of a CNN, the stage that gives the map; None: the last, but a VGG's before its last
            ReLU and pool, which is "conv" in files.
        final_norm: keep the last norm of a transformer (SALAD, CliqueMining, MegaLoc).
        moving_statistics: in training, BatchNorms of frozen stages go by the batch, and their
            statistics move, as in the ResNets of most authors; here they stay as loaded.
        aggregator_options: the other arguments of the aggregator's constructor, such as
            {"clusters": 64}; kept as sorted pairs, so that configs can be compared and hashed.

    Raises:
        ValueError: a field has the wrong type or is out of its range, as far as that does not
            depend on the backbone: `build_model` checks the rest.
    """

    backbone: str = "dinov2_vitb14"
    trained_blocks: Annotated[int, Field(ge=0, le=MOST_OTHERS)] | Literal["all"] = 3
    train_tokens: bool = False
    aggregator: str = "mix"
    mix_depth: Annotated[int, Field(ge=0, le=128)] = 2
    out_channels: Count = 1024
    out_rows: Count = 4
    image_size: Any = 224
    stage: Annotated[int, Field(ge=0, le=MOST_OTHERS)] | Literal["conv"] | None = None
    aggregator_options: Any = ()
    final_norm: bool = False
    moving_statistics: bool = False

    def __post_init__(self) -> None:
        check_name(self.backbone)
        if self.stage == "conv":
            object.__setattr__(self, "stage", None)
        options = _options(self.aggregator_options)
        check_options(self.aggregator, options)
        for key, value in options.items():
            most = MOST.get(key, MOST_OTHERS)
            if not abs(value) <= most:  # NaN never is
                raise ValueError(f"aggregator_options: {key} must be up to {most:,}, not {value!r}")
        object.__setattr__(self, "aggregator_options", tuple(sorted(options.items())))

        height, width = as_size(self.image_size, native=False)
        if max(height, width) > MOST_PIXELS:
            raise ValueError(f"image_size must be at most {MOST_PIXELS:,}, not {self.image_size!r}")
        # One way to write a square, so that equal configs are equal, and hash to one run.
        object.__setattr__(self, "image_size", height if height == width else (height, width))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return as_size(self.image_size)

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the images, as the backbone expects them."""
        return normalization(self.backbone)

    def to_dict(self) -> dict[str, Any]:
        """The fields as literals for JSON or YAML; `from_dict` is the way back."""
        fields = asdict(self) | {"aggregator_options": dict(self.aggregator_options)}
        if isinstance(self.image_size, tuple):
            fields["image_size"] = list(self.image_size)
        if self.stage is None and is_vgg(self.backbone):
            fields["stage"] = "conv"  # None was the pool behind it: runs and descriptors differ
        return {key: v for key, v in fields.items() if key not in LATER or v != LATER[key]}


def _options(given: Any) -> dict[str, int | float]:
    """Options of an aggregator from a mapping, or from the pairs that a config keeps."""
    try:
        options = {None: None} if isinstance(given, str) else dict(given)
    except (TypeError, ValueError):
        options = {None: None}
    if not ({*map(type, options)} <= {str} and {*map(type, options.values())} <= {int, float}):
        raise ValueError(f"aggregator_options must map names to numbers, not {given!r}")
    return options


# On DINOv2, what is compared with DINO-Mix differs in the aggregator alone: 224 px, three trained
# blocks. Where papers say otherwise, the line says so.
_DINOV2 = ModelConfig()
# On a ResNet as GSV-Cities' benchmark has it: 320 px, ImageNet weights of torchvision, the last
# two stages of the whole network trained. There, statistics of frozen BatchNorms move, too, which
# is moving_statistics=True.
_RESNET50 = ModelConfig(backbone="timm/resnet50.tv_in1k", trained_blocks=2, image_size=320)

PRESETS: dict[str, ModelConfig] = {
    # This paper's best, and the same thing small enough for the toy city and a CPU.
    "dino_mix": _DINOV2,
    # What the authors' code trains with the recipe "authors": "layer1 = 7" freezes blocks 0 to 7.
    "dino_mix_authors": replace(_DINOV2, trained_blocks=4, train_tokens=True),
    "dino_mix_toy": ModelConfig(backbone="toy_vits14", image_size=112, out_channels=128),
    # For a few hundred places of one's own: a frozen backbone, and means over 7 x 7 blocks of its
    # map at first. Chosen on an EfficientNet's 14 x 14 map, see docs/own-data.md.
    "small": replace(_DINOV2, trained_blocks=0, out_channels=128, out_rows=49),
    # Radenovic et al. 2018: the last map, p = 3 at first.
    "gem_resnet50": replace(_RESNET50, aggregator="gem"),
    "gem_dinov2": replace(_DINOV2, aggregator="gem"),
    # Arandjelovic et al. 2016: 64 clusters, there on VGG-16. Stage 3, as in Berton et al.'s
    # benchmark (2022), so that one stage trains; no PCA behind it.
    "netvlad_resnet50": replace(_RESNET50, aggregator="netvlad", stage=3, trained_blocks=1),
    "netvlad_dinov2": replace(_DINOV2, aggregator="netvlad"),
    # Ali-bey et al. 2022: 512 channels in 2 x 2 cells, the authors' code's defaults.
    "convap_resnet50": replace(_RESNET50, aggregator="convap", out_channels=512),
    "convap_dinov2": replace(_DINOV2, aggregator="convap", out_channels=512),
    # Berton et al. 2022: the longest of the authors' ResNet-50 descriptors. They train with a loss
    # of their own, at 512 px. On DINOv2 we keep the width: more entries would hold no more.
    "cosplace_resnet50": replace(_RESNET50, aggregator="cosplace", out_channels=2048),
    "cosplace_dinov2": replace(_DINOV2, aggregator="cosplace", out_channels=768),
    # Ali-bey et al. 2023, MixVPR: four layers of the same mixer on the map of stage 3.
    "mixvpr_resnet50": replace(_RESNET50, stage=3, trained_blocks=1, mix_depth=4),
    # Izquierdo & Civera 2024: four trained blocks and DINOv2's last norm, 224 px in training.
    "salad": replace(_DINOV2, aggregator="salad", trained_blocks=4, final_norm=True),
    # Ali-bey et al. 2024: in their release the last two blocks or stages train, at 224 and 320 px.
    "boq_resnet50": replace(_RESNET50, aggregator="boq", stage=3),
    "boq": replace(
        _DINOV2, aggregator="boq", trained_blocks=2, aggregator_options={"channels": 384}
    ),
}

# Pixels at which papers test what they train at its preset's image_size, where that differs.
TEST_SIZES: dict[str, int | tuple[int, int]] = {
    **{"salad": 322, "boq": 322, "boq_resnet50": 384},
    **{"cosplace_resnet50": (480, 640), "netvlad_resnet50": (480, 640)},
}


class PlaceModel(nn.Module, HubMixin):
    """Backbone and aggregator: normalised images (B, 3, H, W) -> descriptors (B, dim), unit length.

    `backbones.normalization(config.backbone)` gives the images' mean and standard deviation.

    Raises:
        ValueError: of forward: the tensor is no batch of RGB images, or of a size that the
            backbone or the aggregator cannot take.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        check_own(config)
        self.config = config
        self.backbone = build_backbone(
            config.backbone,
            image_size=config.size,
            trained_blocks=config.trained_blocks,
            train_tokens=config.train_tokens,
            stage=config.stage,
            final_norm=config.final_norm,
            moving_statistics=config.moving_statistics,
        )
        self.size_step = self.backbone.size_step  # pixels: sides of images are multiples of it
        self.aggregator = build_aggregator(
            config.aggregator,
            self.backbone.out_channels,
            self.backbone.grid,
            mix_depth=config.mix_depth,
            out_channels=config.out_channels,
            out_rows=config.out_rows,
            **dict(config.aggregator_options),
        )
        if self.aggregator.takes_token and not self.backbone.has_token:
            raise ValueError(
                f"{config.aggregator} needs a class token, and {config.backbone} has none: "
                "choose a vision transformer"
            )
        if self.dim > MOST_ENTRIES:
            raise ValueError(
                f"descriptors of {config.aggregator} would have {self.dim:,} entries, and at most "
                f"{MOST_ENTRIES:,} are taken: choose fewer channels, rows or clusters"
            )

    @property
    def dim(self) -> int:
        """D, the descriptor's length."""
        return self.aggregator.dim

    @property
    def version(self) -> int:
        """Of the formulas that the weights go into."""
        return self.aggregator.version

    def size_for(self, image_size: Any = None) -> Size:
        """The size to describe images at: `image_size`, if the weights allow it, or the config's.

        Raises:
            ValueError: they fit one grid of maps, or the backbone does not take such sides.
        """
        own = self.config.size
        size = own if image_size is None else as_size(image_size)
        takes_grid = "grid" in inspect.signature(type(self.aggregator)).parameters
        if size != own and (takes_grid or self.backbone.fixed_size):
            raise ValueError(
                f"the weights of {self.config.aggregator} on {self.config.backbone} fit images of "
                f"{size_text(own)} only, not {size_text(size)}: train a model at that size"
            )
        if size != NATIVE and self.size_step > 1:
            self.backbone.grid_of(size)
        return size

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, H, W)
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (B, 3, H, W), not {tuple(images.shape)}")
        return self._aggregate(*self.backbone.features(images))

    def finish(self, frozen: Tensor) -> Tensor:
        """Descriptors (B, dim) from `backbone.frozen_features` of images of `config.size`."""
        return self._aggregate(*self.backbone.finish(frozen))

    def _aggregate(self, maps: Tensor, token: Tensor | None) -> Tensor:  # (B, s, h, w), (B, s)
        inputs = (maps, token) if self.aggregator.takes_token else (maps,)
        return self.aggregator(*inputs)

    def __repr__(self) -> str:
        config, (height, width) = self.config, self.config.size
        total, trained = count_parameters(self)
        return (
            f"PlaceModel({config.backbone} + {config.aggregator}: {height}x{width} px -> "
            f"{self.dim} entries; trains {config.trained_blocks} of {self.backbone.num_blocks} "
            f"blocks, {trained:,} of {total:,} parameters)"
        )

    def __str__(self) -> str:  # print(model); the modules themselves: print(model.backbone)
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    # What HubMixin asks for.

    def save(self, path: str | Path) -> Path:
        """See `save_model`."""
        return save_model(self, path)

    @staticmethod
    def load(path: str | Path) -> "PlaceModel":
        """See `load_model`."""
        return load_model(path)

    def card_facts(self) -> dict[str, Any]:
        """What the model card says of this model; a licence of None is not known."""
        name = self.config.backbone
        licence = "mit" if name in TOY else timm.get_pretrained_cfg(timm_name(name)).license
        return {"licence": licence, "input": expected_input(self.config), "facts": facts(self)}


def expected_input(config: ModelConfig) -> dict[str, Any]:
    """How an image becomes what the model takes, in literals for people and other programs."""
    mean, std = config.normalization
    return {
        "shape": ["batch", 3, *config.size],
        "resize": "the whole image to (height, width), bilinear, antialiased, aspect not kept",
        "channels": "RGB",
        "range": "0 to 1, then (x - mean) / std",
        "mean": list(mean),
        "std": list(std),
    }


def check_own(config: Any) -> None:
    """Raise ValueError unless it is the config of a model that dinomix builds."""
    if not isinstance(config, ModelConfig):
        raise ValueError(
            f"config must be a ModelConfig (see ModelConfig.from_dict), not {config!r}: only "
            "models that dinomix builds can be trained, saved, exported or measured"
        )


def build_model(config: ModelConfig, weights: str | Path | None = None) -> PlaceModel:
    """The model that `config` describes, with `weights.load_backbone_weights(backbone, weights)`.

    Raises:
        ValueError: for an option that the backbone does not have, or weights that do not fit it.
        FileNotFoundError: if `weights` names no file.
    """
    model = PlaceModel(config)
    load_backbone_weights(model.backbone, weights)
    return model


def outline(config: ModelConfig) -> PlaceModel:
    """The model on the device "meta": names and shapes, but no numbers. Errors as `build_model`."""
    with torch.device("meta"):
        return PlaceModel(config)


def save_model(model: PlaceModel, path: str | Path) -> Path:
    """Write tensors and config as one .safetensors file, at once or not at all; return its path."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"a model is saved as .safetensors, not as {path}")
    header = file_header(model.config)
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=header)
    return path


def file_header(config: ModelConfig) -> dict[str, str]:
    """What a file of a model says about it beside the tensors, as text by name."""
    check_own(config)
    return {"dinomix_config": json.dumps(config.to_dict()), "dinomix_version": __version__}


def load_model(path: str | Path, config: ModelConfig | None = None) -> PlaceModel:
    """The model saved at `path`, on the CPU, in evaluation mode.

    Args:
        config: of a file that has none in it, such as a PyTorch file of `model.state_dict()`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, does not fit the config, or has none where none is given.
    """
    named_so = Path(path).suffix == ".safetensors"
    tensors, header = read_safetensors(path) if named_so else (read_tensors(path), {})
    if config is None and "dinomix_config" not in header:
        raise ValueError(
            f"{path} carries no dinomix config. Tensors of a dinomix model alone are read by "
            "load_model(path, config), other authors' models by load_published(path), a backbone "
            "by build_model(config, weights=path)"
        )
    source = f"{path}, written by dinomix {header.get('dinomix_version', '(unknown version)')},"
    try:
        config = config or _config_in(header)
        expected = outline(config).state_dict()
    except Exception as error:  # one that asks for what no network has can raise almost anything
        raise ValueError(f"{source} has a config that cannot be used here: {error}") from error
    known = next(key for key in expected if key.endswith(".weight"))
    tensors = without_prefix(tensors, known, path)
    check_tensors(tensors, expected, f"{source} does not fit its config")
    model = build_model(config)  # now that its size is known to be the file's
    model.load_state_dict(tensors)
    return model.eval()


def _config_in(header: Mapping[str, str]) -> ModelConfig:
    text = header["dinomix_config"]
    if len(text) > LONGEST:
        raise ValueError(f"it has {len(text):,} characters")
    config = ModelConfig.from_dict(fields := json.loads(text))
    if is_vgg(config.backbone) and fields.get("stage") is None:  # now it would be "conv"
        config = replace(config, stage=5)  # the pool, which None was then
    return config
