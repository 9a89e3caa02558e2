"""Importance minimality: as few subcomponents as possible should matter for each input."""

from jaxtyping import Float
from torch import Tensor


def importance_minimality_loss(
    upper: Float[Tensor, "K C N"], p: float, eps: float = 1e-12
) -> Float[Tensor, " K"]:
    """``mean over rows of sum over subcomponents of (upper + eps)^p`` for one site: SPD paper, L_p loss."""
    return (upper + eps).pow(p).sum(1).mean(1)
