"""The (sample, component) pairs that a mask leaves, grouped by component: only they are multiplied."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Pairs:
    """Rows of every component, padded to the most used one with a row of zeros.

    ``rows [K*C, N]`` indexes the K*B samples; K*B itself stands for padding.
    """

    def __init__(self, mask: Bool[Tensor, "K B C"]) -> None:
        self.k, self.b, self.c = mask.shape
        self.counts: Int[Tensor, "K C"] = mask.sum(dim=1)
        by_component = mask.transpose(1, 2).reshape(self.k * self.c, self.b)
        group, sample = by_component.nonzero(as_tuple=True)
        flat_counts = self.counts.flatten()
        first = flat_counts.cumsum(0) - flat_counts
        place = torch.arange(len(group), device=mask.device) - first[group]
        width = int(flat_counts.max()) if len(group) else 1
        rows = torch.full((self.k * self.c, width), self.k * self.b, device=mask.device)
        rows[group, place] = sample + group.div(self.c, rounding_mode="floor") * self.b
        self.rows: Int[Tensor, "KC N"] = rows

    def gather(self, values: Float[Tensor, "K B d"]) -> Float[Tensor, "KC N d"]:
        """The samples of each component."""
        d = values.shape[-1]
        padded = torch.cat([values.reshape(-1, d), values.new_zeros(1, d)])
        return padded.index_select(0, self.rows.flatten()).view(*self.rows.shape, d)

    def scatter(self, values: Float[Tensor, "KC N d"]) -> Float[Tensor, "K B d"]:
        """Sum over the components that each sample uses."""
        d = values.shape[-1]
        total = values.new_zeros(self.k * self.b + 1, d)
        total = total.index_add(0, self.rows.flatten(), values.reshape(-1, d))
        return total[:-1].view(self.k, self.b, d)

    def apply(self, values: Float[Tensor, "K B d_in"], parts: Float[Tensor, "K C d_in d_out"]) -> Tensor:
        """``sum_{c on} values[b] parts[c]``: the masked site's output [K, B, d_out]."""
        weights = parts.reshape(self.k * self.c, *parts.shape[2:])
        return self.scatter(torch.bmm(self.gather(values), weights))
