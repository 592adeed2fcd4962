"""Models that others have published: their files as models of ours.

`LAYOUTS` says which files are read, and how each names what we name otherwise; models.csv, what the
authors say about them. Such a file may come from PyTorch Lightning, with much beside the tensors:
all of it is read as data, see `dinomix.plumbing.tensorfiles`.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from dinomix.model import PRESETS, ModelConfig, PlaceModel, build_model, outline
from dinomix.plumbing.tensorfiles import Tensors, beginnings, read_tensors, without_prefix
from dinomix.weights import OURS, check_tensors, shape_of

# A tensor's name in the file and one of its axes; or, of names that begin so, how many different
# ones go on (the blocks of a stage, the layers of a mixer).
Source = tuple[str, int] | str


@dataclasses.dataclass(frozen=True)
class Layout:
    """How published files of one method name their tensors, and what their shapes say."""

    method: str
    trunk: str  # how names of its backbone begin
    head: str  # how names of its aggregator begin that no other method has
    config: ModelConfig  # for whatever the shapes leave open
    names: Mapping[str, str]  # parts of our names, and what stands for them in the file
    reads: Mapping[str, Source]  # fields of the config, or options of the aggregator
    backbones: Mapping[int, str] = dataclasses.field(default_factory=dict)  # by what is read
    unused: Mapping[str, tuple] = dataclasses.field(default_factory=dict)  # axes before channels
    zeros: tuple[str, ...] = ()  # tensors of ours that the method does not have

    def recognises(self, tensors: Tensors) -> bool:
        """Whether the names are those of this layout: backbone and aggregator."""
        marks = (self.trunk, self.head)
        return all(any(key.startswith(mark) for key in tensors) for mark in marks)

    def name_in_file(self, key: str, backbone: str) -> str:
        """What the file calls the tensor that a model of ours calls `key`."""
        if backbone == "dinov2_vitg14":  # its SwiGLU, as DINOv2's code names it
            key = key.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3.")
        for ours, theirs in self.names.items():
            key = key.replace(ours, theirs)
        return key


def _children(trunk: str) -> dict[str, str]:
    """A torchvision ResNet as nn.Sequential(*children): their places instead of their names."""
    places = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    return {f"{OURS}{name}.": f"{trunk}{place}." for name, place in places.items()}


DINOV2 = {384: "vits14", 768: "vitb14", 1024: "vitl14", 1536: "vitg14"}
DINOV2 = {channels: f"dinov2_{name}" for channels, name in DINOV2.items()}
RESNETS = {2: 18, 6: 50, 23: 101, 36: 152}  # by the blocks of their third stage
RESNETS = {blocks: f"timm/resnet{depth}.tv_in1k" for blocks, depth in RESNETS.items()}
CHANNELS, ROWS = "aggregator.channel_proj.weight", "aggregator.row_proj.weight"
MIXER = {"out_channels": (CHANNELS, 0), "out_rows": (ROWS, 0), "positions": (ROWS, 1)}
MIXER |= {"mix_depth": "aggregator.mix."}
GEM_FC = {"aggregator.gem.": "aggregation.1.", "aggregator.proj.": "aggregation.3."}
VLAD = {"aggregator.assign.": "aggregation.conv.", "aggregator.cent": "aggregation.cent"}
BOQ = {
    "aggregator.channel_proj.": "aggregator.proj_c.",
    "aggregator.norm.": "aggregator.norm_input.",
    "aggregator.blocks.": "aggregator.boqs.",
    "aggregator.row_proj.": "aggregator.fc.",
    ".self_attention.": ".self_attn.",
    ".cross_attention.": ".cross_attn.",
    ".norm_queries.": ".norm_q.",
    ".norm_answer.": ".norm_out.",
}
BOQ_READS = {
    "channels": ("aggregator.proj_c.weight", 0),
    "queries": ("aggregator.boqs.0.queries", 1),
    "layers": "aggregator.boqs.",
    "row_dim": ("aggregator.fc.weight", 0),
}
# Where images are described as they are, the size is that of most test sets.
COSPLACE = replace(PRESETS["cosplace_resnet50"], image_size=(480, 640))
NETVLAD = replace(PRESETS["netvlad_resnet50"], image_size=(480, 640))
VGG = {"backbone": "vgg16", "stage": None, "trained_blocks": 1}
LAYOUTS = (
    Layout(
        "DINO-Mix",
        trunk="backbone.dino_model.",
        head="aggregator.row_proj.",
        config=PRESETS["dino_mix"],
        names={OURS: "backbone.dino_model."},
        reads={"backbone": (CHANNELS, 1), **MIXER},
        backbones=DINOV2,
        unused={"mask_token": (1,)},
    ),
    Layout(
        "MixVPR",
        trunk="backbone.model.",
        head="aggregator.row_proj.",
        config=PRESETS["mixvpr_resnet50"],
        names={OURS: "backbone.model."},
        reads={"backbone": "backbone.model.layer3.", **MIXER},
        backbones=RESNETS,
    ),
    Layout(  # with 2 x 2 cells, as in each published file
        "Conv-AP",
        trunk="backbone.model.",
        head="aggregator.channel_pool.",
        config=PRESETS["convap_resnet50"],
        names={OURS: "backbone.model.", "aggregator.channel_proj.": "aggregator.channel_pool."},
        reads={
            "backbone": "backbone.model.layer3.",
            "out_channels": ("aggregator.channel_pool.weight", 0),
        },
        backbones=RESNETS,
    ),
    Layout(
        "BoQ on DINOv2",
        trunk="backbone.dino.",
        head="aggregator.boqs.",
        config=replace(PRESETS["boq"], image_size=322),
        names={OURS: "backbone.dino.", **BOQ},
        reads={"backbone": ("aggregator.proj_c.weight", 1), **BOQ_READS},
        backbones=DINOV2,
        unused={"mask_token": (1,), "norm.weight": (), "norm.bias": ()},
    ),
    Layout(
        "BoQ on a ResNet",
        trunk="backbone.net.",
        head="aggregator.boqs.",
        config=replace(PRESETS["boq_resnet50"], image_size=384),
        names=_children("backbone.net.") | BOQ,
        reads={"backbone": "backbone.net.6.", **BOQ_READS},
        backbones=RESNETS,
    ),
    Layout(
        "CosPlace or EigenPlaces on a ResNet",
        trunk="backbone.6.",
        head="aggregation.3.",
        config=COSPLACE,
        names=_children("backbone.") | GEM_FC,
        reads={"backbone": "backbone.6.", "out_channels": ("aggregation.3.weight", 0)},
        backbones=RESNETS,
    ),
    Layout(
        "CosPlace or EigenPlaces on VGG-16",
        trunk="backbone.28.",
        head="aggregation.3.",
        config=replace(COSPLACE, **VGG),
        names={f"{OURS}features.": "backbone.", **GEM_FC},
        reads={"out_channels": ("aggregation.3.weight", 0)},
    ),
    # Deep Visual Geo-localization Benchmark (Berton et al. 2022), on ResNets up to their third
    # stage. Its GeM without a linear layer is none of them: its descriptors keep their lengths.
    Layout(
        "NetVLAD of the benchmark on a ResNet",
        trunk="backbone.6.",
        head="aggregation.centroids",
        config=NETVLAD,
        names=_children("backbone.") | VLAD,
        reads={"backbone": "backbone.6.", "clusters": ("aggregation.centroids", 0)},
        backbones=RESNETS,
        zeros=("aggregator.assign.bias",),
    ),
    Layout(
        "NetVLAD of the benchmark on VGG-16",
        trunk="backbone.28.",
        head="aggregation.centroids",
        config=replace(NETVLAD, **VGG),
        names={f"{OURS}features.": "backbone.", **VLAD},
        reads={"clusters": ("aggregation.centroids", 0)},
        zeros=("aggregator.assign.bias",),
    ),
    Layout(
        "GeM of the benchmark with a linear layer",
        trunk="backbone.6.",
        head="aggregation.0.1.p",
        config=replace(COSPLACE, stage=3, trained_blocks=1),
        names=_children("backbone.")
        | {"aggregator.gem.": "aggregation.0.1.", "aggregator.proj.": "aggregation.1."},
        reads={"backbone": "backbone.6.", "out_channels": ("aggregation.1.weight", 0)},
        backbones=RESNETS,
    ),
    Layout(
        "GeM of GSV-Cities",
        trunk="backbone.model.layer4.",
        head="aggregator.p",
        config=PRESETS["gem_resnet50"],
        names={OURS: "backbone.model."},
        reads={"backbone": "backbone.model.layer3."},
        backbones=RESNETS,
    ),
)


def published_models() -> pd.DataFrame:
    """What authors have published that `load_published` reads: a row each, from models.csv."""
    return pd.read_csv(Path(__file__).with_name("models.csv"))


def load_published(path: str | Path) -> PlaceModel:
    """The model in a file that its authors published, on the CPU, in evaluation mode.

    Backbone and descriptor are read off the tensors' names and shapes. The image size is the one at
    which the authors test, unless the mixer's shapes fix another.

    Args:
        path: of a PyTorch file, such as `dinov2_vitb14_mix.ckpt` or `ResNet50_2048_cosplace.pth`,
            or of a .safetensors file of the same tensors.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that is damaged, holds objects of other types, or is in no layout
            known here; and for each tensor that does not fit, by its name in the file.
    """
    tensors = read_tensors(path)
    heads = (layout.head for layout in LAYOUTS)
    found = (key[key.find(head) :] for head in heads for key in tensors if head in key)
    tensors = without_prefix(tensors, next(found, ROWS), path)
    layout = next((layout for layout in LAYOUTS if layout.recognises(tensors)), None)
    if layout is None:
        known = "; ".join(f"{each.method} ({each.trunk}*, {each.head}*)" for each in LAYOUTS)
        trunks = {"dinomix": OURS} | {layout.method: layout.trunk for layout in LAYOUTS}
        near = (name for name in trunks if any(key.startswith(trunks[name]) for key in tensors))
        raise ValueError(
            f"{path} is in no published layout known here. Known are {known}; the nearest is "
            f"{next(near, 'none')}. It holds {len(tensors)} tensors: {beginnings(tensors)}. Those "
            "of a dinomix model alone are read by load_model(path, config), those of a backbone by "
            "build_model(config, weights=path)"
        )
    try:
        config = _config(layout, tensors)
        skeleton = outline(config)
    except ValueError as error:
        raise ValueError(f"{path} does not fit {layout.method}:\n  {error}") from error
    own = skeleton.state_dict()
    names = {key: layout.name_in_file(key, config.backbone) for key in own.keys() - layout.zeros}
    for key, name in names.items():  # a linear layer over channels is a convolution of 1x1
        if name in tensors and tensors[name].shape == (*own[key].shape, 1, 1):
            tensors[name] = tensors[name].flatten(1)
    expected = {names[key]: own[key] for key in own if key in names}
    for name, axes in layout.unused.items():
        expected[layout.trunk + name] = torch.empty(*axes, skeleton.backbone.out_channels)
    read = {source[0] for source in layout.reads.values() if isinstance(source, tuple)}
    described = " and ".join(f"{key}, {shape_of(tensors[key])}," for key in sorted(read))
    complaint = f"{path} does not fit {layout.method} as {described or 'its names'} describe it"
    check_tensors(tensors, expected, complaint)
    model = build_model(config)
    zeros = {key: torch.zeros(own[key].shape) for key in layout.zeros}
    model.load_state_dict({key: tensors[name] for key, name in names.items()} | zeros)
    return model.eval()


def _config(layout: Layout, tensors: Tensors) -> ModelConfig:
    """The layout's config with what names and shapes say; a mixer's map is square."""
    fields, options = {}, dict(layout.config.aggregator_options)
    for field, source in layout.reads.items():
        number = _number(tensors, source)
        if field == "backbone":
            if number not in layout.backbones:
                raise ValueError(
                    f"{_shown(tensors, source)}, and no backbone of {layout.method} has {number} "
                    f"channels (or blocks) there; known are {layout.backbones}"
                )
            fields[field] = layout.backbones[number]
        elif field == "positions":
            if (side := math.isqrt(number)) ** 2 != number:
                shown = _shown(tensors, source)
                raise ValueError(f"{shown}, and {number} positions are no square map")
            fields["image_size"] = side * (14 if layout.backbones is DINOV2 else 16)
        elif hasattr(layout.config, field):
            fields[field] = number
        else:
            options[field] = number
    return replace(layout.config, **fields, aggregator_options=options)


def _number(tensors: Tensors, source: Source) -> int:
    if isinstance(source, str):
        return len({key[len(source) :].split(".")[0] for key in tensors if key.startswith(source)})
    key, axis = source
    if key not in tensors:
        raise ValueError(f"missing {key}")
    if tensors[key].ndim <= axis:
        raise ValueError(f"{_shown(tensors, source)}, expected {axis + 1} axes or more")
    return tensors[key].shape[axis]


def _shown(tensors: Tensors, source: Source) -> str:
    if isinstance(source, str):
        return f"{source}* are {_number(tensors, source)}"
    return f"{source[0]} is {shape_of(tensors[source[0]])}"
