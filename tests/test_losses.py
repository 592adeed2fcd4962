"""The loss against slow loops over its formula and against pytorch-metric-learning."""

import math

import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import MultiSimilarityLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner

from dinomix.losses import (
    cosine_similarities,
    loss_and_mined_share,
    mine_pairs,
    multi_similarity_loss,
)


def batch(places=8, images=4, dim=16, spread=1.0, seed=0, dtype=torch.float32):
    """Descriptors of any length around a random direction for each place."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(places, 1, dim, generator=generator)
    noise = spread * torch.randn(places, images, dim, generator=generator)
    desc = (centres + noise).flatten(0, 1).to(dtype)
    order = torch.randperm(len(desc), generator=generator)
    labels = torch.arange(places).repeat_interleave(images) * 7 - 3
    return desc[order].requires_grad_(), labels[order]


def slow_masks(similarities, labels, epsilon):
    n = len(labels)
    positive = torch.zeros(n, n, dtype=torch.bool)
    negative = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        positives = [j for j in range(n) if j != i and labels[j] == labels[i]]
        negatives = [j for j in range(n) if labels[j] != labels[i]]
        if not positives or not negatives:
            continue
        farthest = min(similarities[i, j] for j in positives)
        nearest = max(similarities[i, j] for j in negatives)
        for j in positives:
            positive[i, j] = similarities[i, j] - epsilon < nearest
        for j in negatives:
            negative[i, j] = similarities[i, j] + epsilon > farthest
    return positive, negative


def slow_loss(similarities, positive, negative, alpha, beta, base):
    total = 0.0
    for i in range(len(similarities)):
        pull = sum(math.exp(-alpha * (s - base)) for s in similarities[i][positive[i]].tolist())
        push = sum(math.exp(beta * (s - base)) for s in similarities[i][negative[i]].tolist())
        total += math.log(1 + pull) / alpha + math.log(1 + push) / beta
    return total / len(similarities)


def reference(desc, labels, mined=True):
    distance = CosineSimilarity()
    loss = MultiSimilarityLoss(alpha=1, beta=50, base=0.0, distance=distance)
    miner = MultiSimilarityMiner(epsilon=0.1, distance=distance)
    return loss(desc, labels, miner(desc, labels) if mined else None)


@pytest.mark.parametrize("spread", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5])
def test_miner_keeps_what_the_slow_loop_keeps(spread, epsilon):
    desc, labels = batch(spread=spread)
    similarities = cosine_similarities(desc.detach())
    expected = slow_masks(similarities, labels, epsilon)
    found = mine_pairs(similarities, labels, epsilon)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_mined_share_counts_anchors():
    desc, labels = batch(spread=0.5)
    similarities = cosine_similarities(desc.detach())
    positive, negative = slow_masks(similarities, labels, 0.1)
    anchors = sum(bool(positive[i].any() or negative[i].any()) for i in range(len(labels)))
    assert 0 < anchors < len(labels)  # else this test would say little
    loss, share = loss_and_mined_share(desc, labels)
    assert share.item() == pytest.approx(anchors / len(labels))
    assert torch.equal(loss, multi_similarity_loss(desc, labels))


@pytest.mark.parametrize("mined", [True, False])
@pytest.mark.parametrize(("alpha", "beta", "base"), [(1, 50, 0.0), (2, 40, 0.5)])
def test_loss_is_the_formula(mined, alpha, beta, base):
    desc, labels = batch(dtype=torch.float64)
    similarities = cosine_similarities(desc.detach())
    epsilon = 0.1 if mined else 10.0  # cosines differ by 2 at most: 10 keeps every pair
    masks = slow_masks(similarities, labels, epsilon)
    expected = slow_loss(similarities, *masks, alpha, beta, base)
    found = multi_similarity_loss(desc, labels, alpha, beta, base, mined=mined)
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mined", [True, False])
@pytest.mark.parametrize("spread", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_and_gradient_equal_pytorch_metric_learning(mined, spread, dtype):
    ours, labels = batch(places=20, spread=spread, dtype=dtype)
    theirs = ours.detach().clone().requires_grad_()
    loss, expected = (
        multi_similarity_loss(ours, labels, mined=mined),
        reference(theirs, labels, mined),
    )
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_gradient_against_finite_differences():
    desc, labels = batch(places=3, images=3, dim=4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: multi_similarity_loss(x, labels), desc)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype):
    desc, labels = batch()
    half = desc.detach().to(dtype).requires_grad_()
    whole = half.detach().float().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        loss = multi_similarity_loss(half, labels)
    loss.backward()
    expected = multi_similarity_loss(whole, labels)
    expected.backward()
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert torch.equal(half.grad, whole.grad.to(dtype))


def test_extreme_exponents_stay_finite():
    desc, labels = batch()
    loss = multi_similarity_loss(desc, labels, alpha=500.0, beta=5000.0, mined=False)
    loss.backward()
    assert loss.isfinite()
    assert desc.grad.isfinite().all()


@pytest.mark.parametrize("mined", [True, False])
def test_length_of_descriptors_does_not_matter(mined):
    desc, labels = batch()
    lengths = torch.rand(len(desc), 1) * 100 + 0.01
    scaled = multi_similarity_loss(desc * lengths, labels, mined=mined)
    torch.testing.assert_close(scaled, multi_similarity_loss(desc, labels, mined=mined))


@pytest.mark.parametrize(
    "labels",
    [[0], [0, 0, 0, 0], [0, 1, 2, 3]],
    ids=["batch of one", "one place, no negative", "no positive"],
)
def test_nothing_to_mine_is_zero_with_zero_gradient(labels):
    desc = torch.randn(len(labels), 8, requires_grad=True)
    labels = torch.tensor(labels)
    loss = multi_similarity_loss(desc, labels)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(desc.grad, torch.zeros_like(desc))
    assert loss_and_mined_share(desc, labels)[1].item() == 0.0


def test_anchor_without_positive_counts_as_zero():
    desc, labels = batch(places=4)
    alone = torch.cat([labels, torch.tensor([999])])
    desc = torch.cat([desc.detach(), torch.randn(1, 16)])
    similarities = cosine_similarities(desc)
    expected = slow_loss(similarities, *slow_masks(similarities, alone, 0.1), 1, 50, 0.0)
    assert not mine_pairs(similarities, alone)[1][-1].any()
    assert multi_similarity_loss(desc, alone).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("desc", "labels", "mined"),
    [
        *((torch.eye(len(labels), 8), labels, False) for labels in ([0], [0, 0], [0, 1])),
        *((desc, [0, 0, 1, 1], True) for desc in (torch.ones(4, 8), torch.zeros(4, 8))),
    ],
)
def test_edge_cases_have_finite_gradients(desc, labels, mined):
    loss = multi_similarity_loss(desc.requires_grad_(), torch.tensor(labels), mined=mined)
    loss.backward()
    assert loss.isfinite() and desc.grad.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "labels", "complaint"),
    [
        *((shape, shape[:1], r"\(B, D\)") for shape in [(8,), (2, 4, 8), (0, 8)]),
        *(((8, 4), labels, r"8 descriptors.*\(8,\)") for labels in [(7,), (8, 1), ()]),
    ],
)
def test_other_shapes_are_refused(shape, labels, complaint):
    with pytest.raises(ValueError, match=complaint):
        multi_similarity_loss(torch.randn(shape), torch.zeros(labels, dtype=torch.long))
