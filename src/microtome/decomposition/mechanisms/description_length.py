"""How many bits an input takes to describe when components that fire are named cluster by cluster.

For every input the clusters with a firing component are sent: each costs ``log2 k`` bits to name one of k,
and ``alpha`` times its rank for the weights of its components. The shorter the description, the better a
clustering; merging what fires together saves names, merging what does not sends weights in vain.
Source: the clustering of SPD's authors (minimum description length over co-activation), whose cost is
``sum_i s_i (log2 k + alpha r_i)`` with s_i the share of inputs on which cluster i fires.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class DescriptionLength:
    """Bits an input, on average."""

    names: float
    """To say which clusters fire: ``log2 k * sum_i s_i``."""
    weights: float
    """To send their components: ``alpha * sum_i s_i r_i``."""

    @property
    def total(self) -> float:
        """Both."""
        return self.names + self.weights


def description_length(
    density: Float[Tensor, " k"], rank: Float[Tensor, " k"], alpha: float = 1.0
) -> DescriptionLength:
    """Cost of k clusters that fire on shares ``density`` of the inputs and have ranks ``rank``."""
    names = math.log2(len(density)) * float(density.sum()) if len(density) else 0.0
    return DescriptionLength(names, alpha * float((density * rank).sum()))


def weight_changes(
    both: Float[Tensor, "k k"], rank: Float[Tensor, " k"], alpha: float = 1.0
) -> Float[Tensor, "k k"]:
    """What merging i and j adds to the bits for weights; infinite on the diagonal.

    ``both``: share of inputs on which i and j both fire, on the diagonal i alone. A merged cluster fires
    where either did, and sends the components of both:
    ``alpha (s_ij (r_i + r_j) - s_i r_i - s_j r_j)`` with ``s_ij = s_i + s_j - both_ij``.
    """
    density = both.diagonal()
    crossed = density[:, None] * rank[None, :]
    changes = alpha * (crossed + crossed.T - both * (rank[:, None] + rank[None, :]))
    return changes.fill_diagonal_(math.inf)


def merge_changes(
    both: Float[Tensor, "k k"], of_weights: Float[Tensor, "k k"], out: Float[Tensor, "k k"] | None = None
) -> tuple[Float[Tensor, "k k"], float]:
    """What merging i and j adds to the whole description length, less a constant, and that constant.

    Names: ``(S - both_ij) log2(k - 1) - S log2 k`` with ``S = sum_i s_i``: k falls by one for everybody.
    ``out``: memory to write them to.
    """
    k, total = len(both), float(both.diagonal().sum())
    shorter = math.log2(k - 1)
    return torch.add(of_weights, both, alpha=-shorter, out=out), total * (shorter - math.log2(k))
