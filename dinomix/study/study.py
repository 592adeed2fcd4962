"""A study: a list of variants, each trained and tested once, several at a time.

What is done is found by the hash of its config: a study that was killed, or that got one more
variant, only does what is missing.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm

from dinomix.aggregators import Aggregator, own_aggregators, register_aggregator
from dinomix.data import TWO, PlaceDataset, TestSet
from dinomix.datasets.benchmarks import BENCHMARKS, open_benchmark
from dinomix.evaluation import judge
from dinomix.exchange.foreign import ForeignModel
from dinomix.exchange.published import load_published, published_config, published_file
from dinomix.images import size_text
from dinomix.model import PRESETS, ModelConfig, PlaceModel, build_model, outline
from dinomix.plumbing import provenance
from dinomix.plumbing.configs import whole, wholes
from dinomix.plumbing.errors import ExplainedError, named
from dinomix.plumbing.files import config_hash
from dinomix.plumbing.summary import count_parameters
from dinomix.plumbing.tables import ResultsTable
from dinomix.retrieval import describe, pick_device
from dinomix.runs.machine import reproducible
from dinomix.runs.prefix import prefix_features
from dinomix.runs.run import Run, weights_id
from dinomix.runs.train import find_run, train
from dinomix.scale.descriptors import model_hash
from dinomix.study.results import read_queries, save_table
from dinomix.training import TrainConfig

if TYPE_CHECKING:
    from dask.distributed import Client


BAR = "study: {n_fmt} of {total_fmt} variants |{bar}| {elapsed}{postfix}"
SHOWN = 4  # variants beside the bar


@dataclass(frozen=True)
class Variant:
    """One model of a study, and how it is trained."""

    method: str  # its name in tables and figures, which several seeds share
    model: ModelConfig | ForeignModel
    train: TrainConfig | None  # None: used as it is built, as a foreign model always is
    weights: str | Path | None = "hub"  # of the backbone at the start, see `build_model`
    seed: int = 0  # of initial weights, batches and draws of images, in place of the recipe's
    image_size: Any = None  # to test at, as of `describe`; None: the model's
    published: bool = False  # `weights` is a whole model's file, as `load_published` reads it

    def __post_init__(self) -> None:
        if self.image_size is not None:  # what does not fit is said before hours of training
            model = self.model if isinstance(self.model, ForeignModel) else outline(self.model)
            size = model.size_for(self.image_size)
            object.__setattr__(self, "image_size", None if size == self.model.size else size)

    def __str__(self) -> str:
        return f"{self.method}, seed {self.seed}"


def variants(
    methods: Mapping[str, Mapping[str, Any]],
    base: ModelConfig,
    recipe: TrainConfig,
    *,
    weights: str | Path | None = "hub",
    seeds: Sequence[int] = (0,),
) -> list[Variant]:
    """Variants from literals, as a notebook's parameters hold them.

    Args:
        methods: name -> what is special about it: fields of ModelConfig that differ from `base`;
            `preset`: a name in `model.PRESETS` to start from instead; `train`: fields of
            TrainConfig that differ from `recipe`, or False for a model that does not learn;
            `weights`: of its backbone; `test_size`: the images' size in tests, as of `describe`.
            Or `published`: of a checkpoint, as of `load_published`, with no more than `test_size`.
        weights: of `base`'s backbone; other backbones take "hub" where a method names none.
        seeds: each method is trained once with each; one that does not learn takes the first.

    Raises:
        ValueError: no method; an unknown preset or field, or a wrong value. The method is named.
    """
    if not methods:
        raise ValueError("there is no method to train: name at least one (depth, shape, block)")
    seeds, found = wholes("seeds", seeds), []
    for method, special in methods.items():
        fields = dict(special)
        test_size, path = fields.pop("test_size", None), fields.pop("published", None)
        if path and fields:
            raise ValueError(f"{method} is published as it is: leave out {', '.join(fields)}")
        if path:
            path = published_file(path)
            fields = {"train": False, "weights": path}
        train, preset = fields.pop("train", {}), fields.pop("preset", None)
        try:
            start = (base if preset is None else named(PRESETS, preset, "preset")).to_dict()
            same = fields.get("backbone", start["backbone"]) == base.backbone
            chosen = fields.pop("weights", weights if same else "hub")
            model = published_config(path) if path else ModelConfig.from_dict(start | fields)
            learns = None if train is False else TrainConfig.from_dict(recipe.to_dict() | train)
            several = seeds if learns else seeds[:1]
            of_all = (test_size, bool(path))
            found += [Variant(method, model, learns, chosen, seed, *of_all) for seed in several]
        except ValueError as error:
            raise ValueError(f"{method}: {error}") from error
    return found


@dataclass(frozen=True)
class Study:
    """What all variants of a study share.

    A folder named as in `benchmarks.BENCHMARKS`, such as `data / "pitts30k-val"`, is that
    benchmark, and any other is in the UTM layout.
    """

    places: Path  # folder of training places (GSV-Cities layout)
    val: Path  # of which the split "val" is used
    tests: Sequence[Path | tuple[Path, str]]  # folders, or pairs (folder, split)
    out: Path  # folder of runs, as of `train`
    images_per_place: int = 4  # K
    ks: Sequence[int] = (1, 5, 10)

    def __post_init__(self) -> None:
        k = whole("images_per_place", self.images_per_place, 2, why=TWO)
        object.__setattr__(self, "images_per_place", k)
        object.__setattr__(self, "ks", tuple(wholes("ks", self.ks, least=1)))

    @classmethod
    def under(
        cls, data: Path, places: str, val: str, tests: Sequence[str | Sequence[str]], **more: Any
    ) -> "Study":
        """A study of what is named under `data`, with its runs in `data/runs`; more: K and ks."""
        pairs = [(test,) if isinstance(test, str) else test for test in tests]
        named = [(data / folder, *split) if split else data / folder for folder, *split in pairs]
        return cls(data / places, data / val, named, data / "runs", **more)

    def run(
        self,
        variants: Sequence[Variant],
        *,
        client: "Client | None" = None,
        workers: int | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Train and test every variant; the tables of `test`, in the order of `variants`.

        Args:
            client: of a Dask cluster whose workers see the same folders; None starts `workers`
                processes on this machine, by default `cluster.available_workers()`.

        Raises:
            ExplainedError: names every variant that failed, and why; the others are kept.
        """
        _places.cache_clear()  # data may have changed since, but does not change on the way
        _test_set.cache_clear()
        results = {  # a foreign model stays here: other processes may not have its code
            i: self.test(v)
            for i, v in enumerate(variants)
            if isinstance(v.model, ForeignModel) or self.is_done(v)
        }
        todo = {i: variant for i, variant in enumerate(variants) if i not in results}
        if todo:
            from dinomix.runs import cluster  # loads Dask

            count = min(workers or cluster.available_workers(), len(todo))
            profile = provenance.USED.get("profile", {})
            test = partial(_test_elsewhere, self, own_aggregators(), profile)
            with (
                nullcontext(client) if client else cluster.local_client(count) as client,
                tqdm(total=len(variants), bar_format=BAR, disable=not progress) as bar,
            ):
                watch = _Watch({i: self._asked(v) for i, v in todo.items() if v.train})
                for found in cluster.compute(client, test, todo):
                    results |= found
                    bar.n = len(results)
                    bar.set_postfix_str(watch.in_words(variants, results.keys()))
        tables = [results[i] for i in range(len(variants))]
        failed = {i: table for i, table in enumerate(tables) if isinstance(table, BaseException)}
        if failed:
            reasons = "".join(f"\n  {variants[i]}: {error!r}" for i, error in failed.items())
            raise ExplainedError(
                f"{len(failed)} of {len(variants)} variants failed; the others are done and kept. "
                f"Mend these and run the study again:{reasons}"
            ) from next(iter(failed.values()))
        found = ResultsTable(pd.concat(tables, ignore_index=True))
        for name in found.loc[found["run"] != "untrained", "run"].unique():
            Run.open(self.out / name).use()
        for each in self.test_sets():
            provenance.use(tests=f"{each.name} {each.fingerprint}")
        return found

    def test(self, variant: Variant) -> pd.DataFrame:
        """Recall of the variant on every test set, trained and tested now unless it is done.

        The columns are `results.COLUMNS` but for profile; val_recall is NaN and epoch 0 where
        nothing was trained.
        """
        run = None if variant.train is None else self.train(variant)
        tables = []
        for _, path in self._tested(variant, run, "recall"):
            table = pd.read_csv(path, keep_default_na=False, na_values={"mix_depth": [""]})
            tables.append(table.astype({"mix_depth": "Int64"}))
        return pd.concat(tables, ignore_index=True).assign(
            method=variant.method,
            image_size=size_text(variant.image_size or variant.model.size),  # not in older tables
            seed=variant.seed,
            run="untrained" if run is None else run.folder.name,
            val_recall=float("nan") if run is None else run.best["recall@1"],
            epoch=0 if run is None else int(run.best["epoch"]),
        )

    def queries(self, variants: Sequence[Variant]) -> pd.DataFrame:
        """What each variant found for each query of each test set: `Retrieval.queries`, beside it
        dataset, method, backbone and seed.

        Where a variant was tested before such tables were kept, they are made now; it is trained
        only if it was not.
        """
        tables = []
        for variant in variants:
            run = None if variant.train is None else self.train(variant)
            config = getattr(variant.model, "config", variant.model)  # of a foreign one
            which = {"method": variant.method, "backbone": config.backbone}
            for name, path in self._tested(variant, run, "queries"):
                tables.append(read_queries(path).assign(dataset=name, seed=variant.seed, **which))
        return pd.concat(tables, ignore_index=True)

    def train(self, variant: Variant, progress: bool = False) -> Run:
        """The run of a variant that learns, trained now unless it is there."""
        where = {"weights": variant.weights, "out": self.out}
        return train(*self._training(variant), **where, progress=progress)

    def load(self, variant: Variant) -> PlaceModel | ForeignModel:
        """The model of a variant, trained now unless it is there."""
        if isinstance(variant.model, ForeignModel):
            return variant.model
        if variant.train is not None:
            return self.train(variant).load()
        if variant.published:
            return load_published(variant.weights)
        with reproducible(variant.seed):
            return build_model(variant.model, variant.weights).eval()

    def is_trained(self, variant: Variant) -> bool:
        """Whether the variant is trained, or does not learn."""
        run = self._asked(variant)
        return run is None or run.is_finished()

    def is_done(self, variant: Variant) -> bool:
        """Whether the variant is trained and tested."""
        run = self._asked(variant)
        if run and not run.is_finished():
            return False
        return all(self._table_path(variant, run, test).is_file() for test in self.test_sets())

    def test_sets(self) -> list[TestSet]:
        """The test sets that `tests` names."""
        return [_test_set(*(test if isinstance(test, tuple) else (test,))) for test in self.tests]

    def _training(self, variant: Variant) -> tuple[ModelConfig, PlaceDataset, TestSet, TrainConfig]:
        places = _places(self.places, self.images_per_place, variant.seed)
        recipe = dataclasses.replace(variant.train, seed=variant.seed)
        return variant.model, places, _test_set(self.val, "val"), recipe

    def _asked(self, variant: Variant) -> Run | None:
        """The run that trains the variant, be it there or not; None where nothing learns."""
        if variant.train is None:
            return None
        where = {"weights": variant.weights, "out": self.out}
        return find_run(*self._training(variant), **where, finished=False)

    def _table_path(
        self, variant: Variant, run: Run | None, test: TestSet, kind: str = "recall"
    ) -> Path:
        if isinstance(variant.model, ForeignModel):
            name = model_hash(variant.model)
        elif run is None:
            weights = weights_id(variant.model.backbone, variant.weights)
            name = config_hash(variant.model.to_dict(), weights, variant.seed)
        folder = run.folder if run else self.out / "untrained" / name
        what = test.name, test.fingerprint, list(self.ks), *filter(None, [variant.image_size])
        return folder / f"{kind}-{config_hash(*what)}.csv"

    def _tested(self, variant: Variant, run: Run | None, kind: str) -> list[tuple[str, Path]]:
        """Each test set's table of a kind; where one lacks, the variant is tested now."""
        paths, model, last = [], None, {}
        for test in self.test_sets():
            path = self._table_path(variant, run, test, kind)
            paths.append((test.name, path))
            if not path.is_file():
                model = model or self.load(variant)
                self._evaluate(variant, run, model, test, last)
        return paths

    def _evaluate(
        self,
        variant: Variant,
        run: Run | None,
        model: PlaceModel,
        test: TestSet,
        last: dict[str, Any],
    ) -> None:
        """Write what is not there yet of a test's tables: of queries, and last that of recall.

        `last` keeps the database of the test set before, which may be this one's, too.
        """
        options = {"device": "auto", "progress": False, "image_size": variant.image_size}
        if variant.train is not None:
            options |= {"device": variant.train.device, "workers": variant.train.workers}
            cached = variant.train.cache_prefix and variant.image_size is None
            if cached and model.backbone.has_prefix:
                images, device = [*test.database, *test.queries], pick_device(options["device"])
                options["frozen"] = prefix_features(
                    model, images, self.out / "prefix", device=device, progress=False
                )
        parameters, trained = count_parameters(model)
        if test.labelled and last.get("images") != test.database:
            last["images"] = test.database
            last["descriptors"] = describe(model, test.database, **options)
        table, found = judge(model, test, self.ks, database=last.get("descriptors"), **options)
        table = table.assign(parameters=parameters, trained=trained)
        for kind, kept in (("queries", found.queries()), ("recall", table)):
            path = self._table_path(variant, run, test, kind)
            if not path.is_file():
                save_table(kept, path)


