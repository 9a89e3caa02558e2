"""JumpReLU dictionaries: a threshold for every feature (Rajamanoharan et al. 2024, arXiv 2407.14435)."""

from jaxtyping import Float
from torch import Tensor

from microtome.dictionaries.dictionary import Dictionary


def jumprelu_candidates(
    projection: Float[Tensor, "*B n"], b_enc: Float[Tensor, " n"], threshold: Float[Tensor, " n"]
) -> Float[Tensor, "*B n"]:
    """``relu(z)`` where ``z = projection + b_enc`` is greater than the threshold, else 0."""
    z = projection + b_enc
    return z.relu() * (z > threshold)


class JumpReLUDictionary(Dictionary):
    """``f = relu(z) * (z > threshold)``, ``z = W_enc x + b_enc``."""

    vectors = ("b_enc", "threshold")
    candidates = staticmethod(jumprelu_candidates)
