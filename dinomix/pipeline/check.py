"""Which models a profile trains and tests, told from its parameters before anything runs."""

import ast
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pandas as pd
import psutil
import torch
from packaging.requirements import Requirement

from dinomix.backbones import DINOV3, TOY
from dinomix.backbones.names import timm_name
from dinomix.data import CITIES, PlaceDataset, TestSet
from dinomix.datasets.benchmarks import BENCHMARKS, Benchmark, open_benchmark
from dinomix.model import ModelConfig, PlaceModel, outline
from dinomix.pipeline import check as forecast
from dinomix.pipeline import check as inventory
from dinomix.pipeline.notebooks import NOTEBOOKS, Step, load_profile
from dinomix.plumbing.files import config_hash
from dinomix.plumbing.summary import count_parameters
from dinomix.plumbing.workspace import data_root
from dinomix.runs.cluster import available_workers
from dinomix.study.lineups import lineup
from dinomix.study.study import Variant, variants
from dinomix.training import TrainConfig
from dinomix.weights import load_backbone_weights
from toycity import crossview, writer
from toycity.config import ToyCityConfig

MODEL_FIELDS = (
    *("backbone", "trained_blocks", "mix_depth"),
    *("out_channels", "out_rows", "image_size"),
)

Test = str | tuple[str, str]  # a folder or a benchmark; or a folder and a split


@dataclass(frozen=True)
class Job:
    """One model of a profile, and what it is trained and tested on: names under the data folder."""

    variant: Variant
    places: str
    val: str
    tests: tuple[Test, ...]
    images_per_place: int


def parameters_of(step: Step) -> dict[str, Any]:
    """What a notebook will see: the literals of its parameters cell, and the profile's over them.

    Raises:
        ValueError: the cell holds something else than literals.
    """
    cells = nbformat.read(step.path, as_version=4).cells
    source = next((c.source for c in cells if "parameters" in c.metadata.get("tags", [])), "")
    lines = [line for line in ast.parse(source).body if isinstance(line, ast.Assign)]
    return {line.targets[0].id: _literal(line.value) for line in lines} | dict(step.parameters)


def _literal(node: ast.expr) -> Any:
    if not isinstance(node, ast.List):
        return ast.literal_eval(node)
    parts = [
        _literal(e.value) if isinstance(e, ast.Starred) else [_literal(e)]  # [*("a", "b"), "c"]
        for e in node.elts
    ]
    return [value for part in parts for value in part]


def jobs_of(asked: Iterable[Mapping[str, Any]], data: Path) -> list[Job]:
    """Every model that notebooks with these parameters train or test; what they share, once.

    What a notebook varies is told by its parameters: `depths`, `shapes`, `backbones` with `blocks`,
    or the methods of a `lineup`. The one with a `crossview_folder` trains its base model on that
    set as well.
    """
    found: dict[str, Job] = {}
    for p in asked:
        if "preset" not in p:
            continue
        tests = [*p.get("test_folders", ()), *([p["test_folder"]] if "test_folder" in p else [])]
        sets = [(p["train_folder"], p["val_folder"], tests, _methods(p, data))]
        if crossview := p.get("crossview_folder"):
            sets[0][2].append(crossview)
            sets.append((f"{crossview}/train", crossview, [crossview], {"DINO-Mix": {}}))
        for places, val, judged, methods in sets:
            for variant in _variants(p, methods, data):
                recipe = variant.train and variant.train.identity() | {"seed": variant.seed}
                key = config_hash(
                    variant.model.to_dict(), recipe, str(variant.weights), variant.seed, places
                )
                names = [test if isinstance(test, str) else tuple(test) for test in judged]
                every = tuple(dict.fromkeys([*(found[key].tests if key in found else ()), *names]))
                found[key] = Job(variant, places, val, every, p["images_per_place"])
    return list(found.values())


