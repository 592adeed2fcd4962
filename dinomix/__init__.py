"""DINO-Mix for visual place recognition: the method, its training and its evaluation.

The method reads from top to bottom in this order:
    images        a file becomes a tensor       losses       descriptors become a loss
    backbones     a tensor becomes a map        data         training places, test sets
    aggregators   a map becomes a descriptor    retrieval    descriptors, nearest neighbours
    weights       pretrained backbones          confidence   how sure a match is
    model         config, model, file           evaluation   recall@k
                                                training     the recipe and the step
All else lies in rooms above it, a folder each; `docs/architecture.md` shows the house.

The names below are those that scripts and notebooks may rely on. They are loaded when first used,
so that `import dinomix` is instant, and what needs no torch never pays for it.
"""

import importlib.util
from typing import TYPE_CHECKING, Any

from dinomix.plumbing import __version__

if TYPE_CHECKING:  # for editors and type checkers; a test compares it with HOMES and MODULES
    from dinomix.aggregators import Aggregator, register_aggregator
    from dinomix.data import PlaceDataset, TestSet
    from dinomix.datasets import benchmarks, layouts
    from dinomix.datasets.benchmarks import BENCHMARKS, Benchmark, open_benchmark
    from dinomix.evaluation import evaluate, positives, recall_at_k, retrieve
    from dinomix.exchange.export import export_onnx, export_program
    from dinomix.exchange.foreign import wrap_model
    from dinomix.exchange.opening import open_model, open_testset
    from dinomix.exchange.published import load_published
    from dinomix.localization import localize
    from dinomix.losses import mine_pairs, multi_similarity_loss
    from dinomix.model import (
        PRESETS,
        ModelConfig,
        PlaceModel,
        build_model,
        load_model,
        save_model,
    )
    from dinomix.retrieval import describe, skipped_images
    from dinomix.runs.run import Run
    from dinomix.runs.train import train
    from dinomix.scale.approximate import ApproximateIndex
    from dinomix.scale.descriptors import describe_to, open_descriptors, open_skipped, write_hloc
    from dinomix.scale.search import search
    from dinomix.study import reported
    from dinomix.study.reranking import rerank
    from dinomix.study.study import Study, Variant
    from dinomix.training import TrainConfig

HOMES = {
    "aggregators": ["Aggregator", "register_aggregator"],
    "data": ["PlaceDataset", "TestSet"],
    "datasets.benchmarks": ["BENCHMARKS", "Benchmark", "open_benchmark"],
    "evaluation": ["evaluate", "positives", "recall_at_k", "retrieve"],
    "exchange.export": ["export_onnx", "export_program"],
    "exchange.foreign": ["wrap_model"],
    "exchange.opening": ["open_model", "open_testset"],
    "exchange.published": ["load_published"],
    "localization": ["localize"],
    "losses": ["mine_pairs", "multi_similarity_loss"],
    "model": ["PRESETS", "ModelConfig", "PlaceModel", "build_model", "load_model", "save_model"],
    "retrieval": ["describe", "skipped_images"],
    "runs.run": ["Run"],
    "runs.train": ["train"],
    "scale.approximate": ["ApproximateIndex"],
    "scale.descriptors": ["describe_to", "open_descriptors", "open_skipped", "write_hloc"],
    "scale.search": ["search"],
    "study.reranking": ["rerank"],
    "study.study": ["Study", "Variant"],
    "training": ["TrainConfig"],
}
_HOME = {name: module for module, names in HOMES.items() for name in names}
MODULES = {"benchmarks": "datasets", "layouts": "datasets", "reported": "study"}
__all__ = ["__version__", *_HOME, *MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    else:  # a module that nobody has imported yet, such as `dinomix.backbones`
        path = f"{__name__}.{MODULES[name]}.{name}" if name in MODULES else f"{__name__}.{name}"
        if name.startswith("_") or importlib.util.find_spec(path) is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = importlib.import_module(path)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
