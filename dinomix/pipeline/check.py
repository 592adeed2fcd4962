"""A dry run of a profile: are its packages, data sets and weights there? Nothing is written."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from packaging.requirements import Requirement

from dinomix.backbones import DINOV3, TOY
from dinomix.backbones.names import timm_name
from dinomix.data import PlaceDataset, TestSet
from dinomix.datasets.benchmarks import BENCHMARKS, GSV_CITIES, Benchmark, open_benchmark
from dinomix.model import PlaceModel
from dinomix.pipeline.notebooks import NOTEBOOKS, load_profile
from dinomix.plumbing.files import config_hash
from dinomix.plumbing.workspace import data_root
from dinomix.study.designs import Setup
from dinomix.study.study import Study, Variant
from dinomix.training import batches_of
from dinomix.weights import load_backbone_weights

Parameters = Mapping[str, Any]
Experiment = tuple[Study, Sequence[Variant]]

# Parameters by which notebooks render a toy city -> what lies in its folder once it is finished.
MANIFESTS = {"city": "toycity.json", "crossview": "crossview.json"}
NOT_YET = "none yet: a notebook renders it"


class Row(NamedTuple):
    """A line of the table of `check`; `ok`: whether what was found is what is needed."""

    what: str
    found: str
    needed: str
    ok: bool


def check(
    profile: str,
    root: str | Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    notebooks: Path = NOTEBOOKS,
) -> pd.DataFrame:
    """What a profile needs and what is there: a table with the columns of `Row`.

    Data sets are opened as training and testing open them, published test sets with their counts;
    weights are compared with their backbone, tensor by tensor. Those that come from the hub must
    be in its cache. A toy city need not be there, since a notebook renders it.

    `root` is the data folder, by default `workspace.data_root()`. Raises as `load_profile`, and
    ValueError where no model or recipe takes a parameter.
    """
    data = data_root() if root is None else Path(root)
    asked = [step.values for step in load_profile(profile, overrides, notebooks)]
    experiments = [each for p in asked for each in Setup(data, p).experiments()]
    learning = [each for each in experiments if any(v.train for v in each[1])]
    rendered = _rendered(asked)
    rows = [
        _packages(),
        *_toy_cities(data, rendered),
        *_training_sets(data, learning, rendered),
        *_test_sets(data, experiments, rendered),
        *_weights(experiments),
        *_required(data, asked),
        _gpu(experiments),
        _runs(experiments),
    ]
    table = pd.DataFrame(rows, columns=Row._fields)
    return table.drop_duplicates(ignore_index=True)  # a set by its name, and by its folder


# ------------------------------------------------------------------------------- data sets


def _rendered(asked: Iterable[Parameters]) -> dict[str, str]:
    """The toy cities that notebooks render themselves: folder -> manifest."""
    return {
        p[f"{kind}_folder"]: manifest
        for p in asked
        for kind, manifest in MANIFESTS.items()
        if kind in p and p[f"{kind}_folder"]
    }


def _toy_cities(data: Path, rendered: Mapping[str, str]) -> Iterator[Row]:
    for name, manifest in rendered.items():
        folder, ok = data / name, True
        if (folder / manifest).is_file():
            found = "rendered"
        elif (folder / manifest).with_suffix(".started.json").is_file():
            found = "partly rendered: a notebook renders the rest"
        elif (folder / "train").exists() or (folder / "images").exists():
            found, ok = f"images without {manifest}, which are not a toy city's", False
        else:
            found = NOT_YET
        yield Row(name, found, "this toy city, or none", ok)


def _training_sets(
    data: Path, experiments: Sequence[Experiment], rendered: Mapping[str, str]
) -> Iterator[Row]:
    """Enough places for a batch, and of the published set all cities."""
    for folder, study in {study.places: study for study, _ in experiments}.items():
        users = [v for other, every in experiments if other.places == folder for v in every]
        batch = max((v.train.places_per_batch for v in users if v.train), default=1)
        name = folder.relative_to(data).as_posix()
        least = len(GSV_CITIES) if folder.name == "gsv-cities" else 1
        needed = f"places for a batch of {batch}" + f", {least} cities" * (least > 1)
        if Path(name).parts[0] in rendered and not folder.exists():
            yield Row(name, NOT_YET, needed, True)
            continue
        try:
            places = PlaceDataset(folder, images_per_place=study.images_per_place)
            for recipe in filter(None, (v.train for v in users)):
                batches_of(places, recipe, epoch=1)
        except (OSError, ValueError) as error:
            yield Row(name, _wrong(folder, error), needed, False)
            continue
        cities, images = len(places.cities), sum(map(len, places.places))
        found = f"{cities} cities, {len(places):,} places, {images:,} images"
        yield Row(name, found, needed, cities >= least)


def _test_sets(
    data: Path, experiments: Sequence[Experiment], rendered: Mapping[str, str]
) -> Iterator[Row]:
    """The validation and test sets; of the published ones with the counts that they must have."""
    named = [(study.val, "val") for study, every in experiments if any(v.train for v in every)]
    named += [test for study, _ in experiments for test in study.tests]
    tests = dict.fromkeys(test if isinstance(test, tuple) else (test, None) for test in named)
    for folder, split in tests:
        name = folder.relative_to(data).as_posix()
        benchmark = _benchmark(name, split or "test")
        what, needed = f"{name}, {split or 'test'}", "a test set in UTM layout"
        if benchmark:
            what, folder = benchmark.name, data / benchmark.folder
            needed = _counts(benchmark.database, benchmark.queries)
        elif name in rendered and not folder.exists():
            yield Row(what, NOT_YET, needed, True)
            continue
        try:
            test = open_benchmark(what, data) if benchmark else TestSet(folder, split)
        except (OSError, ValueError) as error:
            yield Row(what, _wrong(folder, error), needed, False)
            continue
        yield Row(what, _counts(len(test.database), len(test.queries)), needed, True)


def _benchmark(name: str, split: str) -> Benchmark | None:
    """The published test set that a name, or a folder and a split, stands for."""
    known = [b for b in BENCHMARKS.values() if not b.condition]
    same = [b for b in known if (b.folder, b.split) == (name, split)]
    return BENCHMARKS.get(name) or next(iter(same), None)


def _required(data: Path, asked: Iterable[Parameters]) -> Iterator[Row]:
    """What the first cell of each notebook asks for."""
    named = {path: what for p in asked for path, what in p.get("required", {}).items()}
    for path, what in named.items():
        is_there = (data / path).exists()
        found = "there" if is_there else f"nothing at {data / path}"
        yield Row(f"required: {path}", found, what, is_there)


def _counts(database: int, queries: int) -> str:
    return f"{database:,} database images, {queries:,} queries"


def _wrong(folder: Path, error: Exception) -> str:
    return _short(error) if folder.exists() else f"no folder {folder}"


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(lines[:3]) + " ..." * (len(lines) > 3)


# ------------------------------------------------------------------------------- models


def _weights(experiments: Iterable[Experiment]) -> Iterator[Row]:
    """The backbones' weights: each tensor with its name and shape, or a whole file in the cache."""
    asked = [v for _, every in experiments for v in every if not v.published]
    models = {(v.model.backbone, v.weights): v.model for v in asked}
    for (name, source), config in models.items():
        if source is None:
            continue
        if str(source) == "hub" and name not in TOY:
            yield _in_hub_cache(name)
            continue
        # Into a model without memory: names and shapes are compared, and copying does nothing.
        # DINOv3's is built in memory, since some of its own numbers are compared, too.
        with nullcontext() if name in DINOV3 else torch.device("meta"):
            backbone = PlaceModel(config).backbone
        found, ok = "in the package" if str(source) == "hub" else str(source), True
        try:
            with warnings.catch_warnings(action="ignore"):
                load_backbone_weights(backbone, source)
        except (OSError, ValueError) as error:
            found, ok = _short(error), False
        yield Row(f"weights of {name}", found, f"tensors that fit {name}", ok)


