"""How unevenly the gradient is spread over tokens: the share that the strongest few carry."""

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.distributed import Processes, all_reduce_sum

# Bins of equal ratio, eight to a doubling, from 2^-100 to 2^60.
_LOWEST, _HIGHEST, _A_DOUBLING = -100, 60, 8
_BINS = (_HIGHEST - _LOWEST) * _A_DOUBLING


class TokenMass:
    """A histogram of gradient lengths of tokens over bins of equal ratio: ``[2, bins]`` counts and sums."""

    def __init__(self) -> None:
        self.bins = torch.zeros(2, _BINS, dtype=torch.float64)

    def add(self, lengths: Float[Tensor, " N"]) -> None:
        """Count tokens by the length of their gradient."""
        lengths = lengths.detach().double().cpu()
        place = ((lengths.clamp_min(1e-300).log2() - _LOWEST) * _A_DOUBLING).long().clamp(0, _BINS - 1)
        self.bins[0].index_add_(0, place, torch.ones_like(lengths))
        self.bins[1].index_add_(0, place, lengths)

    def share(self, fraction: float = 0.001) -> float:
        """Share of the summed lengths in the strongest ``fraction`` of the tokens (at least one).

        Within a bin all tokens count as equally strong: at most 9 percent off. nan without tokens.
        """
        counts, sums = self.bins.flip(1)
        tokens, total = float(counts.sum()), float(sums.sum())
        if not tokens or not total:
            return float("nan")
        wanted = max(fraction * tokens, 1.0)
        before = counts.cumsum(0) - counts
        taken = ((wanted - before) / counts.clamp_min(1)).clamp(0, 1)
        return float((taken * sums).sum()) / total

    def all_reduce(self, processes: Processes) -> None:
        """Add up over all processes."""
        self.bins = all_reduce_sum(self.bins, processes)
