"""Smaller descriptors: PCA and PCA-whitening. `ApproximateIndex` codes them in bytes or bits."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from dinomix.plumbing.configs import whole
from dinomix.retrieval import described

FLAT = 1e-6  # a direction's share of the largest variance below which rounding is all there is


@dataclass(frozen=True)
class Projection:
    """PCA of descriptors: `projection(descriptors)` is (N, d) of unit length, from (N, D)."""

    mean: np.ndarray  # float32 (D,), of the training descriptors
    directions: np.ndarray  # float32 (d, D), by falling variance; of whitening divided by its root

    @classmethod
    def fit(cls, training: np.ndarray, dim: int, *, whiten: bool = False) -> Self:
        """The `dim` directions in which training descriptors vary most. One in which they do not
        vary at all becomes 0: it would hold rounding alone.

        Args:
            training: float32 (n, D), of images that are trained on: fitted on what is tested, a
                recall would be too good. Rows of NaN are left out.
            whiten: give all directions the same variance (Jegou and Chum, ECCV 2012).

        Raises:
            ValueError: dim exceeds D, or there are no more than dim descriptors.
        """
        dim, sample = whole("dim", dim, least=1), np.asarray(training, np.float32)
        sample = sample[described(sample)]  # (n, D)
        if dim > sample.shape[1]:
            raise ValueError(f"dim is {dim}, but the descriptors have {sample.shape[1]} entries")
        if dim >= len(sample):
            raise ValueError(
                f"PCA to dim = {dim} needs more than {dim} training descriptors, not {len(sample)}"
            )
        mean = sample.mean(axis=0)
        centred = sample - mean
        wide = len(centred) < centred.shape[1]  # then the smaller matrix has the same variances
        products = (centred @ centred.T if wide else centred.T @ centred).astype(np.float64)
        variances, vectors = (x[..., ::-1][..., :dim] for x in np.linalg.eigh(products))
        directions = vectors.T @ centred if wide else vectors.T.copy()  # (d, D)
        varies = variances > FLAT * variances[0]
        directions[~varies] = 0
        lengths = np.linalg.norm(directions[varies], axis=1)
        scales = np.sqrt(variances[varies] / variances[0]) if whiten else 1
        directions[varies] /= (lengths * scales)[:, None]
        return cls(mean, directions.astype(np.float32))

    def first(self, dim: int) -> Self:
        """The projection to the first `dim` of the d directions, as `fit` would give it."""
        return replace(self, directions=self.directions[:dim])

    def __call__(self, descriptors: np.ndarray) -> np.ndarray:
        """float32 (N, d), rows of unit length; of NaN where (N, D) has one, as of skipped images.

        Raises:
            ValueError: the descriptors have other than D entries.
        """
        if descriptors.ndim != 2 or descriptors.shape[1] != len(self.mean):
            raise ValueError(
                f"descriptors should be (N, {len(self.mean)}), but are {descriptors.shape}"
            )
        reduced = (descriptors - self.mean) @ self.directions.T  # (N, d)
        return reduced / np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-12)
