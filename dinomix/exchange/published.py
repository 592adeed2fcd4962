"""Models that others have published: their files as models of ours.

layouts.toml says which files are read, and how each names what we name otherwise; models.csv, which
files there are, where they lie and what their authors say about them. Such a file may come from
PyTorch Lightning, with much beside the tensors: all of it is read as data, see
`dinomix.plumbing.tensorfiles`.
"""

import math
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from dinomix.model import PRESETS, TEST_SIZES, ModelConfig, PlaceModel, build_model, outline
from dinomix.plumbing.configs import with_family
from dinomix.plumbing.errors import HubError, did_you_mean
from dinomix.plumbing.files import atomic_path
from dinomix.plumbing.tensorfiles import Tensors, beginnings, read_tensors, without_prefix
from dinomix.plumbing.workspace import data_root
from dinomix.weights import OURS, check_tensors, shape_of

FACTS = tomllib.loads(Path(__file__).with_name("layouts.toml").read_text(encoding="utf-8"))
REFUSED: dict[str, str] = FACTS["refused"]
Source = Sequence | str  # a tensor and one of its axes, or how names begin


@dataclass(frozen=True)
class Part:
    """How published files name the tensors of a backbone or an aggregator: see layouts.toml."""

    mark: str = ""
    stride: int = 0
    reads: Mapping[str, Source] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    zeros: Sequence[str] = ()
    backbones: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """How published files of one method name their tensors."""

    method: str
    trunk: str
    network: Part
    head: Part
    config: ModelConfig
    unused: Mapping[str, Sequence[int]]

    @property
    def marks(self) -> tuple[str, str]:
        """How some names in each of its files begin: of the backbone, of the aggregator."""
        return self.trunk + self.network.mark, self.head.mark

    def name_in_file(self, key: str, backbone: str) -> str:
        """What the file calls the tensor that a model of ours calls `key`."""
        if backbone == "dinov2_vitg14":  # its SwiGLU, as DINOv2's code names it
            key = key.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3.")
        for ours, theirs in {**self.network.names, **self.head.names, OURS: self.trunk}.items():
            key = key.replace(ours, theirs)
        return key


def _layout(own: Mapping[str, Any]) -> Layout:
    network, head = (
        Part(**with_family(FACTS["parts"][own[part]], FACTS["parts"]))
        for part in ("network", "head")
    )
    config = PRESETS[own["preset"]]
    size = TEST_SIZES.get(own["preset"], config.image_size)
    config = replace(config, **{"image_size": size, **own.get("but", {})})
    return Layout(own["method"], own["trunk"], network, head, config, own.get("unused", {}))


LAYOUTS = [_layout(own) for own in FACTS["layouts"]]
CHECKPOINTS = "checkpoints"  # of authors' releases, under the data folder


def published_models() -> pd.DataFrame:
    """What authors have published that `load_published` reads: a row each, from models.csv.

    `load_published` knows those by `name` that have a `file`, and takes the others' paths. `here`
    is where that file lies in the data folder, if it does. All columns are text, or empty.
    """
    table = pd.read_csv(Path(__file__).with_name("models.csv"), dtype=str).fillna("")
    table["dimension"] = table["dimension"].str.split("|")  # of a row for each, named by its {D}
    table = table.explode("dimension", ignore_index=True)
    for column in ("name", "file", "url"):
        pairs = zip(table[column], table["dimension"], strict=True)
        table[column] = [text.replace("{D}", dimension) for text, dimension in pairs]
    lying = [data_root() / CHECKPOINTS / file for file in table["file"]]
    return table.assign(here=[str(path) if path.is_file() else "" for path in lying])


def by_name() -> pd.DataFrame:
    """Those of `published_models` that have a file, by their name."""
    return published_models().query("file != ''").set_index("name")


def files_here(data: Path) -> dict[str, Path]:
    """The files in the folder `checkpoints` of a data folder, by the model's name or their own."""
    known = {file: name for name, file in by_name()["file"].items()}
    files = sorted((data / CHECKPOINTS).glob("[!.]*"))
    return {known.get(path.name, path.name): path for path in files if path.is_file()}


def load_published(path_or_name: str | Path) -> PlaceModel:
    """The model that its authors published, on the CPU, in evaluation mode.

    Backbone and descriptor are read off the tensors' names and shapes. The image size is the one at
    which the authors test, unless the mixer's shapes fix another.

    Args:
        path_or_name: of a PyTorch file, such as `ResNet50_2048_cosplace.pth`, or of a .safetensors
            file of the same tensors; or a name in `published_models()`, such as "dino-mix" or
            "megaloc", whose file is downloaded once into the folder `checkpoints` of the data
            folder. "./megaloc" is a path even so.

    Raises:
        FileNotFoundError: if there is no such file or name.
        HubError: if a file cannot be downloaded whole, or its authors give no link to it.
        ValueError: for a file that is damaged, holds objects of other types, or is in no layout
            known here; and for each tensor that does not fit, by its name in the file.
    """
    path = published_file(path_or_name)
    layout, tensors, skeleton = _identify(path)
    config, own = skeleton.config, skeleton.state_dict()
    zeros = {key: torch.zeros(own[key].shape) for key in layout.head.zeros}
    names = {key: layout.name_in_file(key, config.backbone) for key in own if key not in zeros}
    for key, name in names.items():  # a linear layer over channels is a convolution of 1x1
        if name in tensors and tensors[name].shape == (*own[key].shape, 1, 1):
            tensors[name] = tensors[name].flatten(1)
    expected = {name: own[key] for key, name in names.items()}
    for name, axes in layout.unused.items():
        expected[layout.trunk + name] = torch.empty(*axes, skeleton.backbone.out_channels)
    read = {source[0] for source in layout.head.reads.values() if not isinstance(source, str)}
    described = " and ".join(f"{key}, {shape_of(tensors[key])}," for key in sorted(read))
    misfit = f"{path} does not fit {layout.method}"
    check_tensors(tensors, expected, f"{misfit} as {described or 'its names'} describe it")
    model = build_model(config)
    found = {key: tensors[name] for key, name in names.items() if name in tensors}
    model.load_state_dict(found | zeros)
    return model.eval()


