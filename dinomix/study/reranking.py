"""A second look: the first matches of a retrieval compared again, image by image."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import Tensor, nn
from tqdm.auto import tqdm

from dinomix.attention.heatmaps import device_of, left_alone
from dinomix.attention.patches import mutual
from dinomix.evaluation import UNLABELLED, Retrieval, hits
from dinomix.images import eval_transform, read_image
from dinomix.model import PlaceModel
from dinomix.plumbing.configs import whole
from dinomix.plumbing.tables import ALL
from dinomix.retrieval import ImageFiles, normaliser

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
        given = f"only is {asked.dtype} {asked.shape}"
        raise ValueError(f"{given}: give each of the {len(retrieval.ranked)} queries a bool")
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

    Images have `image_size` (None: the model's); finer maps tell more. The maps of the `kept` ones
    met last stay where the model was, in half precision: 2 * s * h * w bytes each, 0.4 MB with
    DINOv2's base model at 224 pixels.

    Raises:
        ValueError: the model is no PlaceModel, or a number cannot be.
    """

    def __init__(self, model: nn.Module, image_size: int | None = None, kept: int = 1000) -> None:
        if not isinstance(model, PlaceModel):
            other = "take another score, such as vismatch_score(name)"
            raise ValueError(f"{type(model).__name__} shows no map of patches: {other}")
        self.model, self.size = model, image_size or model.config.image_size
        self._map = lru_cache(whole("kept", kept))(self._compute)

    def __call__(self, query: Path, candidate: Path) -> int:
        import cv2

        device = device_of(self.model)  # to which it may have been moved
        maps = (self._map(path).to(device).float() for path in (query, candidate))
        here, there = mutual(*maps)
        if len(here) < 4:
            return 0
        transform, inside = cv2.estimateAffine2D(
            *np.float32([here, there]), method=cv2.RANSAC, ransacReprojThreshold=TOLERANCE
        )
        return 0 if transform is None else int(inside.sum())

    @torch.no_grad()
    def _compute(self, path: Path) -> Tensor:
        """The map (s, h, w) of an image file."""
        images = normaliser(self.model)(ImageFiles([path], self.size)[0][0][None])
        with left_alone(self.model):
            (found,) = self.model.backbone(images.to(device_of(self.model)))
        # Of unit length, which half precision holds whatever the features' scale.
        return F.normalize(found, dim=0).half()


def vismatch_score(matcher: str, image_size: int = 512, device: str = "cpu") -> Score:
    """How many matches of a matcher of vismatch a homography explains.

    Raises:
        ImportError: vismatch is not installed.
    """
    try:
        from vismatch import get_matcher
    except ImportError as error:
        raise ImportError(f"{error}: pip install vismatch, or take PatchScore(model)") from error
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
    order = np.argsort(sure, kind="stable")
    bounds = np.append(sure[order], np.inf)
    gained = np.cumsum([0, *(_right(after).astype(int) - _right(before))[order]])  # (Q + 1,)
    possible = np.append(True, bounds[1:] != bounds[:-1])  # equals are looked at together
    return float(bounds[np.where(possible, gained, -np.inf).argmax()])


def gains(before: Retrieval, after: Retrieval) -> str:
    """What a second look changed in recall@1, in words: a line of Markdown for each condition.

    It helps or harms where an exact McNemar test of the queries won and lost says p < 0.05.
    """
    was, now, conditions = _right(before), _right(after), np.array(before.test.conditions)
    lines = []
    for condition in [*filter(None, dict.fromkeys(before.test.conditions)), ALL]:
        own = (conditions == condition) | (condition == ALL)
        won, lost = int(np.sum(own & now & ~was)), int(np.sum(own & was & ~now))
        p = binomtest(won, won + lost).pvalue if won + lost else 1.0
        verdict = "cannot be told from chance" if p >= 0.05 else "helps" if won > lost else "harms"
        recalls = f"{100 * was[own].mean():.1f} to {100 * now[own].mean():.1f} %"
        lines.append(f"- {condition}: {recalls} ({won} won, {lost} lost, p = {p:.2g}): {verdict}")
    return "\n".join(lines)


def _right(retrieval: Retrieval) -> np.ndarray:
    """Which queries' first match is right: bool (Q,)."""
    if retrieval.positives is None:
        raise ValueError(f"{retrieval.test.name}: {UNLABELLED}")
    return hits(retrieval.ranked[:, :1], retrieval.positives)[:, 0]
