"""How much the stand-in backbones know before any training for places.

    python benchmarks/standins.py data/toycity

appends R@1 on the city's validation set, by condition, to benchmarks/RESULTS.md: of GeM (p = 3),
and of "best patches": the mean, over a query's patches, of the largest cosine to any patch of the
other image.
"""

import sys

import pandas as pd
import torch
from report import record

import dinomix
from dinomix.backbones import TOY


@dinomix.register_aggregator("all_patches")
class AllPatches(dinomix.Aggregator):
    """Every patch by itself, of unit length."""

    def __init__(self, in_channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.dim = in_channels * grid[0] * grid[1]

    def pool(self, maps: torch.Tensor) -> torch.Tensor:  # (B, s, h, w) -> (B, h*w*s)
        return torch.nn.functional.normalize(maps, dim=1).flatten(2).mT.flatten(1)


def judge(backbone: str, test: dinomix.TestSet) -> pd.DataFrame:
    """A row for each of the two ways, a column for each condition."""
    gem, patches = (
        dinomix.build_model(
            dinomix.ModelConfig(backbone, aggregator=how, image_size=112, trained_blocks=0), "hub"
        )
        for how in ("gem", "all_patches")
    )
    paths, s = [*test.database, *test.queries], patches.backbone.out_channels
    found = torch.from_numpy(dinomix.describe(patches, paths)).unflatten(1, (-1, s))
    kept = dict(zip(paths, found, strict=True))  # path -> (h*w, s)

    def score(query, other) -> float:
        return float((kept[query] @ kept[other].T).amax(1).mean())

    count = len(test.database)
    first = dinomix.retrieve(gem, test, k=count)
    ways = {"GeM": first, "best patches": dinomix.rerank(first, score, count)}
    return pd.DataFrame(
        {"backbone": backbone, "channels": s, "R@1 of": way}
        | way_found.table([1]).set_index("condition")["recall"].round(1).to_dict()
        for way, way_found in ways.items()
    )


if __name__ == "__main__":
    val = dinomix.TestSet(sys.argv[1], split="val")
    record(
        "The stand-in backbones, frozen, on the toy city's validation set",
        pd.concat([judge(backbone, val) for backbone in TOY]),
        f"{len(val.queries)} queries, {len(val.database)} images of 112 px; R@1 in percent.",
    )