def _in_hub_cache(name: str) -> Row:
    import timm
    from huggingface_hub import try_to_load_from_cache

    model = timm_name(name)
    repository = timm.get_pretrained_cfg(model).hf_hub_id
    names = ("model.safetensors", "pytorch_model.bin")
    is_there = any(isinstance(try_to_load_from_cache(repository, file), str) for file in names)
    found = "in the hub's cache" if is_there else f"{repository} is not in the hub's cache"
    needed = f"fetched before: timm.create_model({model!r}, pretrained=True)"
    return Row(f"weights of {name}", found, needed, is_there)


def _runs(experiments: Iterable[Experiment]) -> Row:
    """What notebooks share is counted once."""
    learns = {}
    for study, variants in experiments:
        for v in variants:
            recipe = v.train and v.train.identity()
            key = config_hash(v.model.to_dict(), recipe, str(v.weights), v.seed, study.places)
            learns[key] = v.train is not None
    runs = sum(learns.values())
    found = f"{runs} to train, unless they are there, and {len(learns) - runs} without training"
    return Row("models", found, "nothing", True)


# ------------------------------------------------------------------------------- the machine


def _packages() -> Row:
    try:
        wanted = [Requirement(text) for text in requires("dinomix") or []]
    except PackageNotFoundError:
        return Row("packages", "dinomix is not installed", "pip install --editable .", False)
    wanted = [r for r in wanted if r.name != "dinomix" and _is_for_notebooks(r)]
    wrong = []
    for requirement in wanted:
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"no {requirement}")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found}, not {requirement.specifier}")
    found = "; ".join(wrong) or f"{len(wanted)} packages"
    return Row("packages", found, "as in pyproject.toml", not wrong)


def _is_for_notebooks(requirement: Requirement) -> bool:
    marker, extras = requirement.marker, ("notebooks", "toy", "cluster")
    return marker is None or any(marker.evaluate({"extra": name}) for name in extras)


def _gpu(experiments: Iterable[Experiment]) -> Row:
    large = sorted({v.model.backbone for _, every in experiments for v in every} - set(TOY))
    needed = f"one, for {', '.join(large)}" if large else "none"
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        return Row("GPU", f"{torch.cuda.get_device_name(0)}, {memory / 1e9:,.1f} GB", needed, True)
    apple = torch.backends.mps.is_available()
    return Row("GPU", "Apple's" if apple else "none", needed, apple or not large)
