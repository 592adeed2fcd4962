"""NetVLAD."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinomix.aggregators.base import Aggregator, at_least_float32, check_counts


class NetVLAD(Aggregator):
    """A VLAD with soft, learned assignment (Arandjelovic et al. 2016, Eq. 3 and 4).

    Each local descriptor x, of unit length, is shared out among K clusters by a softmax over
    w_k.x + b_k, and the residuals x - c_k are summed with these weights, to unit length in each
    cluster. Weights, biases and centroids learn apart from each other, but start as
    w_k = 2 alpha c_k and b_k = -alpha |c_k|^2: the nearer, the more. Centroids are random until
    `initialise` finds the training images' own.

    Args:
        clusters: K >= 2; the descriptor has K * s entries, entry k * s + i being channel i of
            cluster k.
    """

    needs_features = True

    def __init__(self, in_channels: int, clusters: int = 64) -> None:
        super().__init__()
        check_counts(least=2, clusters=clusters)
        self.dim = clusters * in_channels
        self.assign = nn.Linear(in_channels, clusters)  # the paper's 1x1 convolution
        self.centroids = nn.Parameter(torch.empty(clusters, in_channels))
        self._start_from(F.normalize(torch.randn(clusters, in_channels), dim=1), alpha=10.0)

    def pool(self, maps: Tensor) -> Tensor:
        x = _local_descriptors(maps)  # (B, n, s)
        # A residual is a small difference, which half precision would drown in rounding.
        with torch.autocast(x.device.type, enabled=False):
            weight, bias, centroids = map(
                at_least_float32, (self.assign.weight, self.assign.bias, self.centroids)
            )
            share = F.linear(x, weight, bias).softmax(dim=2)  # (B, n, K)
            # sum_n a (x - c) as (sum_n a x) - (sum_n a) c: no tensor of all residuals.
            mass = share.sum(dim=1)[:, :, None]  # (B, K, 1)
            residuals = share.transpose(1, 2) @ x - mass * centroids  # (B, K, s)
        return F.normalize(residuals, dim=2).flatten(1)  # (B, K*s)

    @torch.no_grad()
    def initialise(self, maps: Tensor) -> None:
        """Centroids by k-means of the local descriptors in maps (N, s, h, w), and alpha with them.

        alpha lets a local descriptor's nearest cluster weigh a hundred times as much as the second
        nearest, in the (geometric) mean.

        Raises:
            ValueError: there are more clusters than local descriptors.
        """
        import faiss

        points = _local_descriptors(maps).flatten(0, 1).float().cpu().numpy()  # (N*n, s)
        clusters, channels = self.centroids.shape
        if len(points) < clusters:
            raise ValueError(
                f"{clusters} clusters need at least as many local descriptors, and there are "
                f"{len(points)}: give maps of more images"
            )
        # Above 256 points a cluster, FAISS goes on with a random sample of them.
        kmeans = faiss.Kmeans(channels, clusters, niter=50, seed=0, min_points_per_centroid=1)
        kmeans.train(points)
        squared, _ = kmeans.index.search(points, 2)  # distances to the two nearest, (N*n, 2)
        alpha = math.log(100) / float((squared[:, 1] - squared[:, 0]).mean())
        self._start_from(torch.from_numpy(kmeans.centroids), alpha)

    @torch.no_grad()
    def _start_from(self, centroids: Tensor, alpha: float) -> None:
        self.centroids.copy_(centroids)  # (K, s)
        self.assign.weight.copy_(2 * alpha * centroids)
        self.assign.bias.copy_(-alpha * centroids.square().sum(dim=1))


def _local_descriptors(maps: Tensor) -> Tensor:
    """The unit-length descriptors of all positions: (B, s, h, w) -> (B, n, s), n = h*w."""
    return F.normalize(at_least_float32(maps), dim=1).flatten(2).transpose(1, 2)