def _methods(p: Mapping[str, Any], data: Path) -> dict[str, dict[str, Any]]:
    """What a notebook compares, in words of `studies.variants`."""
    if "lineup" in p:
        robust = {"robust": {"train": p["robust_changes"]}} if "robust_changes" in p else {}
        return {**lineup(p["lineup"], p["methods"]), **robust}
    if "depths" in p:
        return {f"L = {depth}": {"mix_depth": depth} for depth in p["depths"]}
    if "shapes" in p:
        return {f"{d} x {r}": {"out_channels": d, "out_rows": r} for d, r in p["shapes"]}
    if "blocks" in p:
        files = {name: _weights(weights, data) for name, weights in p["backbones"].items()}
        return {
            f"{name}, {count}": {"backbone": name, "trained_blocks": count, "weights": file}
            for name, file in files.items()
            for count in p["blocks"]
        }
    return {"DINO-Mix": {}}


def _variants(p: Mapping[str, Any], methods: Mapping[str, Any], data: Path) -> list[Variant]:
    base = ModelConfig(**{name: p[name] for name in MODEL_FIELDS if name in p})
    recipe = TrainConfig.preset(p["preset"], **p["train_changes"])
    seeds = p["seeds"] if "seeds" in p else [p["seed"]]
    weights = _weights(p.get("weights", "hub"), data)
    return variants(methods, base, recipe, weights=weights, seeds=seeds)


def _weights(name: str | None, data: Path) -> str | Path | None:
    return name if name in (None, "hub") else data / name


# What a profile asks of its machine, reckoned before anything runs: disk, memory, images.
FLOAT = 4  # bytes
PROCESS = 10**9  # bytes of a process that has imported everything, rounded up from 0.75e9
TABLE_ROW = 350  # bytes that an image of the training set takes; benchmarks/gsv_table.py measures


@dataclass(frozen=True)
class Size:
    """Of a model: parameters, those that learn, and D."""

    parameters: int
    trained: int
    dim: int


@lru_cache(maxsize=256)
def size_of(config: ModelConfig) -> Size:
    """Count without allocating anything."""
    model = outline(config)
    return Size(*count_parameters(model), model.dim)


@lru_cache(maxsize=256)
def prefix_numbers(config: ModelConfig) -> int:
    """How many numbers the frozen part makes of one image; 0 where it cannot be cut off."""
    backbone = outline(config).backbone
    if not backbone.has_prefix:
        return 0
    return backbone.frozen_features(torch.zeros(1, 3, *config.size, device="meta")).numel()


def disk_bytes(jobs: Iterable[Job], images: Mapping[Test, int], workers: int | None = None) -> int:
    """Bytes under `data/runs`.

    Of each run two models of 4 bytes a parameter (the best and the last epoch's). While it is in
    the making, a checkpoint of model and optimiser (one number a trained parameter for SGD's
    momentum, two for AdamW), and beside it the next one, for as many runs as go side by side. Of
    each frozen prefix that is cached, 4 bytes a number and image of all sets that go through it.
    Descriptors are never written.

    Args:
        images: how many each training, validation and test set has.
        workers: runs side by side; None means `cluster.available_workers()`.
    """
    models, checkpoints, prefixes = 0, [0], {}
    for job in jobs:
        recipe, size = job.variant.train, size_of(job.variant.model)
        if recipe is None:
            continue
        models += 2 * FLOAT * size.parameters
        moments = 1 if recipe.optimizer == "sgd" else 2
        checkpoints.append(2 * FLOAT * (size.parameters + moments * size.trained))
        if recipe.cache_prefix:
            m = job.variant.model
            cut = (m.backbone, str(job.variant.weights), m.image_size, m.trained_blocks, m.stage)
            sets = (job.places, (job.val, "val"), *job.tests)
            numbers = FLOAT * prefix_numbers(m)
            prefixes |= {(cut, name): numbers * images.get(name, 0) for name in sets}
    side_by_side = workers or available_workers()
    return models + side_by_side * max(checkpoints) + sum(prefixes.values())


