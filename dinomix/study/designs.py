"""The experiments of the notebooks, each said once: which models their parameters ask for.

Nothing is opened before a study runs, so that `dinomix check` can read them without data.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dinomix.model import ModelConfig
from dinomix.plumbing.workspace import require
from dinomix.study.results import save_results
from dinomix.study.study import Study, Variant, variants
from dinomix.training import TrainConfig

Methods = Mapping[str, Mapping[str, Any]]

MODEL_FIELDS = ("backbone", "trained_blocks", "train_tokens", "mix_depth", "out_channels")
MODEL_FIELDS += ("out_rows", "image_size")


def lineup(name: str, methods: Iterable[str] | None = None) -> Methods:
    """The methods of a line-up in `lineups.toml`, in the order asked for; None means all of them.

    Raises:
        ValueError: no such line-up or method.
    """
    lineups = tomllib.loads(Path(__file__).with_name("lineups.toml").read_text("utf-8"))
    if name not in lineups:
        raise ValueError(f"no line-up {name!r}; there are {', '.join(lineups)}")
    every = lineups[name]
    methods = list(every if methods is None else methods)
    if unknown := [method for method in methods if method not in every]:
        raise ValueError(f"line-up {name!r} has no methods {unknown}; it has {list(every)}")
    return {method: every[method] for method in methods}


def open_profile(parameters: Mapping[str, Any]) -> "Setup":
    """What a notebook works with, from its `globals()`; makes the folder of its tables.

    Raises:
        FileNotFoundError: something that `required` names is not in the data folder.
    """
    setup = Setup(require(parameters["required"]), dict(parameters))
    setup.results.mkdir(parents=True, exist_ok=True)
    return setup


@dataclass(frozen=True)
class Setup:
    """A notebook's parameters, and what follows from them. `data` is the data folder."""

    data: Path
    parameters: Mapping[str, Any]

    @property
    def figures(self) -> Path:
        """The folder of the profile's figures."""
        return self.data / "figures" / self.parameters["profile"]

    @property
    def results(self) -> Path:
        """The folder of the profile's tables."""
        return self.data / "results" / self.parameters["profile"]

    @property
    def weights(self) -> str | Path | None:
        """Of the backbone, as of `build_model`."""
        return self._weights(self.parameters.get("weights", "hub"))

    @property
    def model(self) -> ModelConfig:
        """The model that all methods start from."""
        return ModelConfig(**{n: self.parameters[n] for n in MODEL_FIELDS if n in self.parameters})

    @property
    def recipe(self) -> TrainConfig:
        """The recipe that all methods start from."""
        return TrainConfig.preset(self.parameters["preset"], **self.parameters["train_changes"])

    @property
    def methods(self) -> Methods:
        """What is compared, in words of `study.variants`."""
        p = self.parameters
        if "lineup" in p:  # Tables 2 and 3
            changes = p.get("robust_changes")  # the future work
            robust = {"DINO-Mix, robust": {"train": changes}} if changes else {}
            return {**lineup(p["lineup"], p["methods"]), **robust}
        if "depths" in p:  # Fig. 5
            return {f"L = {depth}": {"mix_depth": depth} for depth in p["depths"]}
        if "shapes" in p:  # Fig. 6
            return {f"{d * r}-d": {"out_channels": d, "out_rows": r} for d, r in p["shapes"]}
        if "blocks" in p:  # Fig. 7
            files = {name: self._weights(file) for name, file in p["backbones"].items()}
            return {
                f"{name}, {count}": {"backbone": name, "trained_blocks": count, "weights": file}
                for name, file in files.items()
                for count in p["blocks"]
            }
        return {"DINO-Mix": {}}

    def variants(self, methods: Methods | None = None) -> list[Variant]:
        """`methods`, or the notebook's, each with each of its seeds."""
        p = self.parameters
        chosen = methods or self.methods
        seeds = p["seeds"] if "seeds" in p else [p["seed"]]
        return variants(chosen, self.model, self.recipe, weights=self.weights, seeds=seeds)

    def study(
        self,
        tests: Sequence[str | Sequence[str]] = (),
        *,
        places: str | None = None,
        val: str | None = None,
    ) -> Study:
        """What is trained on and tested on: names under the data folder, else the parameters'."""
        p = self.parameters
        named = [*p.get("test_folders", ()), *([p["test_folder"]] if "test_folder" in p else [])]
        places, val = places or p["train_folder"], val or p["val_folder"]
        more = {"images_per_place": p["images_per_place"], "ks": p.get("ks", Study.ks)}
        return Study.under(self.data, places, val, tests or named, **more)

    def experiments(self) -> list[tuple[Study, list[Variant]]]:
        """Every study of the notebook with its variants; none where nothing is trained."""
        if "preset" not in self.parameters:
            return []
        aerial = self.parameters.get("crossview_folder")
        if not aerial:
            return [(self.study(), self.variants())]
        on_both = self.study([aerial], places=f"{aerial}/train", val=aerial)
        both = self.variants({"DINO-Mix, trained on both views": {}})
        return [(self.study([aerial]), self.variants()), (on_both, both)]

    def save(self, results: pd.DataFrame, name: str) -> pd.DataFrame:
        """Write what `Study.run` gave as `<name>.csv`, and give it back with the profile."""
        table = results.assign(profile=self.parameters["profile"])
        return save_results([table], self.results / f"{name}.csv")

    def _weights(self, name: str | None) -> str | Path | None:
        return name if name in (None, "hub") else self.data / name
