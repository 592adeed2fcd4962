"""NetVLAD against loops written from its formulas; its first centroids."""

import math

import pytest
import torch
from torch import Tensor

from dinomix.aggregators import NetVLAD
from tests.aggregators.slowly import linear, local_descriptors, scrambled, unit


def distance(x: list[float], c: list[float]) -> float:
    return sum((u - v) ** 2 for u, v in zip(x, c, strict=True))


def softmax(logits: list[float]) -> list[float]:
    powers = [math.exp(v - max(logits)) for v in logits]
    return [v / sum(powers) for v in powers]


def vlad_slowly(xs: list[list[float]], shares: list[list[float]], centroids: Tensor) -> Tensor:
    """Eq. 4 with the normalisations, from each descriptor's shares (n, K)."""
    out = []
    for k, c in enumerate(centroids.tolist()):
        total = [
            sum(share[k] * (x[i] - c[i]) for x, share in zip(xs, shares, strict=True))
            for i in range(len(c))
        ]
        out += unit(total)
    return torch.tensor(unit(out)).double()


def test_netvlad_equals_its_formulas():
    netvlad = scrambled(NetVLAD(5, clusters=3))
    maps = torch.randn(2, 5, 2, 4, dtype=torch.float64)
    for image_maps, descriptor in zip(maps, netvlad(maps), strict=True):
        xs = local_descriptors(image_maps)
        shares = [softmax(linear(netvlad.assign, x)) for x in xs]
        torch.testing.assert_close(descriptor, vlad_slowly(xs, shares, netvlad.centroids))


@pytest.mark.parametrize("clusters", [2, 7])
def test_the_nearest_centroid_weighs_most_at_first(clusters):
    """Eq. 2, before it was written as a softmax of a linear layer."""
    netvlad = NetVLAD(4, clusters).double()
    netvlad.initialise(torch.randn(6, 4, 5, 5))
    # |x - c|^2 differs from -2 c.x + |c|^2 by |x|^2, which is the same for all clusters.
    k = torch.randint(clusters, ()).item()
    alpha = (netvlad.assign.weight[k, 0] / (2 * netvlad.centroids[k, 0])).item()
    maps = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    xs = local_descriptors(maps[0])
    shares = [softmax([-alpha * distance(x, c) for c in netvlad.centroids.tolist()]) for x in xs]
    expected = vlad_slowly(xs, shares, netvlad.centroids)
    torch.testing.assert_close(netvlad(maps)[0], expected, atol=1e-5, rtol=0)


def test_first_centroids_are_those_of_k_means():
    netvlad = NetVLAD(6, clusters=4)
    maps = torch.randn(5, 6, 4, 4)
    netvlad.initialise(maps)
    centroids = netvlad.centroids.tolist()
    members: list[list[list[float]]] = [[] for _ in centroids]
    ratios = []
    alpha = (netvlad.assign.weight / (2 * netvlad.centroids)).mean().item()
    for image_maps in maps:
        for x in local_descriptors(image_maps):
            squared = [distance(x, c) for c in centroids]
            members[squared.index(min(squared))].append(x)
            nearest, second, *_ = sorted(squared)
            ratios.append(math.exp(-alpha * nearest) / math.exp(-alpha * second))
    means = [[sum(values) / len(xs) for values in zip(*xs, strict=True)] for xs in members]
    torch.testing.assert_close(torch.tensor(means), netvlad.centroids.data, atol=1e-5, rtol=0)
    assert math.prod(ratios) ** (1 / len(ratios)) == pytest.approx(100, rel=1e-3)


def test_first_centroids_are_the_same_each_time():
    maps = torch.randn(8, 6, 5, 5)
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        netvlad = NetVLAD(6, clusters=8)
        netvlad.initialise(maps)
        states.append(netvlad.state_dict())
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())


def test_too_few_local_descriptors():
    netvlad = NetVLAD(4, clusters=13)
    with pytest.raises(ValueError, match=r"13 clusters need at least .* there are 12: give"):
        netvlad.initialise(torch.randn(2, 4, 2, 3))
    netvlad.initialise(torch.randn(2, 4, 7, 1))


def test_saved_weights_replace_random_centroids():
    trained, fresh = NetVLAD(4, clusters=3), NetVLAD(4, clusters=3)
    trained.initialise(torch.randn(4, 4, 3, 3))
    maps = torch.randn(2, 4, 3, 3)
    assert not torch.allclose(trained(maps), fresh(maps))
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(trained(maps), fresh(maps))