def memory_bytes(
    jobs: Iterable[Job], images: Mapping[Test, int], workers: int | None = None
) -> int:
    """Bytes of main memory for the most demanding model, times the runs that go side by side.

    1 GB for the process; the model and its file, and on a CPU gradients and moments of what is
    trained: 4 bytes x (2 x parameters + 3 x trained); 350 bytes an image of the training set; the
    batches that the loading processes hold ready, two each, of P x K images of 3 x H x W x 4 bytes
    (one batch where nothing loads ahead); descriptors of the largest test set in float32 twice,
    ours and the search index's. What autograd keeps on a CPU is not in it.

    Args: as of `disk_bytes`.
    """
    most = 0
    for job in jobs:
        size, recipe = size_of(job.variant.model), job.variant.train
        height, width = job.variant.model.size
        model = FLOAT * (2 * size.parameters + 3 * size.trained)
        training = 0
        if recipe is not None:
            ready = max(1, 2 * recipe.workers) * recipe.places_per_batch * job.images_per_place
            training = TABLE_ROW * images.get(job.places, 0) + ready * 3 * height * width * FLOAT
        largest = max((images.get(test, 0) for test in (*job.tests, (job.val, "val"))), default=0)
        testing = 2 * FLOAT * size.dim * largest
        most = max(most, PROCESS + model + max(training, testing))
    return (workers or available_workers()) * most


def work(
    jobs: Iterable[Job], places: Mapping[str, int], images: Mapping[Test, int]
) -> tuple[int, int]:
    """Images that all runs learn from, and images that are described to validate and to test.

    An epoch shows K images of each place; a run is validated before its first epoch, too.

    Args:
        places: how many each training set has.
        images: how many each validation and test set has.
    """
    learned = described = 0
    for job in jobs:
        recipe = job.variant.train
        if recipe is not None:
            learned += recipe.epochs * places.get(job.places, 0) * job.images_per_place
            described += (recipe.epochs + 1) * images.get((job.val, "val"), 0)
        described += sum(images.get(test, 0) for test in job.tests)
    return learned, described


# Which data sets and weights that a profile names are there, and whether they are what they
GSV = 560_000, 67_000  # about as many images, and places, as the published set has


class Row(NamedTuple):
    """A line of the table of `check`.

    Attributes:
        ok: whether what was found is what is needed.
        key: of a data set, its name in a job; `images` and `places`: how many it has, or should
            have.
    """

    what: str
    found: str
    needed: str
    ok: bool
    key: Test | None = None
    images: int = 0
    places: int = 0


def rendered_sets(asked: Iterable[Mapping[str, Any]]) -> dict[str, ToyCityConfig]:
    """The toy cities that notebooks render themselves, from their parameters: folder -> config."""
    found: dict[str, ToyCityConfig] = {}
    for p in asked:
        size = {"image_size": p["image_size"]} if "image_size" in p else {}
        if "city" in p:
            found[p["city_folder"]] = ToyCityConfig.from_dict({**size, **p["city"]})
        if "crossview" in p:
            found[p["crossview_folder"]] = crossview.CrossviewConfig.from_dict(
                {**size, **p["crossview"]}
            )
    return found


def toy_cities(data: Path, rendered: Mapping[str, ToyCityConfig]) -> Iterator[Row]:
    """Whether nothing is in the way of the toy cities."""
    for folder, config in rendered.items():
        is_crossview = isinstance(config, crossview.CrossviewConfig)
        manifest = data / folder / (crossview.MANIFEST if is_crossview else writer.MANIFEST)
        owned = (data / folder / "train", data / folder / "images")
        try:
            is_there = writer.is_written(manifest, writer.definition(config), owned)
            found, ok = "rendered" if is_there else "none yet: a notebook will render it", True
        except (OSError, ValueError) as error:
            found, ok = _short(error), False
        yield Row(folder, found, "this toy city, or none", ok)


