"""Which models a profile trains and tests, told from its parameters before anything runs."""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from dinomix.lineups import lineup
from dinomix.model import ModelConfig
from dinomix.pipeline import Step
from dinomix.recipes import TrainConfig
from dinomix.storage import config_hash
from dinomix.studies import Variant, variants

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
