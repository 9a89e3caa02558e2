"""TopK dictionaries: the k largest features of every input (Gao et al. 2024, arXiv 2406.04093)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.relu import relu_candidates


def top_k(values: Float[Tensor, "*B n"], k: int) -> tuple[Float[Tensor, "*B k"], Int[Tensor, "*B k"]]:
    """The ``k`` largest values of every row and where they are, in no order."""
    return values.topk(min(k, values.shape[-1]), dim=-1, sorted=False)


def scattered(
    values: Float[Tensor, "*B k"], indices: Int[Tensor, "*B k"], n_features: int
) -> Float[Tensor, "*B F"]:
    """Values put at their indices, 0 elsewhere. Indices that occur twice in a row add up."""
    out = torch.zeros(*values.shape[:-1], n_features, dtype=values.dtype, device=values.device)
    return out.scatter_add(-1, indices, values)


class TopKDictionary(Dictionary):
    """``f = top_k(relu(W_enc (x - b_dec) + b_enc))``."""

    candidates = staticmethod(relu_candidates)

    def keep(self, values: Float[Tensor, "*B F"]) -> Float[Tensor, "*B F"]:
        """The k largest."""
        assert self.config.k is not None
        return scattered(*top_k(values, self.config.k), self.config.n_features)