def training_sets(
    data: Path, jobs: list[Job], rendered: Mapping[str, ToyCityConfig]
) -> Iterator[Row]:
    """The training places: enough for a batch, and of the published set all cities."""
    for folder in dict.fromkeys(job.places for job in jobs):
        users = [job for job in jobs if job.places == folder]
        batch = max((j.variant.train.places_per_batch for j in users if j.variant.train), default=1)
        is_published = Path(folder).name == "gsv-cities"
        least = len(CITIES) if is_published else 1
        needed = f"places for a batch of {batch}" + f", {least} cities" * is_published
        config = rendered.get(Path(folder).parts[0])
        if config is not None and not (data / folder).exists():
            places = len(config.train_seeds) * config.train_places
            found, ok = f"none yet: {places:,} places will be rendered", places >= batch
            yield Row(folder, found, needed, ok, folder, places * config.images_per_place, places)
            continue
        try:
            places = PlaceDataset(data / folder, images_per_place=users[0].images_per_place)
        except (OSError, ValueError) as error:
            expected = GSV if is_published else (0, 0)
            yield Row(folder, _wrong(data / folder, error), needed, False, folder, *expected)
            continue
        cities, images = len(places.cities), sum(map(len, places.places))
        found = f"{cities} cities, {len(places):,} places, {images:,} images"
        ok = len(places) >= batch and cities >= least
        yield Row(folder, found, needed, ok, folder, images, len(places))


def test_sets(data: Path, jobs: list[Job], rendered: Mapping[str, ToyCityConfig]) -> Iterator[Row]:
    """The validation and test sets; the published ones with the counts that they must have."""
    for key in dict.fromkeys(test for job in jobs for test in ((job.val, "val"), *job.tests)):
        folder, split = (key, None) if isinstance(key, str) else key
        benchmark = _benchmark(folder, split or "test")
        name, needed, expected = f"{folder}, {split or 'test'}", "a test set in UTM layout", 0
        if benchmark:
            name, expected = benchmark.name, benchmark.database + benchmark.queries
            needed = _counts(benchmark.database, benchmark.queries)
        elif folder in rendered and not (data / folder).exists():
            database, queries = _rendered_counts(rendered[folder], split or "test")
            found = f"none yet: {_counts(database, queries)} will be rendered"
            yield Row(name, found, needed, True, key, database + queries)
            continue
        try:
            test = open_benchmark(name, data) if benchmark else TestSet(data / folder, split)
        except (OSError, ValueError) as error:
            place = data / (benchmark.folder if benchmark else folder)
            yield Row(name, _wrong(place, error), needed, False, key, expected)
            continue
        database, queries = len(test.database), len(test.queries)
        yield Row(name, _counts(database, queries), needed, True, key, database + queries)


def weights(jobs: Iterable[Job]) -> Iterator[Row]:
    """The backbones' weights: each tensor with its name and shape, or a whole file in the cache."""
    pairs = {(job.variant.model.backbone, job.variant.weights): job.variant.model for job in jobs}
    for (name, source), config in pairs.items():
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