def published_config(path: Path) -> ModelConfig:
    """What `load_published` makes of a file, by names and shapes; raises as it does for these."""
    return _identify(path)[2].config


def _identify(path: Path) -> tuple[Layout, Tensors, PlaceModel]:
    """The layout of a file, its tensors without a prefix, and an outline of their model."""
    try:
        tensors = read_tensors(path)
    except FileNotFoundError as error:
        hint = did_you_mean(str(path), by_name().index)
        raise FileNotFoundError(f"{error}, and no published model has that name: {hint}") from None
    marks = (layout.head.mark for layout in LAYOUTS)
    found = (key[key.find(mark) :] for mark in marks for key in tensors if mark in key)
    if key := next(found, ""):
        tensors = without_prefix(tensors, key, path)

    def begins(mark: str) -> bool:
        return any(key.startswith(mark) for key in tensors)

    layout = next((layout for layout in LAYOUTS if all(map(begins, layout.marks))), None)
    if layout is None:
        if reason := next((REFUSED[m] for m in REFUSED if any(m in key for key in tensors)), None):
            raise ValueError(f"{path} holds {reason}")
        known = "; ".join(f"{each.method} ({'*, '.join(each.marks)}*)" for each in LAYOUTS)
        trunks = {"dinomix": OURS} | {each.method: each.marks[0] for each in LAYOUTS}
        near = (name for name, trunk in trunks.items() if any(trunk in key for key in tensors))
        raise ValueError(
            f"{path} is in no published layout known here. Known are {known}; the nearest is "
            f"{next(near, 'none')}. It holds {len(tensors)} tensors: {beginnings(tensors)}. Those "
            "of a dinomix model alone are read by load_model(path, config), those of a backbone by "
            "build_model(config, weights=path)"
        )
    try:
        return layout, tensors, outline(_config(layout, tensors))
    except ValueError as error:
        raise ValueError(f"{path} does not fit {layout.method}:\n  {error}") from error


def published_file(path_or_name: str | Path) -> Path:
    """The file that `load_published` reads: of a name in the data folder, in torch.hub's, or new.

    A download that does not come whole, or not with its hash, leaves nothing.
    """
    name, models = str(path_or_name), by_name()
    if name not in models.index:
        return Path(path_or_name)
    model = models.loc[name]
    path = data_root() / CHECKPOINTS / model["file"]
    for there in (path, Path(torch.hub.get_dir(), CHECKPOINTS, path.name)):
        if there.is_file():
            return there
    by_hand = f"get {path.name} from {model['source']} and put it into {path.parent}"
    if not model["url"]:
        raise HubError(f"the authors of {name} give no direct link to its file: {by_hand}")
    tqdm.write(f"{path.name} from {model['url']}, licence: {model['licence']}", file=sys.stderr)
    try:
        with atomic_path(path) as temporary:
            torch.hub.download_url_to_file(model["url"], str(temporary), model["sha256"] or None)
            read_tensors(temporary)  # torch takes a download that breaks off for a whole one
    except (OSError, ValueError, RuntimeError, HTTPException) as error:
        why = f"{error}".replace(temporary.name, path.name)
        raise HubError(f"{model['url']} gave no whole file ({why}): {by_hand}") from error
    return path


def _config(layout: Layout, tensors: Tensors) -> ModelConfig:
    """The layout's config with what names and shapes say; a mixer's map is square."""
    fields, options = {}, dict(layout.config.aggregator_options)
    for name, source in (layout.network.reads | layout.head.reads).items():
        of_trunk = name in layout.network.reads
        number, shown = _number(tensors, source, layout.trunk if of_trunk else "")
        if name == "backbone":
            known = {int(count): found for count, found in layout.network.backbones.items()}
            if number not in known:
                raise ValueError(f"{shown}, and no backbone of {layout.method} is so: {known}")
            fields[name] = known[number]
        elif name == "stage":
            fields[name] = number - 2  # conv1, bn1
        elif name == "positions":
            if (side := math.isqrt(number)) ** 2 != number:
                raise ValueError(f"{shown}, and {number} positions are no square map")
            fields["image_size"] = side * layout.network.stride
        elif hasattr(layout.config, name):
            fields[name] = number
        else:
            options[name] = number
    return replace(layout.config, **fields, aggregator_options=options)


def _number(tensors: Tensors, source: Source, trunk: str) -> tuple[int, str]:
    """The number, and in words where it is from; names stand behind `trunk`."""
    if isinstance(source, str):
        start = trunk + source
        found = {key[len(start) :].split(".")[0] for key in tensors if key.startswith(start)}
        return len(found), f"{start}* goes on in {len(found)} ways"
    key, axis = trunk + source[0], source[1]
    if key not in tensors:
        raise ValueError(f"missing {key}")
    shown = f"{key} is {shape_of(tensors[key])}"
    if tensors[key].ndim <= axis:
        raise ValueError(f"{shown}, expected {axis + 1} axes or more")
    return tensors[key].shape[axis], shown