class _Watch:
    """How far runs are, read from what their processes write after each epoch.

    A run counts from its first new row on: what was there before tells nothing about what is left.
    """

    def __init__(self, runs: Mapping[int, Run]) -> None:
        self.runs = runs  # by the number of their variant
        self.seen = {i: run.written_history() for i, run in runs.items()}
        self.before = {i: len(history) for i, history in self.seen.items()}

    def in_words(self, variants: Sequence[Variant], done: Collection[int]) -> str:
        """The time left in all, and for each run that goes on its epochs and the time left."""
        self.seen |= {i: run.written_history() for i, run in self.runs.items() if i not in done}
        left, paces, words = {}, {}, {}  # epochs, seconds an epoch
        for i, history in self.seen.items():
            epochs = self.runs[i].train_config.epochs
            left[i] = 0 if i in done else epochs - max(0, len(history) - 1)
            if len(history) > self.before[i]:
                paces[i] = history["seconds"].iloc[1:].mean()  # NaN before the first is done
                words[i] = f"{variants[i]}: epoch {len(history) - 1} of {epochs}"
        pace = pd.Series(paces, index=list(left), dtype=float)
        seconds = (pd.Series(left, dtype=float) * pace.fillna(pace.mean())).dropna()
        words = {i: text for i, text in words.items() if i not in done}
        for i in seconds.index.intersection(list(words)):
            words[i] += f", {tqdm.format_interval(seconds[i])} left"
        in_all = tqdm.format_interval(seconds.sum() / max(1, len(words)))
        return "; ".join([f"about {in_all} left"] * bool(seconds.sum()) + [*words.values()][:SHOWN])


def _test_elsewhere(
    study: Study, own: Mapping[str, type[Aggregator]], profile: dict[str, None], variant: Variant
) -> pd.DataFrame:
    """`study.test` in another process, which may not have imported where aggregators come from."""
    provenance.USED["profile"] = profile
    for name, aggregator in own.items():
        register_aggregator(name)(aggregator)
    return study.test(variant)


@lru_cache(maxsize=8)
def _places(folder: Path, images_per_place: int, seed: int) -> PlaceDataset:
    return PlaceDataset(folder, images_per_place=images_per_place, seed=seed)


@lru_cache(maxsize=8)
def _test_set(folder: Path, split: str | None = None) -> TestSet:
    benchmark = BENCHMARKS.get(folder.name)
    if benchmark is not None and split in (None, benchmark.split):
        return open_benchmark(folder.name, folder.parent)
    return TestSet(folder, split)
