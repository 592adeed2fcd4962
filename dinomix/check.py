"""A dry run: whether a profile's data, weights, packages, disk and memory are there.

Nothing is written, rendered, trained or fetched.
"""

import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch
from packaging.requirements import Requirement

from dinomix import forecast, inventory
from dinomix.backbones import TOY
from dinomix.inventory import Row
from dinomix.jobs import Job, Test, jobs_of, parameters_of
from dinomix.pipeline import NOTEBOOKS, load_profile
from dinomix.workspace import data_root

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
