"""Gated dictionaries: whether a feature acts and how strongly are decided apart.

Rajamanoharan et al. 2024, arXiv 2404.16014.
"""

from jaxtyping import Float
from torch import Tensor

from microtome.dictionaries.dictionary import Dictionary


def gated_candidates(
    projection: Float[Tensor, "*B n"],
    b_gate: Float[Tensor, " n"],
    r_mag: Float[Tensor, " n"],
    b_mag: Float[Tensor, " n"],
) -> Float[Tensor, "*B n"]:
    """``(projection + b_gate > 0) * relu(exp(r_mag) * projection + b_mag)``."""
    return (projection + b_gate > 0) * (r_mag.exp() * projection + b_mag).relu()


class GatedDictionary(Dictionary):
    """``f = (W_enc (x - b_dec) + b_gate > 0) * relu(exp(r_mag) * W_enc (x - b_dec) + b_mag)``."""

    vectors = ("b_gate", "r_mag", "b_mag")
    candidates = staticmethod(gated_candidates)
