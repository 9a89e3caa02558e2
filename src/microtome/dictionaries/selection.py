"""Choosing the features that act: the k largest of every row, or of the whole batch."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.distributed import Processes
from microtome.dictionaries.sparse import Entries, from_pairs, from_table

GROUPS = 16  # features are compared in groups of this many first
SPARE = 1.3  # candidates wanted, in shares of those that will be kept


def largest_of_rows(pre: Float[Tensor, "B F"], k: int) -> Entries:
    """The ``k`` largest of every row; values below 0 count as 0."""
    values, indices = _grouped_topk(pre, k) if _groups_pay(pre, k) else pre.topk(k, sorted=False)
    return from_table(values.float().relu(), indices)


def _groups_pay(pre: Tensor, k: int) -> bool:
    return pre.device.type == "cpu" and pre.shape[1] % GROUPS == 0 and pre.shape[1] // GROUPS >= 4 * k


def _grouped_topk(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``topk`` by way of groups: the k largest lie in the k groups that have the largest maxima."""
    n_rows, n_features = pre.shape
    width = n_features // GROUPS
    table = pre.view(n_rows, GROUPS, width)  # group j: features j, j + width, j + 2 width, ...
    groups = table.amax(1).topk(k, sorted=False).indices
    inside = table.gather(2, groups[:, None, :].expand(-1, GROUPS, -1)).reshape(n_rows, -1)
    values, place = inside.topk(k, sorted=False)
    return values, groups.gather(1, place % k) + place // k * width


class BatchSelection:
    """The largest ``k`` a row on average over the whole batch, found from a guess of the lowest one.

    The guess is the last batch's; where it was too high, everything positive is a candidate. With several
    processes the batch is that of all of them together.
    """

    def __init__(self, k: int, processes: Processes | None = None) -> None:
        self.k, self.processes = k, processes or Processes()
        self.guess = 0.0
        self._mask = np.empty(0, bool)

    def largest(self, pre: Float[Tensor, "B F"]) -> tuple[Entries, float]:
        """The entries and the lowest value among them (0 where fewer are positive than may act)."""
        n_rows, n_features = pre.shape
        wanted = n_rows * self.k
        places, values = self._candidates(pre, wanted)
        threshold = self._threshold(values, wanted)
        kept = (values >= threshold).nonzero()[:, 0] if threshold > 0 else torch.arange(len(values))
        kept = kept.to(pre.device)
        places, values = places[kept], values[kept]
        self.guess = max(threshold, 0.0)
        entries = from_pairs(places // n_features, places % n_features, values, n_rows)
        return entries, self.guess

    def _candidates(self, pre: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
        flat = pre.reshape(-1)
        low = self.guess * 0.9
        places = self._above(flat, low)
        if low > 0 and len(places) < SPARE * wanted:
            places = self._above(flat, 0.0)
        if len(places) > 4 * wanted:
            # Far too many, as at the start of training.
            inside = flat[places].float().topk(2 * wanted, sorted=False).indices.sort().values
            return places[inside], flat[places[inside]].float()
        return places, flat[places].float()

    def _above(self, flat: Tensor, low: float) -> Tensor:
        if flat.device.type != "cpu" or flat.dtype != torch.float32:
            return (flat > low).nonzero()[:, 0]
        values = flat.numpy()
        if len(self._mask) != len(values):
            self._mask = np.empty(len(values), bool)
        np.greater(values, np.float32(low), out=self._mask)
        return torch.from_numpy(np.flatnonzero(self._mask))

    def _threshold(self, values: Tensor, wanted: int) -> float:
        if self.processes.size > 1:
            values, wanted = self._of_all(values, wanted)
        if len(values) <= wanted:
            return 0.0
        return float(values.kthvalue(len(values) - wanted + 1).values)

    def _of_all(self, values: Tensor, wanted: int) -> tuple[Tensor, int]:
        """The largest candidates of all processes: twice as many of each as it would keep alone."""
        import torch.distributed as dist

        size = 2 * wanted
        mine = torch.zeros(size, device=values.device)
        top = values.topk(min(size, len(values)), sorted=False).values
        mine[: len(top)] = top
        all_values = [torch.empty_like(mine) for _ in range(self.processes.size)]
        dist.all_gather(all_values, mine)
        together = torch.cat(all_values)
        return together[together > 0], wanted * self.processes.size
