"""Multi-similarity loss and miner: each place pulls its images together, hard ones the most."""

import torch
from torch.nn import functional as F


def cosine_similarities(desc: torch.Tensor) -> torch.Tensor:
    """Cosine of each pair of rows: (B, D) -> (B, B), in float32 at least, also under autocast.

    Half precision would not do: the loss takes exp(50 S), where a step of 1e-3 in S (float16 near
    1) is five percent.
    """
    with torch.autocast(desc.device.type, enabled=False):
        desc = F.normalize(desc.to(torch.promote_types(desc.dtype, torch.float32)), dim=1)
        return desc @ desc.T


def mine_pairs(
    similarities: torch.Tensor, labels: torch.Tensor, epsilon: float = 0.1
) -> tuple[torch.Tensor, torch.Tensor]:
    """The pairs worth training on: positives and negatives of an anchor that overlap.

    For anchor i with positives P (same label, but not i itself) and negatives N, the miner of
    Wang et al. (Multi-Similarity Loss, CVPR 2019, Eqs. 9 and 10) keeps
    a negative n where S[i, n] + epsilon > min S[i, P], and
    a positive p where S[i, p] - epsilon < max S[i, N].
    An anchor without positives or without negatives keeps nothing.

    Args:
        similarities: (B, B).
        labels: (B,) integers, equal where images show the same place.

    Returns:
        two bool masks (B, B), a row an anchor: kept positives, kept negatives.
    """
    positive, negative = _pairs(labels)
    hardest_positive = similarities.masked_fill(~positive, torch.inf).amin(1, keepdim=True)
    hardest_negative = similarities.masked_fill(~negative, -torch.inf).amax(1, keepdim=True)
    keep_positive = positive & (similarities - epsilon < hardest_negative)  # (B, B)
    keep_negative = negative & (similarities + epsilon > hardest_positive)  # (B, B)
    return keep_positive, keep_negative


@torch.no_grad()
def mined_share(
    similarities: torch.Tensor, labels: torch.Tensor, epsilon: float = 0.1
) -> torch.Tensor:
    """Share of anchors for which the miner keeps a pair, from 0 to 1: () float32.

    It falls while training goes well; near 0, the batches have nothing left to teach.
    """
    keep_positive, keep_negative = mine_pairs(similarities, labels, epsilon)
    return (keep_positive | keep_negative).any(1).float().mean()


def multi_similarity_loss(
    desc: torch.Tensor,
    labels: torch.Tensor,
    alpha: float = 1.0,
    beta: float = 50.0,
    base: float = 0.0,
    epsilon: float = 0.1,
    mined: bool = True,
) -> torch.Tensor:
    """Multi-similarity loss on cosine similarities S, with its miner (DINO-Mix paper, Eq. 7).

    The mean over the B anchors, one without a kept pair counting as 0, of

        log(1 + sum_P exp(-alpha (S - base))) / alpha + log(1 + sum_N exp(beta (S - base))) / beta

    where P and N are the anchor's positives and negatives that `mine_pairs` keeps. Source: Wang
    et al., "Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning", CVPR
    2019. Computed in float32 at least, also under autocast.

    Args:
        desc: (B, D) descriptors of any length but 0; only their directions matter.
        labels: (B,) integers, equal where images show the same place.
        mined: False takes all pairs.

    Returns:
        () loss; 0 with zero gradient where no pair is left.

    Raises:
        ValueError: desc is not (B, D) with B > 0, or labels are not (B,).
    """
    if desc.ndim != 2 or not len(desc):
        raise ValueError(f"descriptors should be (B, D) with B > 0, but are {tuple(desc.shape)}")
    if labels.shape != desc.shape[:1]:
        raise ValueError(
            f"{len(desc)} descriptors need labels of shape ({len(desc)},), one for each, "
            f"but they are {tuple(labels.shape)}"
        )
    similarities = cosine_similarities(desc)  # (B, B)
    if mined:
        positive, negative = mine_pairs(similarities.detach(), labels, epsilon)
    else:
        positive, negative = _pairs(labels)
    shifted = similarities - base
    pull = _log_one_plus_sum_exp(-alpha * shifted, positive) / alpha  # (B,)
    push = _log_one_plus_sum_exp(beta * shifted, negative) / beta  # (B,)
    return (pull + push).mean()


def _pairs(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks (B, B) of all positive and all negative pairs; an image is no pair with itself."""
    same = labels[:, None] == labels[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return same & ~itself, ~same


def _log_one_plus_sum_exp(exponents: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """log(1 + sum of exp over the mask) of each row, without overflow: (B, B) -> (B,)."""
    one = exponents.new_zeros(len(exponents), 1)  # log 1: no row is empty, so none is -inf
    return torch.logsumexp(torch.cat([exponents.masked_fill(~mask, -torch.inf), one], 1), 1)
