"""Which components are on: the top-k masks of APD."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def largest(scores: Float[Tensor, "rows n"], counts: list[int]) -> Bool[Tensor, "rows n"]:
    """Marks the ``counts[i]`` largest entries of row i; of equals the first ones. Counts above n mark all."""
    rows, n = scores.shape
    mask = torch.zeros(rows, n, dtype=torch.bool, device=scores.device)
    for count in set(counts):
        chosen = [i for i, c in enumerate(counts) if c == count]
        k = min(count, n)
        if k <= 0:
            continue
        part = scores if len(chosen) == rows else scores[chosen]
        threshold = part.topk(k, dim=-1).values[:, -1:]
        above, equal = part > threshold, part == threshold
        room = k - above.sum(-1, keepdim=True)
        marked = above | (equal & (equal.cumsum(-1) <= room))
        mask[chosen] = marked
    return mask


def active_pairs(topk: float, batch_size: int) -> int:
    """``int(topk * batch_size)``: truncated, as in the original APD code."""
    return int(topk * batch_size)


def exact_counts(x: Float[Tensor, "K B d"]) -> list[int]:
    """How many inputs of each instance's batch are not zero: the ``exact_topk`` number of pairs."""
    return (x != 0).sum(dim=(1, 2)).tolist()


def topk_mask(
    scores: Float[Tensor, "K B C"],
    topk: float,
    batch_topk: bool = True,
    distil: bool = False,
    counts: list[int] | None = None,
) -> Bool[Tensor, "K B C"]:
    """The components that are on for each sample.

    ``batch_topk``: the ``int(topk * B)`` largest of each instance's B x C scores, else the ``topk`` largest
    of each sample; of equal scores the first ones. ``counts`` replaces ``int(topk * B)`` for each instance
    (``exact_topk``). ``distil``: the last component is left out of the ranking and always on.
    Source: APD paper, section 2.3, and the original code's ``calc_topk_mask``.
    """
    ranked = scores[..., :-1] if distil else scores
    k, b, c = ranked.shape
    if batch_topk:
        per_instance = counts if counts is not None else [active_pairs(topk, b)] * k
        mask = largest(ranked.reshape(k, b * c), per_instance).view(k, b, c)
    else:
        mask = largest(ranked.reshape(k * b, c), [int(topk)] * (k * b)).view(k, b, c)
    if distil:
        mask = torch.cat([mask, torch.ones_like(mask[..., :1])], dim=-1)
    return mask
