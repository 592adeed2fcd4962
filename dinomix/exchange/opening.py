"""Models and test sets by what a person has of them: a path, or a name."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from dinomix.data import TestSet
from dinomix.datasets.benchmarks import BENCHMARKS, open_benchmark
from dinomix.datasets.layouts import read_csv
from dinomix.exchange.foreign import HUB, ForeignModel, from_torch_hub
from dinomix.exchange.published import by_name, load_published
from dinomix.model import PlaceModel, load_model
from dinomix.plumbing.errors import did_you_mean
from dinomix.plumbing.hub import WEIGHTS
from dinomix.plumbing.tensorfiles import read_safetensors_header
from dinomix.runs.run import CONFIG, Run

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # user/name
TABLES = ("database.csv", "queries.csv")
MODEL_SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt")


def open_model(
    source: str | Path, *, trust: bool = False, image_size: int | Sequence[int] | str | None = None
) -> PlaceModel | ForeignModel:
    """The trained model that `source` stands for, on the CPU, in evaluation mode.

    Args:
        source: a run's folder (its best epoch), a file of `save_model`, a folder of
            `save_pretrained`, a checkpoint or name that `load_published` reads, or, where there is
            no folder "user", a repository of the hub, "user/name".
            "torchhub:owner/repository:entry" is a foreign model, which comes as code.
        trust: run that code, which may do whatever you may.
        image_size: of a foreign model, as of `wrap_model`; others know theirs.

    Raises:
        FileNotFoundError: if there is no such model, or a run is not finished.
        HubError: if the hub gives nothing.
        ValueError: for a file that is damaged or holds no whole model, or code without trust.
    """
    if str(source).startswith(HUB):
        return from_torch_hub(str(source), image_size, trust=trust)
    if str(source) in (named := by_name().index):
        return load_published(source)
    path = Path(source)
    if path.is_file():
        ours = path.suffix == ".safetensors" and "dinomix_config" in read_safetensors_header(path)
        return load_model(path) if ours else load_published(path)
    if (path / WEIGHTS).is_file():
        return PlaceModel.from_pretrained(path)
    if path.is_dir():
        if not _is_run(path):
            raise FileNotFoundError(
                f"{path} holds no model: neither a run of train nor what save_pretrained writes "
                f"({CONFIG} and {WEIGHTS})"
            )
        return Run.open(path).load()
    if HUB_ID.fullmatch(str(source)) and path.suffix not in MODEL_SUFFIXES:
        if not path.parent.is_dir():  # else it is a mistyped path, and the hub's answer takes long
            return PlaceModel.from_pretrained(str(source))
        raise FileNotFoundError(
            f"the folder {path.parent} holds no {path.name}. If a repository of the hub is meant, "
            "call this from elsewhere"
        )
    raise FileNotFoundError(
        f"there is no model {source}: give a run's folder, a file of save_model, a folder of "
        "save_pretrained, a published checkpoint, a repository of the hub as user/name, "
        "torchhub:owner/repository:entry, or the name of a published model "
        f"({did_you_mean(str(source), named)})"
    )


def _is_run(folder: Path) -> bool:
    """Whether the config says if it is finished, as that of `save_pretrained` does not."""
    try:
        return "finished" in json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, TypeError, ValueError):
        return False


def open_testset(source: str | Path, split: str | None = None, *, strict: bool = True) -> TestSet:
    """The test set that `source` stands for; raises as `open_benchmark` and `TestSet`.

    Args:
        source: a name in `dinomix.BENCHMARKS`, which is opened from the data folder, or a folder
            in the UTM layout, or with the files of `read_csv`, database.csv and queries.csv;
            "./tokyo247" is a folder even where "tokyo247" is a benchmark.
        split: of a folder in the UTM layout; a benchmark has its own.
        strict: of `open_benchmark`.
    """
    if str(source) in BENCHMARKS:
        if split is not None:
            raise ValueError(
                f"the benchmark {source} is a split of its own, {BENCHMARKS[source].split!r}: "
                f"leave {split!r} out"
            )
        return open_benchmark(str(source), strict=strict)
    folder = Path(source)
    tables = [(folder.parent if folder.name in TABLES else folder) / name for name in TABLES]
    if split is None and all(table.is_file() for table in tables):
        return read_csv(*tables)
    try:
        return TestSet(source, split)
    except FileNotFoundError as error:
        if folder.is_dir():
            raise
        others = f"Or one with {' and '.join(TABLES)}. Benchmarks are {', '.join(BENCHMARKS)}."
        raise FileNotFoundError(f"{error} {others}") from None
