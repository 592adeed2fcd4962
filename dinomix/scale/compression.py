"""Smaller descriptors: PCA and PCA-whitening. `ApproximateIndex` codes them in bytes or bits."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from dinomix.plumbing.configs import whole
from dinomix.retrieval import described

FLAT = 1e-3  # of the largest deviation: below it, rounding is all there is


@dataclass(frozen=True)
class Projection:
    """PCA of descriptors: `projection(descriptors)` is (N, d) of unit length, from (N, D)."""

    mean: np.ndarray  # float32 (D,), of the training descriptors
    directions: np.ndarray  # float32 (d, D), by falling variance
    deviations: np.ndarray  # float32 (d,), how much the training descriptors vary in each

    @classmethod
    def fit(cls, training: np.ndarray, dim: int) -> Self:
        """The `dim` directions in which training descriptors (n, D) vary most.

        Fitted on what is tested, a recall would be too good. Rows of NaN are left out. A direction
        in which nothing varies becomes 0: it would hold rounding alone.

        Raises:
            ValueError: dim exceeds D, or there are no more than dim descriptors.
        """
        dim, sample = whole("dim", dim, least=1), training[described(training)]  # (n, D)
        sample = sample.astype(np.float32)  # of half precision, sums would be coarse
        if dim > sample.shape[1] or dim >= len(sample):
            raise ValueError(
                f"PCA to dim = {dim} needs more than {dim} training descriptors, of {dim} entries "
                f"at least, and not {sample.shape}"
            )
        mean = sample.mean(axis=0)
        centred = sample - mean
        wide = len(centred) < centred.shape[1]  # then the smaller matrix has the same variances
        products = (centred @ centred.T if wide else centred.T @ centred).astype(np.float64)
        variances, vectors = (each[..., : -dim - 1 : -1] for each in np.linalg.eigh(products))
        deviations = np.sqrt(variances.clip(min=0))  # (d,)
        flat = deviations <= FLAT * deviations[0]
        deviations[flat] = 1
        directions = vectors.T @ centred / deviations[:, None] if wide else vectors.T.copy()
        directions[flat] = 0
        return cls(mean, directions.astype(np.float32), deviations.astype(np.float32))

    def first(self, dim: int, whiten: bool = False) -> "Projection":
        """To the first `dim` directions; whitened, all vary alike (Jegou and Chum, ECCV 2012)."""
        scale = self.deviations[:dim, None] if whiten else 1
        return Projection(self.mean, self.directions[:dim] / scale, self.deviations[:dim])

    def __call__(self, descriptors: np.ndarray) -> np.ndarray:
        """float32 (N, d), rows of unit length; of NaN for those of (N, D), as of skipped images."""
        reduced = (descriptors - self.mean) @ self.directions.T  # (N, d)
        return reduced / np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-12)
