"""DINO-Mix for visual place recognition: the method, its training and its evaluation.

The names below are the ones that scripts and notebooks may rely on. They are loaded when first
used, so that `import dinomix` is instant and parts that need no torch (the toy city's renderer)
never pay for it.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "ModelConfig": "model",
    "PlaceModel": "model",
    "PRESETS": "model",
    "build_model": "model",
    "save_model": "model",
    "load_model": "model",
    "load_published": "exchange.published",
    "Aggregator": "aggregators",
    "register_aggregator": "aggregators",
    "open_model": "exchange.opening",
    "open_testset": "exchange.opening",
    "export_onnx": "exchange.export",
    "export_program": "exchange.export",
    "mine_pairs": "losses",
    "multi_similarity_loss": "losses",
    "PlaceDataset": "data",
    "TestSet": "data",
    "Benchmark": "datasets.benchmarks",
    "BENCHMARKS": "datasets.benchmarks",
    "open_benchmark": "datasets.benchmarks",
    "TrainConfig": "training",
    "Run": "runs.run",
    "train": "runs.train",
    "Study": "study.study",
    "Variant": "study.study",
    "describe": "retrieval",
    "describe_to": "scale.descriptors",
    "open_descriptors": "scale.descriptors",
    "open_skipped": "scale.descriptors",
    "skipped_images": "retrieval",
    "search": "scale.search",
    "ApproximateIndex": "scale.approximate",
    "positives": "evaluation",
    "recall_at_k": "evaluation",
    "retrieve": "evaluation",
    "evaluate": "evaluation",
    "localize": "localization",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
