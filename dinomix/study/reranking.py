"""A second look: the first matches of a retrieval compared again, image by image."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from dinomix.attention.heatmaps import device_of, left_alone
from dinomix.attention.patches import mutual
from dinomix.evaluation import UNLABELLED, Retrieval, hits
from dinomix.images import eval_transform, read_image
from dinomix.plumbing.configs import whole
from dinomix.plumbing.errors import extra
from dinomix.plumbing.tables import ALL
from dinomix.retrieval import ImageFiles, normaliser
from dinomix.statistics import paired

TOLERANCE = 1.0  # patches that a match may be off
Score = Callable[[Path, Path], float]  # of query and database image; higher is more alike


def rerank(
    retrieval: Retrieval,
    score: Score,
    first: int = 100,
    only: np.ndarray | None = None,
    *,
    progress: bool = True,
) -> Retrieval:
    """The first matches of each query in the order of a score of two images, highest first.

    Of equal scores, and behind the first ones, the order stays. What found nothing (-1) stays so.
    Similarities remain those of the descriptors, each with its image: they do not fall any more.

    Args:
        score: any function of the paths of a query and of a database image, such as
            `PatchScore(model)` or `vismatch_score(name)`; it keeps what it computes of an image.
        first: how many matches are scored; of fewer, all.
        only: bool (Q,), the queries that are looked at again; None: all.

    Raises:
        ValueError: `first` or `only` cannot be, or a score is no number.
    """
    asked = np.ones(len(retrieval.ranked), bool) if only is None else np.asarray(only)
    if asked.dtype != bool or asked.shape != retrieval.ranked.shape[:1]:
        raise ValueError(f"only is {asked.dtype} {asked.shape}: give each query a bool")
    first, test = whole("first", first, least=1), retrieval.test
    ranked, similarities = retrieval.ranked.copy(), retrieval.similarities.copy()
    for row in tqdm(np.flatnonzero(asked), "second look", unit="query", disable=not progress):
        columns = np.flatnonzero(ranked[row, :first] >= 0)
        found, query = ranked[row, columns], test.queries[row]
        scores = np.array([score(query, test.database[i]) for i in found], dtype=np.float64)
        if np.isnan(scores).any():
            raise ValueError(f"{query}: not all of its scores are numbers: {scores.tolist()}")
        order = np.argsort(-scores, kind="stable")
        ranked[row, columns] = found[order]
        similarities[row, columns] = similarities[row, columns][order]
    return replace(retrieval, ranked=ranked, similarities=similarities)


class PatchScore:
    """How many patches of two images are each other's nearest, and moved together.

    Patches are compared by cosine in the map that the model's aggregator gets. Of those that are
    mutually nearest, the ones count that one affine transform explains (RANSAC by OpenCV, which
    always draws the same); fewer than four prove nothing: 0. Nothing is trained.

    Images have `image_size`, as of `describe`; finer maps tell more. The maps of the `kept` ones
    met last stay where the model was, in half precision: 2 * s * h * w bytes each, 0.4 MB with
    DINOv2's base model at 224 pixels.

    Raises:
        ValueError: a foreign model, which shows no map, or a number that cannot be.
    """

    def __init__(self, model: nn.Module, image_size: Any = None, kept: int = 1000) -> None:
        self.model, self.backbone = model, model.backbone
        self.size = model.config.image_size if image_size is None else image_size
        self._map = lru_cache(whole("kept", kept))(self._compute)

    def __call__(self, query: Path, candidate: Path) -> int:
        with extra("notebooks"):
            import cv2

        here, there = mutual(*(self._map(path).float() for path in (query, candidate)))
        if len(here) < 4:
            return 0
        transform, inside = cv2.estimateAffine2D(
            *np.float32([here, there]), method=cv2.RANSAC, ransacReprojThreshold=TOLERANCE
        )
        return 0 if transform is None else int(inside.sum())

    @torch.no_grad()
    def _compute(self, path: Path) -> Tensor:
        """The map (s, h, w) of an image file."""
        files = ImageFiles([path], self.size, step=self.model.size_step)
        images = normaliser(self.model)(files[0][0][None])
        with left_alone(self.model):
            (found,) = self.backbone(images.to(device_of(self.model)))
        # Of unit length, which half precision holds whatever the features' scale.
        return F.normalize(found, dim=0).half()


def vismatch_score(matcher: str, image_size: int = 512, device: str = "cpu") -> Score:
    """How many matches of a matcher of vismatch (pip install vismatch) a homography explains."""
    from vismatch import get_matcher

    compare, pixels = get_matcher(matcher, device=device), eval_transform(image_size)

    def score(query: Path, candidate: Path) -> float:
        pair = [pixels(read_image(path)).float() / 255 for path in (query, candidate)]
        return compare(*pair)["num_inliers"]

    return score


def unsure_below(sure: np.ndarray, before: Retrieval, after: Retrieval) -> float:
    """The confidence (Q,) below which a second look should be taken, from a labelled set.

    With this bound, the most queries are right at first; of several such bounds, it is the lowest,
    which looks least often. Choose it on another set than the one that is reported.
    """
    was, now = _right(before, after)
    gained = now.astype(int) - was  # (Q,)
    bounds = np.append(np.unique(sure), np.inf)
    return float(bounds[np.argmax([gained[sure < bound].sum() for bound in bounds])])


def gains(before: Retrieval, after: Retrieval) -> str:
    """What a second look changed in recall@1, in words: a line of Markdown for each condition.

    The difference has its 95 % interval, and helps or harms where p < 0.05: `statistics.paired`.
    """
    (was, now), test = _right(before, after), before.test
    conditions, groups, lines = np.array(test.conditions), np.array(test.groups), []
    for condition in [*filter(None, dict.fromkeys(test.conditions)), ALL]:
        own = (conditions == condition) | (condition == ALL)
        found = paired(was[own], now[own], groups[own])
        verdict = "helps" if found.difference > 0 else "harms"
        verdict = verdict if found.p < 0.05 else "cannot be told from chance"
        said = "- {}: {:.1f} to {:.1f} % ({:+.1f} [{:+.1f}, {:+.1f}], p = {:.2g}): {}"
        shares = 100 * np.array([was[own].mean(), now[own].mean(), *found[:3]])
        lines.append(said.format(condition, *shares, found.p, verdict))
    return "\n".join(lines)


def _right(before: Retrieval, after: Retrieval) -> tuple[np.ndarray, np.ndarray]:
    """Which queries' first match is right, in each of the two: bool (Q,)."""
    if before.test.queries != after.test.queries:
        raise ValueError(f"{before.test.name} and {after.test.name} ask different queries")
    if before.positives is None or after.positives is None:
        raise ValueError(f"{before.test.name}: {UNLABELLED}")
    was, now = (hits(found.ranked[:, :1], found.positives)[:, 0] for found in (before, after))
    return was, now
