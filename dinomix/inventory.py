"""Which data sets and weights that a profile names are there, and whether they are what they
should be. They are opened as training and testing open them; nothing is rendered or fetched.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dinomix.backbones import DINOV3, TOY
from dinomix.backbones.names import timm_name
from dinomix.benchmarks import BENCHMARKS, Benchmark, open_benchmark
from dinomix.datasets import PlaceDataset
from dinomix.gsv import CITIES
from dinomix.jobs import Job, Test
from dinomix.model import PlaceModel
from dinomix.testsets import TestSet
from dinomix.toycity import crossview, writer
from dinomix.toycity.config import ToyCityConfig
from dinomix.weights import load_backbone_weights

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
