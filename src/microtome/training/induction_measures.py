"""How well a network carries on what repeats, and which heads look where induction heads look."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from microtome.data.induction import InductionSequences


def accuracy_where(
    logits: Float[Tensor, "K B T vocab"],
    x: Int[Tensor, "K B T"],
    data: InductionSequences,
    where: Bool[Tensor, "K B T"] | None = None,
) -> Float[Tensor, " K"]:
    """Share of the positions whose next token is the likeliest one, 0 to 1.

    ``where``: the positions to count; left out, those where what comes next has been seen.
    """
    where = data.predictable(x) if where is None else where
    right = (logits.argmax(-1) == data.next_tokens(x)) & where
    return right.flatten(1).sum(-1) / where.flatten(1).sum(-1)


def induction_attention(
    attention: Float[Tensor, "K B heads T T"], x: Int[Tensor, "K B T"]
) -> Float[Tensor, "K heads"]:
    """Mean attention to the positions right after earlier occurrences of the present token.

    Over the positions where there are such; 1 for a perfect induction head (Olsson et al. 2022, prefix
    matching score).
    """
    t = x.shape[-1]
    earlier = torch.ones(t, t, dtype=torch.bool, device=x.device).tril(-1)
    same = (x.unsqueeze(-1) == x.unsqueeze(-2)) & earlier
    after = torch.zeros_like(same)
    after[..., 1:] = same[..., :-1]
    seen = same.any(-1)
    mass = (attention * after.unsqueeze(2)).sum(-1) * seen.unsqueeze(2)
    return mass.sum((1, 3)) / seen.sum((1, 2)).unsqueeze(-1)


def previous_attention(attention: Float[Tensor, "K B heads T T"]) -> Float[Tensor, "K heads"]:
    """Mean attention to the position before the present one."""
    return attention.diagonal(-1, -2, -1).mean((1, 3))