def files(data: Path, asked: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """What the first cell of each notebook asks for: `required`."""
    named = {path: what for p in asked for path, what in p.get("required", {}).items()}
    for path, what in named.items():
        is_there = (data / path).exists()
        found = "there" if is_there else f"nothing at {data / path}"
        yield Row(f"required: {path}", found, what, is_there)


def _benchmark(folder: str, split: str) -> Benchmark | None:
    """The published test set that a name, or a folder and a split, stands for."""
    if folder in BENCHMARKS:
        return BENCHMARKS[folder]
    same = [b for b in BENCHMARKS.values() if (b.folder, b.split) == (folder, split)]
    return same[0] if same else None


def _rendered_counts(config: ToyCityConfig, split: str) -> tuple[int, int]:
    conditions = len(getattr(config, f"{split}_conditions"))
    return 2 * getattr(config, f"{split}_places"), conditions * getattr(config, f"{split}_queries")


def _in_hub_cache(name: str) -> Row:
    import timm
    from huggingface_hub import try_to_load_from_cache

    model = timm_name(name)
    repository = timm.get_pretrained_cfg(model).hf_hub_id
    names = ("model.safetensors", "pytorch_model.bin")
    is_there = any(isinstance(try_to_load_from_cache(repository, file), str) for file in names)
    return Row(
        f"weights of {name}",
        "in the hub's cache" if is_there else f"{repository} is not in the hub's cache",
        f"fetched before: timm.create_model({model!r}, pretrained=True)",
        is_there,
    )


def _counts(database: int, queries: int) -> str:
    return f"{database:,} database images, {queries:,} queries"


def _wrong(folder: Path, error: Exception) -> str:
    """What is wrong with a data set; where to get one that is not there, `files` says."""
    return _short(error) if folder.exists() else f"no folder {folder}"


def _short(error: Exception) -> str:
    """An error's first lines."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(lines[:3]) + " ..." * (len(lines) > 3)


# A dry run: whether a profile's data, weights, packages, disk and memory are there.
COLUMNS = ["what", "found", "needed", "ok"]


def check(
    profile: str,
    root: str | Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    notebooks: Path = NOTEBOOKS,
) -> pd.DataFrame:
    """What a profile needs and what is there, a row each.

    Data sets are opened as training and testing open them, published test sets with their counts;
    weights are compared with their backbone, tensor by tensor. Those that come from the hub must
    be in its cache. A toy city need not be there, since a notebook renders it. Free disk and
    memory are compared with the estimates of `forecast.disk_bytes` and `forecast.memory_bytes`;
    for published sets that are not there, these take the published counts.

    Args:
        profile: name of a file in `notebooks/profiles`, without suffix.
        root: the data folder; None means `workspace.data_root()`.
        overrides: parameters that win over the profile's.

    Returns:
        columns what, found, needed, ok (bool).

    Raises:
        FileNotFoundError, ValueError: the profile itself is wrong, see `pipeline.load_profile`; or
            parameters that no model or recipe takes.
    """
    data = data_root() if root is None else Path(root)
    steps = load_profile(profile, overrides, notebooks)
    asked = [parameters_of(step) for step in steps]
    jobs = jobs_of(asked, data)
    rendered = inventory.rendered_sets(asked)
    rows = [
        _packages(),
        *inventory.toy_cities(data, rendered),
        *inventory.training_sets(data, jobs, rendered),
        *inventory.test_sets(data, jobs, rendered),
        *inventory.weights(jobs),
        *inventory.files(data, asked),
    ]
    images = {row.key: row.images for row in rows if row.key is not None}
    places = {row.key: row.places for row in rows if row.places}
    learned, described = forecast.work(jobs, places, images)
    rows += [_gpu(jobs), _disk(data, jobs, images), _memory(jobs, images)]
    rows.append(_work(jobs, learned, described))
    table = pd.DataFrame([row[: len(COLUMNS)] for row in rows], columns=COLUMNS)
    return table.drop_duplicates(ignore_index=True)  # a set by its name, and by its folder


def _packages() -> Row:
    try:
        wanted = [Requirement(text) for text in requires("dinomix") or []]
    except PackageNotFoundError:
        return Row("packages", "dinomix is not installed", "pip install --editable .", False)
    wanted = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
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


def _gpu(jobs: list[Job]) -> Row:
    large = sorted({job.variant.model.backbone for job in jobs} - set(TOY))
    needed = f"one, for {', '.join(large)}" if large else "none"
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        return Row("GPU", f"{torch.cuda.get_device_name(0)}, {_gb(memory)}", needed, True)
    if torch.backends.mps.is_available():
        return Row("GPU", "Apple's", needed, True)
    return Row("GPU", "none", needed, not large)


def _disk(data: Path, jobs: list[Job], images: Mapping[Test, int]) -> Row:
    there = next(folder for folder in (data, *data.absolute().parents) if folder.exists())
    return _room("free disk", shutil.disk_usage(there).free, forecast.disk_bytes(jobs, images))


def _memory(jobs: list[Job], images: Mapping[Test, int]) -> Row:
    available = psutil.virtual_memory().available
    return _room("free memory", available, forecast.memory_bytes(jobs, images))


def _room(what: str, found: int, needed: int) -> Row:
    return Row(what, _gb(found), f"{_gb(needed)} (estimated, at most)", found >= needed)


def _work(jobs: list[Job], learned: int, described: int) -> Row:
    runs = sum(job.variant.train is not None for job in jobs)
    found = f"{runs} runs and {len(jobs) - runs} models that do not learn"
    needed = f"to learn from {learned:,} images and describe {described:,} (estimated, at most)"
    return Row("work", found, needed, True)


def _gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
