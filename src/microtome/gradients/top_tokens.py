"""The token positions on which each value acts most, a fixed number a value."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.core.distributed import Processes, all_reduce_sum


class TopTokens:
    """For each of ``D`` values the ``k`` positions where it is largest in absolute value.

    ``values [D, k]`` (0 where there are fewer), ``samples [D, k]`` and ``positions [D, k]`` (-1 there).
    """

    def __init__(self, width: int, k: int) -> None:
        self.values = torch.zeros(width, k)
        self.samples = torch.full((width, k), -1, dtype=torch.int32)
        self.positions = torch.full((width, k), -1, dtype=torch.int32)

    @property
    def k(self) -> int:
        """Positions kept of each value."""
        return self.values.shape[1]

    def add(
        self,
        features: Int[Tensor, " P"],
        values: Float[Tensor, " P"],
        samples: Int[Tensor, " P"],
        positions: Int[Tensor, " P"],
    ) -> None:
        """Offer (feature, position) pairs; ties go to the earlier sample, whatever the order of the data."""
        if self.k == 0 or not len(features):
            return
        seen = torch.unique(features)
        held = (self.samples[seen] >= 0).flatten()
        everything = (
            torch.cat([seen.repeat_interleave(self.k)[held], features]),
            torch.cat([self.values[seen].flatten()[held], values.float()]),
            torch.cat([self.samples[seen].flatten()[held], samples.int()]),
            torch.cat([self.positions[seen].flatten()[held], positions.int()]),
        )
        feature, value, sample, position = everything
        order = _order(feature, value, sample, position)
        feature, value, sample, position = (tensor[order] for tensor in everything)
        first = torch.searchsorted(feature, feature)
        rank = torch.arange(len(feature)) - first
        keep = rank < self.k
        row, column = feature[keep], rank[keep]
        self.values[row, column] = value[keep]
        self.samples[row, column] = sample[keep]
        self.positions[row, column] = position[keep]

    def all_reduce(self, processes: Processes) -> None:
        """Merge the lists of all processes."""
        if processes.size == 1:
            return
        gathered = []
        for tensor in (self.values, self.samples, self.positions):
            slots = torch.zeros(processes.size, *tensor.shape, dtype=tensor.dtype)
            slots[processes.rank] = tensor
            gathered.append(all_reduce_sum(slots, processes))
        own = TopTokens(*self.values.shape)
        for values, samples, positions in zip(*gathered, strict=True):
            row, column = (samples >= 0).nonzero(as_tuple=True)
            own.add(row, values[row, column], samples[row, column], positions[row, column])
        self.restore(own.state())

    def state(self) -> dict[str, Tensor]:
        """Tensors from which ``restore`` makes the same lists again."""
        return {"values": self.values, "samples": self.samples, "positions": self.positions}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take the lists of ``state``."""
        self.values, self.samples, self.positions = state["values"], state["samples"], state["positions"]


def _order(feature: Tensor, value: Tensor, sample: Tensor, position: Tensor) -> Tensor:
    """By feature, then from large to small, then by sample and position: stable sorts, last key first."""
    order = torch.argsort(position, stable=True)
    for key in (sample, -value.abs(), feature):
        order = order[torch.argsort(key[order], stable=True)]
    return order
