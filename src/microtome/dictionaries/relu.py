"""ReLU dictionaries, trained with an L1 penalty (Bricken et al. 2023; Cunningham et al. 2023)."""

from jaxtyping import Float
from torch import Tensor

from microtome.dictionaries.dictionary import Dictionary


def relu_candidates(projection: Float[Tensor, "*B n"], b_enc: Float[Tensor, " n"]) -> Float[Tensor, "*B n"]:
    """``max(0, projection + b_enc)``."""
    return (projection + b_enc).relu()


class ReLUDictionary(Dictionary):
    """``f = relu(W_enc (x - b_dec) + b_enc)``."""

    candidates = staticmethod(relu_candidates)
