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
    "load_published": "published",
    "Aggregator": "aggregators",
    "register_aggregator": "aggregators",
    "open_model": "opening",
    "open_testset": "opening",
    "export_onnx": "export",
    "export_program": "export",
    "mine_pairs": "losses",
    "multi_similarity_loss": "losses",
    "PlaceDataset": "datasets",
    "TestSet": "testsets",
    "Benchmark": "benchmarks",
    "BENCHMARKS": "benchmarks",
    "open_benchmark": "benchmarks",
    "TrainConfig": "training",
    "Run": "training",
    "train": "training",
    "Study": "studies",
    "Variant": "studies",
    "describe": "retrieval",
    "describe_to": "descriptors",
    "open_descriptors": "descriptors",
    "open_skipped": "descriptors",
    "skipped_images": "retrieval",
    "search": "neighbours",
    "ApproximateIndex": "indexes",
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
