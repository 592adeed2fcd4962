"""BoQ, the bag of queries."""

import torch
from torch import Tensor, nn

from dinomix.aggregators.base import Aggregator, check_counts


class BoQ(Aggregator):
    """Learned queries look for what tells places apart (Ali-bey et al. 2024, Section 3).

    Blocks of a transformer refine the map's positions one after the other. In each, a bag of
    queries, the same for all images, attends to them; what all bags found is projected along the
    queries.

    Args:
        channels: c, to which a 3x3 convolution reduces the map, an attention head for each 64;
            the authors take 512 on a ResNet and 384 on DINOv2.
        queries: in each block's bag.
        row_dim: r; the descriptor has c * r entries, entry i * r + j being row j of channel i.

    Raises:
        ValueError: for a size below 1, or channels that cannot be shared out among the heads.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 512,
        queries: int = 64,
        layers: int = 2,
        row_dim: int = 32,
    ) -> None:
        super().__init__()
        check_counts(channels=channels, queries=queries, layers=layers, row_dim=row_dim)
        heads = max(1, channels // 64)
        if channels % heads:
            raise ValueError(
                f"BoQ cannot share out {channels} channels among {heads} heads, one for each 64: "
                "take a multiple of 64, or less than 128"
            )
        self.dim = channels * row_dim
        self.channel_proj = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1)
        self.norm = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(BoQBlock(channels, queries, heads) for _ in range(layers))
        self.row_proj = nn.Linear(layers * queries, row_dim)

    def pool(self, maps: Tensor) -> Tensor:
        x = self.norm(self.channel_proj(maps).flatten(2).transpose(1, 2))  # (B, n, c), n = h*w
        answers = []
        for block in self.blocks:
            x, answer = block(x)
            answers.append(answer)
        x = torch.cat(answers, dim=1).transpose(1, 2)  # (B, c, layers*queries)
        return self.row_proj(x).flatten(1)  # (B, c*r)


class BoQBlock(nn.Module):
    """Refines positions (B, n, c) and answers its queries from them: (B, n, c), (B, queries, c)."""

    def __init__(self, channels: int, queries: int, heads: int) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(
            channels, heads, dim_feedforward=4 * channels, dropout=0.0, batch_first=True
        )
        self.queries = nn.Parameter(torch.randn(1, queries, channels))
        self.self_attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.norm_queries = nn.LayerNorm(channels)
        self.cross_attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.norm_answer = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.encoder(x)
        # No image has a part in this, so it is done once for the whole batch.
        q = self.queries
        q = self.norm_queries(q + self.self_attention(q, q, q, need_weights=False)[0])
        q = q.expand(len(x), -1, -1)  # (B, queries, c)
        answer = self.cross_attention(q, x, x, need_weights=False)[0]
        return x, self.norm_answer(answer)
