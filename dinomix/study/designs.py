"""The experiments of the notebooks, each said once: which models their parameters ask for.

Nothing is opened before a study runs, so that `dinomix check` can read them without data.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dinomix.datasets.benchmarks import BENCHMARKS
from dinomix.exchange.published import CHECKPOINTS, files_here
from dinomix.model import ModelConfig
from dinomix.plumbing import provenance
from dinomix.plumbing.configs import with_family
from dinomix.plumbing.errors import MissingDataError, did_you_mean, named
from dinomix.plumbing.files import atomic_path, config_hash
from dinomix.plumbing.settings import cell_values, refuse_unknown, refuse_unlike
from dinomix.plumbing.tables import flat, printed, readable
from dinomix.plumbing.workspace import data_root, figure_style, require
from dinomix.study.results import QUERIES, QUERY_COLUMNS, save_results, save_table
from dinomix.study.study import Study, Variant, variants
from dinomix.training import TrainConfig

if TYPE_CHECKING:
    from IPython.display import Markdown
    from pandas.io.formats.style import Styler

Methods = Mapping[str, Mapping[str, Any]]

PUBLISHED = "published"  # a line-up
MODEL_FIELDS = ("backbone", "trained_blocks", "train_tokens", "mix_depth", "out_channels")
MODEL_FIELDS += ("out_rows", "image_size")
MADE = "run notebook 00 or `make demo` for the toy city, `dinomix prepare` for a benchmark"
AS_TEXT = " (papermill's -y reads lists, its -p takes them for text)"
PAPERMILL = "# Parameters\n"  # how the cell begins that it puts below the one of parameters


def lineup(name: str, methods: Iterable[str] | None = None, data: Path | None = None) -> Methods:
    """The methods of a line-up in `lineups.toml`, in the order asked for; None means all of them.

    "published" is every checkpoint that lies in the folder `checkpoints` of the data folder.

    Raises:
        MissingDataError: there is none.
        ValueError: no such line-up or method.
    """
    lineups = tomllib.loads(Path(__file__).with_name("lineups.toml").read_text("utf-8"))
    families, lineups[PUBLISHED] = lineups.pop("families"), {}
    if name == PUBLISHED:
        data = data or data_root()
        lineups[name] = {each: {"published": path} for each, path in files_here(data).items()}
        if not lineups[name]:
            raise MissingDataError(
                f"no published checkpoint lies in {data / CHECKPOINTS}: load_published(name) gets "
                "one (`dinomix models` lists the names), or put files of their authors there"
            )
    every = named(lineups, name, "line-up")
    methods = list(every if methods is None else methods)
    if unknown := [method for method in methods if method not in every]:
        raise ValueError(
            f"line-up {name!r} has no methods {unknown}; {did_you_mean(unknown[0], every)}"
        )
    return {method: with_family(every[method], families) for method in methods}


def open_profile(parameters: Mapping[str, Any]) -> "Setup":
    """What a notebook works with, from its `globals()`; makes the folder of its tables.

    Where papermill alone gave it other parameters, tables and figures go to a folder of their own.

    Raises:
        MissingDataError: a data set, or what `required` names, is not in the data folder.
        ParameterError: papermill gave what no parameter is called, or takes.
        ValueError: there is no such style of figures.
    """
    parameters = dict(parameters)
    if changed := _given_by_papermill(parameters):
        parameters["profile"] += f"-{config_hash(changed)[:6]}"
        print(f"other parameters: tables and figures go to the profile {parameters['profile']}")
    figure_style(parameters.get("style"))
    setup = Setup(data_root(), parameters)
    require(setup.sets() | parameters["required"], setup.data)
    setup.results.mkdir(parents=True, exist_ok=True)
    provenance.USED.clear()
    provenance.use(profile=parameters["profile"])
    return setup


def _given_by_papermill(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that differ from the notebook's own, unless they name a profile themselves."""
    for cell, below in pairwise(parameters.get("In", ())):  # the sources that IPython keeps
        if below.startswith(PAPERMILL) and "required = " in cell:
            defaults, given = cell_values(cell), cell_values(below)
            refuse_unknown(given, defaults, "this notebook")
            refuse_unlike(given, defaults, "this notebook", AS_TEXT)
            changed = {name: v for name, v in given.items() if v != defaults[name]}
            return {} if "profile" in given else changed
    return {}


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
            return {**lineup(p["lineup"], p["methods"], self.data), **robust}
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
        """`methods`, or the notebook's, each with each of its seeds.

        What the notebook's `train_changes` ask for goes before a method's own recipe.
        """
        p = self.parameters
        asked = p.get("train_changes", {})
        chosen = {
            name: fields | ({"train": fields["train"] | asked} if fields.get("train") else {})
            for name, fields in (methods or self.methods).items()
        }
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

    def sets(self) -> dict[str, str]:
        """Folders under the data folder that the notebook reads: how to make them."""
        p = self.parameters
        tests = [test if isinstance(test, str) else test[0] for test in p.get("test_folders", ())]
        uses = ("train", "val", "test", "city")[2 * (p.get("lineup") == PUBLISHED) :]  # none learns
        named = [p.get(f"{use}_folder") for use in uses] + tests
        folders = [BENCHMARKS[n].folder if n in BENCHMARKS else n for n in named if n]
        rendered = p["city_folder"] if "city" in p else None  # by the notebook itself
        return {top: MADE for f in folders if (top := Path(f).parts[0]) != rendered}

    def experiments(self) -> list[tuple[Study, list[Variant]]]:
        """Every study of the notebook with the variants that it trains, maybe none."""
        if "preset" not in self.parameters:
            return []
        aerial = self.parameters.get("crossview_folder")
        if not aerial:
            only_shows = "watched" in self.parameters  # notebook 10: what others have trained
            return [(self.study(), [] if only_shows else self.variants())]
        on_both = self.study([aerial], places=f"{aerial}/train", val=aerial)
        both = self.variants({"DINO-Mix, trained on both views": {}})
        return [(self.study([aerial]), self.variants()), (on_both, both)]

    def save(self, results: pd.DataFrame, name: str) -> pd.DataFrame:
        """Write what `Study.run` gave as `<name>.csv`, and give it back with the profile."""
        table = results.assign(profile=self.parameters["profile"])
        return save_results([table], self._made(self.results / f"{name}.csv"))

    def keep(self, table: pd.DataFrame, name: str) -> pd.DataFrame:
        """Write any other table of numbers as `<name>.csv` beside the results; gives it back."""
        save_table(flat(table), self._made(self.results / f"{name}.csv"))
        return table

    def measure(self, name: str, study: Study | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Run the notebook's variants in `study`, or its own, and save their results by `name`.

        Returns:
            the results as `save` gives them, and beside them the queries, as of `Study.queries`.
        """
        study, asked = study or self.study(), self.variants()
        results = self.save(study.run(asked), name)
        queries = study.queries(asked)
        save_table(queries[QUERY_COLUMNS], self.results / f"{name}{QUERIES}")
        return results, queries

    def save_table(self, table: pd.DataFrame, name: str, better: str = "") -> "Styler":
        """Write a table that the notebook shows, for papers, and give it back to be shown.

        As `<name>.csv`, with all digits, `.md` and `.tex` in the folder `tables` of the figures;
        the last two, and what is shown, as `tables.printed`, which says what `better` is.
        """
        path = self._made(self.figures / "tables" / f"{name}.csv")
        save_table(flat(table), path)
        told = json.dumps(provenance.read(path))
        for suffix, text in printed(table, better).items():
            comment = {".md": f"<!-- dinomix {told} -->\n\n", ".tex": f"% dinomix {told}\n"}[suffix]
            with atomic_path(path.with_name(f"{name}{suffix}")) as temporary:
                temporary.write_text(comment + text, encoding="utf-8")
        return readable(table, better)

    def found(self, number: str) -> "Markdown":
        """What the notebook of this number concludes from its tables."""
        from IPython.display import Markdown

        from dinomix.study.conclusions import conclude  # here, for that is a command, too

        return Markdown(conclude(self.results, number))

    def _made(self, table: Path) -> Path:
        """The path of a table in CSV that is written next: what makes it is written beside it."""
        provenance.write(provenance.beside(table), provenance.describe())
        return table

    def _weights(self, name: str | None) -> str | Path | None:
        return name if name in (None, "hub") else self.data / name
