"""SALAD."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinomix.aggregators.base import Aggregator, at_least_float32, check_counts


class SALAD(Aggregator):
    """Clusters by optimal transport, next to the class token (Izquierdo & Civera 2024, Section 3).

    A small network scores each token against each cluster, and a learned score stands for the
    dustbin, where uninformative tokens go. Sinkhorn iterations turn the scores into a transport
    plan, which weighs the sum of reduced tokens in each cluster; the dustbin is thrown away. As in
    the authors' code they begin with the clusters, which takes a constant in a column of scores
    away again: the dustbin's score never changes a descriptor.

    Args:
        clusters: m, fewer than the map has positions; with more, forward raises ValueError.
        cluster_dim: l, to which each token is reduced.
        token_dim: g, to which the class token is reduced. The descriptor has g + m * l entries:
            the class token's, then channel by channel that of each cluster, as in the authors'
            code: channel i of cluster k is entry g + i * m + k.
        hidden: width of the three small networks' hidden layers.
        dropout: in the hidden layers of those for scores and tokens (authors' code).
        iterations: of Sinkhorn.
        projected: entries after a linear layer behind all this, as in MegaLoc (Berton & Masone
            2025); 0: no such layer.
    """

    takes_token = True
    version = 2  # 1 had the entries cluster by cluster

    def __init__(
        self,
        in_channels: int,
        clusters: int = 64,
        cluster_dim: int = 128,
        token_dim: int = 256,
        hidden: int = 512,
        dropout: float = 0.3,
        iterations: int = 3,
        projected: int = 0,
    ) -> None:
        super().__init__()
        check_counts(clusters=clusters, cluster_dim=cluster_dim, token_dim=token_dim)
        check_counts(hidden=hidden, iterations=iterations)
        check_counts(least=0, projected=projected)
        self.clusters, self.iterations = clusters, iterations
        self.dim = token_dim + clusters * cluster_dim
        # Linear over the channels of each position: the paper's 1x1 convolutions.
        self.score = _mlp(in_channels, hidden, clusters, dropout)
        self.reduce = _mlp(in_channels, hidden, cluster_dim, dropout)
        self.reduce_token = _mlp(in_channels, hidden, token_dim)
        self.dustbin = nn.Parameter(torch.ones(()))
        self.proj = nn.Linear(self.dim, projected) if projected else None
        self.dim = projected or self.dim

    def pool(self, maps: Tensor, token: Tensor) -> Tensor:
        x = maps.flatten(2).transpose(1, 2)  # (B, n, s), n = h*w
        if x.shape[1] <= self.clusters:
            raise ValueError(
                f"SALAD's dustbin takes what {self.clusters} clusters leave of the positions, and "
                f"maps of {maps.shape[2]}x{maps.shape[3]} leave nothing: take fewer clusters "
                "or larger images"
            )
        plan = self._transport(at_least_float32(self.score(x)))  # (B, n, m)
        reduced = at_least_float32(self.reduce(x))  # (B, n, l)
        clusters = at_least_float32(plan.transpose(1, 2) @ reduced)  # (B, m, l)
        clusters = F.normalize(clusters, dim=2).transpose(1, 2).flatten(1)  # (B, l*m)
        token = F.normalize(at_least_float32(self.reduce_token(token)), dim=1)  # (B, g)
        x = torch.cat([token, clusters], dim=1)
        return x if self.proj is None else self.proj(F.normalize(x, dim=1))

    def _transport(self, scores: Tensor) -> Tensor:
        """How much of each token goes to each cluster: (B, n, m) -> (B, n, m).

        Sinkhorn's iterations scale clusters and tokens in turn (Cuturi 2013). Each of n tokens has
        mass 1 to give, exactly so in the end; each cluster takes 1, and the dustbin n - m.
        """
        tokens = scores.shape[1]
        dustbin = self.dustbin.to(scores.dtype).expand(len(scores), tokens, 1)
        plan = torch.cat([scores, dustbin], dim=2)  # in logarithms, (B, n, m + 1)
        takes = plan.new_zeros(self.clusters + 1)
        takes[-1] = math.log(tokens - self.clusters)
        for _ in range(self.iterations):
            plan = plan.log_softmax(dim=1) + takes
            plan = plan.log_softmax(dim=2)
        return plan[:, :, :-1].exp()


def _mlp(inputs: int, hidden: int, outputs: int, dropout: float = 0.0) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.Dropout(dropout), nn.ReLU(), nn.Linear(hidden, outputs)
    )
