"""Which components are on: the top-k masks of APD."""

from collections.abc import Sequence

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


def row_counts(
    topk: float | Sequence[float], n_instances: int, batch_size: int, batch_topk: bool
) -> list[int]:
    """How many are on in every row that is ranked: a row an instance (``batch_topk``) or a row a sample.

    ``int(topk * batch_size)`` is truncated, as in the original APD code. ``topk`` may differ by instance.
    """
    each = [topk] * n_instances if isinstance(topk, float | int) else topk
    if batch_topk:
        return [int(one * batch_size) for one in each]
    return [int(one) for one in each for _ in range(batch_size)]


def exact_counts(x: Float[Tensor, "K B d"]) -> list[int]:
    """How many inputs of each instance's batch are not zero: the ``exact_topk`` number of pairs."""
    return (x != 0).sum(dim=(1, 2)).tolist()


def topk_mask(
    scores: Float[Tensor, "K B C"],
    topk: float | Sequence[float],
    batch_topk: bool = True,
    distil: bool = False,
    counts: list[int] | None = None,
) -> Bool[Tensor, "K B C"]:
    """The components that are on for each sample.

    ``batch_topk``: the ``int(topk * B)`` largest of each instance's B x C scores, else the ``topk`` largest
    of each sample; of equal scores the first ones. ``topk``: one for all, or one an instance. ``counts``
    replaces ``int(topk * B)`` for each instance (``exact_topk``). ``distil``: the last component is left out
    of the ranking and always on.
    Source: APD paper, section 2.3, and the original code's ``calc_topk_mask``.
    """
    ranked = scores[..., :-1] if distil else scores
    k, b, c = ranked.shape
    if counts is None:
        counts = row_counts(topk, k, b, batch_topk)
    mask = largest(ranked.reshape(len(counts), -1), counts).view(k, b, c)
    if distil:
        mask = torch.cat([mask, torch.ones_like(mask[..., :1])], dim=-1)
    return mask
