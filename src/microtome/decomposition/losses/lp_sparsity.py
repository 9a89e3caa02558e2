"""Lp sparsity of the attributions: APD's variant without a top-k (APD paper, appendix)."""

from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-16


def lp_sparsity_per_pair(
    attributions: Float[Tensor, "K B C"], n_outputs: int, p: float
) -> Float[Tensor, "K B C"]:
    """``(|A_c| / n_outputs + 1e-16)^(p/2)``; half of p because attributions are squares."""
    return (attributions.abs() / n_outputs + EPSILON) ** (p / 2)


def lp_sparsity(per_pair: Float[Tensor, "K B C"]) -> Float[Tensor, " K"]:
    """Sum over components, mean over samples."""
    return per_pair.sum(dim=-1).mean(dim=-1)
