"""From which confidence on an answer is trusted: chosen on a labelled set, for a precision."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import nn

from dinomix.confidence import method_named, threshold_for
from dinomix.data import TestSet
from dinomix.evaluation import MATCHES, UNLABELLED, retrieve
from dinomix.images import size_text
from dinomix.localization.photos import Position
from dinomix.plumbing.configs import Config, real, strict_dataclass
from dinomix.plumbing.files import atomic_path, to_json
from dinomix.plumbing.settings import read_fields
from dinomix.scale.descriptors import model_hash


@strict_dataclass
class Calibration(Config):
    """A threshold of confidence, what it is of, and what it came to on the labelled set."""

    model: str  # `model_hash`
    image_size: str  # as tables name it: "224 x 224"
    method: str  # one of `confidence.METHODS`
    threshold: float  # an answer at least so sure is trusted
    reach: float  # metres that a place reaches
    matches: int  # that the confidence is made of
    precision: float  # of the answers that it trusts, as the others of `precision_recall`
    recall: float
    answered: float
    queries: int  # how many there were
    dataset: str

    def __post_init__(self) -> None:
        method_named(self.method)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; ValueError or FileNotFoundError where it is something else."""
        return cls.from_dict(read_fields(path))

    def save(self, path: str | Path) -> None:
        """Write a JSON file, whole or not at all."""
        with atomic_path(path) as temporary:
            temporary.write_text(to_json(self) + "\n")

    def require(self, model: nn.Module, image_size: Any = None) -> None:
        """Raise ValueError for another model, or another image size, than was calibrated."""
        size = size_text(model.size_for(image_size))
        if (model_hash(model), size) != (self.model, self.image_size):
            raise ValueError(
                f"calibrated was model {self.model} at {self.image_size}, and this is "
                f"{model_hash(model)} at {size}: calibrate it"
            )

    def complaint(self, similarities: Sequence[float], positions: Sequence[Position | None]) -> str:
        """Why a query's answer is not to be trusted, by its matches, nearest first; or ""."""
        kind, unknown = positions[0] and positions[0].geographic, np.full(3, np.nan)
        places = [p.point if p and p.geographic == kind else unknown for p in positions]
        first = np.array([similarities[: self.matches]]), np.array([places[: self.matches]])
        sure = method_named(self.method)(*first, self.reach)[0]
        if sure >= self.threshold:
            return ""
        of = f"from which on {self.precision:.0%} were right on {self.dataset}"
        unit = " m" if self.method == "spread" else ""
        return f"its {self.method} is {sure:.3f}{unit}, below {self.threshold:.3f}{unit}, {of}"


def calibrate(
    model: nn.Module,
    test: TestSet,
    precision: float,
    method: str = "margin",
    **options: Any,
) -> Calibration:
    """The lowest confidence from which on the first matches of a labelled set are right so often.

    `precision` is a share, such as 0.95. It holds for places, conditions and a database like those
    of the set; a threshold of similarity shifts the most with them: from the toy city's validation
    to its test set, 0.91 became 0.79, and 0.92 of the margin 0.88. Options as of `retrieve`.

    Raises:
        ValueError: the set is unlabelled, or the precision not reached: the best one is named.
    """
    method_named(method)  # all is checked before any image is described
    if not 0 < real("precision", precision) <= 1:
        raise ValueError(f"precision is {precision!r}; it should be a share such as 0.95")
    if not test.labelled:
        raise ValueError(f"{test.name}: {UNLABELLED}")
    if method != "similarity" and test.unit != "m":
        raise ValueError(f"{test.name} is in {test.unit}, not in metres: calibrate similarity")
    found = retrieve(model, test, MATCHES, **options)
    chosen = threshold_for(found.precision_recall(method), precision)
    return Calibration(
        model=model_hash(model),
        image_size=size_text(model.size_for(options.get("image_size"))),
        method=method,
        reach=test.threshold,
        matches=MATCHES,
        queries=len(test.queries),
        dataset=test.name,
        **chosen,
    )
