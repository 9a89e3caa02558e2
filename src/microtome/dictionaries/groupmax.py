"""GroupMax dictionaries of EleutherAI's sparsify: the largest feature of each of k equal groups."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.relu import relu_candidates
from microtome.dictionaries.topk import scattered


def group_max(values: Float[Tensor, "*B n"], k: int) -> tuple[Float[Tensor, "*B k"], Int[Tensor, "*B k"]]:
    """The largest value of each of ``k`` groups of neighbouring features and where it is."""
    largest, inside = values.unflatten(-1, (k, -1)).max(-1)
    return largest, inside + torch.arange(k, device=values.device) * (values.shape[-1] // k)


class GroupMaxDictionary(Dictionary):
    """``f = group_max(relu(W_enc (x - b_dec) + b_enc))``."""

    candidates = staticmethod(relu_candidates)

    def keep(self, values: Float[Tensor, "*B F"]) -> Float[Tensor, "*B F"]:
        """The largest of each group."""
        assert self.config.k is not None
        return scattered(*group_max(values, self.config.k), self.config.n_features)
