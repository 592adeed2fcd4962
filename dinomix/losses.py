"""Multi-similarity loss and its miner: each place pulls its images together, hard ones the most.

Wang et al., "Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning", CVPR
2019; DINO-Mix paper, Eq. 7.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def multi_similarity_loss(
    desc: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 50.0,
    base: float = 0.0,
    epsilon: float = 0.1,
    mined: bool = True,
) -> Tensor:
    """The mean over the B anchors, one without a kept pair counting as 0, of

        log(1 + sum_P exp(-alpha (S - base))) / alpha + log(1 + sum_N exp(beta (S - base))) / beta

    where S are cosine similarities, and P and N the anchor's positives and negatives that
    `mine_pairs` keeps, or all of them if not `mined`.

    Args:
        desc: (B, D) of any length but 0: only directions matter.
        labels: (B,) integers, equal where images show the same place.

    Returns:
        (), float32 at least, also under autocast; 0 with zero gradient where no pair is left.

    Raises:
        ValueError: desc is not (B, D) with B > 0, or labels are not (B,).
    """
    return loss_and_mined_share(desc, labels, alpha, beta, base, epsilon, mined)[0]


def loss_and_mined_share(
    desc: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 50.0,
    base: float = 0.0,
    epsilon: float = 0.1,
    mined: bool = True,
) -> tuple[Tensor, Tensor]:
    """`multi_similarity_loss`, and the share of anchors that keep a pair: (), () float32.

    The share falls from 1 while training goes well; near 0, batches have nothing left to teach.
    """
    if desc.ndim != 2 or not len(desc):
        raise ValueError(f"descriptors should be (B, D) with B > 0, but are {tuple(desc.shape)}")
    if labels.shape != desc.shape[:1]:
        raise ValueError(
            f"{len(desc)} descriptors need labels of shape ({len(desc)},), not "
            f"{tuple(labels.shape)}"
        )
    similarities = cosine_similarities(desc)  # (B, B)
    pairs = mine_pairs(similarities.detach(), labels, epsilon) if mined else all_pairs(labels)
    positive, negative = pairs  # (B, B) each

    shifted = similarities - base
    pull = _log_one_plus_sum_exp(-alpha * shifted, positive) / alpha  # (B,)
    push = _log_one_plus_sum_exp(beta * shifted, negative) / beta  # (B,)
    return (pull + push).mean(), (positive | negative).any(1).float().mean()


def mine_pairs(similarities: Tensor, labels: Tensor, epsilon: float = 0.1) -> tuple[Tensor, Tensor]:
    """The pairs worth training on: an anchor's positives and negatives that overlap (Eq. 9, 10).

    For anchor i with positives P (same label, but not i itself) and negatives N, it keeps
    a negative n where S[i, n] + epsilon > min S[i, P], and
    a positive p where S[i, p] - epsilon < max S[i, N].
    An anchor without positives or without negatives keeps nothing.

    Returns:
        of similarities (B, B) and labels (B,), two bool masks (B, B), a row an anchor: kept
        positives, kept negatives.
    """
    positive, negative = all_pairs(labels)
    hardest_positive = similarities.masked_fill(~positive, torch.inf).amin(1, keepdim=True)
    hardest_negative = similarities.masked_fill(~negative, -torch.inf).amax(1, keepdim=True)
    keep_positive = positive & (similarities - epsilon < hardest_negative)  # (B, B)
    keep_negative = negative & (similarities + epsilon > hardest_positive)  # (B, B)
    return keep_positive, keep_negative


def all_pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Masks (B, B) of all positive and all negative pairs; an image is no pair with itself."""
    same = labels[:, None] == labels[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return same & ~itself, ~same


def cosine_similarities(desc: Tensor) -> Tensor:
    """Cosine of each pair of rows: (B, D) -> (B, B), in float32 at least, also under autocast.

    The loss takes exp(50 S): a step of 1e-3 in S, float16's near 1, would be five percent.
    """
    with torch.autocast(desc.device.type, enabled=False):
        desc = F.normalize(desc.to(torch.promote_types(desc.dtype, torch.float32)), dim=1)
        return desc @ desc.T


def _log_one_plus_sum_exp(exponents: Tensor, mask: Tensor) -> Tensor:
    """log(1 + sum of exp over the mask) of each row, without overflow: (B, B) -> (B,)."""
    one = exponents.new_zeros(len(exponents), 1)  # log 1: no row is empty, so none is -inf
    return torch.logsumexp(torch.cat([exponents.masked_fill(~mask, -torch.inf), one], 1), 1)
