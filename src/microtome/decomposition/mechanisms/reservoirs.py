"""Uniform samples of streams, one of each of many groups, a fixed number of items a group.

Every item of a stream has a key, a hash that looks random; of each group the items with the smallest keys are
kept. That is a uniform sample whatever the order of the stream and however it is cut into batches.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Int
from torch import Tensor

EMPTY = torch.iinfo(torch.int64).max


def random_keys(seed: int, *numbers: Int[Tensor, " Q"]) -> Int[Tensor, " Q"]:
    """A key in [0, 2^62) for each item, from its numbers (splitmix64's mixing, Steele et al. 2014)."""
    key = torch.full_like(numbers[0], seed * 2 + 1)
    for number in numbers:
        key = _mixed(key * 0x2545F4914F6CDD1D + number)
    return key & (2**62 - 1)


def _mixed(z: Tensor) -> Tensor:
    z = z + _signed(0x9E3779B97F4A7C15)
    z = (z ^ ((z >> 30) & (2**34 - 1))) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ ((z >> 27) & (2**37 - 1))) * _signed(0x94D049BB133111EB)
    return z ^ ((z >> 31) & (2**33 - 1))


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


class Reservoirs:
    """``size`` items of each of ``groups`` groups: ``keys [groups, size]``, ``fields [groups, size, ...]``.

    Places that no item has taken yet have the key ``EMPTY``; items stand in the order of their keys.
    """

    def __init__(self, groups: int, size: int, fields: Mapping[str, Tensor]) -> None:
        """``fields``: an item's empty value of every field."""
        device = next(iter(fields.values())).device
        self.keys = torch.full((groups, size), EMPTY, dtype=torch.int64, device=device)
        self.fields = {
            name: value.expand(groups, size, *value.shape).clone() for name, value in fields.items()
        }

    @property
    def size(self) -> int:
        """Items kept of each group."""
        return self.keys.shape[1]

    def add(
        self,
        group: Int[Tensor, " Q"],
        key: Int[Tensor, " Q"],
        fields: Callable[[Int[Tensor, " N"]], Mapping[str, Tensor]],
    ) -> None:
        """Offer Q items. ``fields(which)`` makes the fields of those numbers, for the few that may stay."""
        may_stay = (key < self.keys[group, -1]).nonzero().squeeze(1)
        if not len(may_stay):
            return
        order = may_stay[key[may_stay].argsort()]
        order = order[group[order].argsort(stable=True)]
        sorted_group = group[order]
        rank = torch.arange(len(order), device=order.device) - torch.searchsorted(sorted_group, sorted_group)
        order = order[rank < self.size]
        rank, owner = rank[rank < self.size], group[order]
        seen, row = torch.unique(owner, return_inverse=True)
        offered = self.keys.new_full((len(seen), self.size), EMPTY)
        offered[row, rank] = key[order]
        keys, best = torch.cat([self.keys[seen], offered], 1).sort(dim=1)
        best = best[:, : self.size]
        self.keys[seen] = keys[:, : self.size]
        for name, values in fields(order).items():
            held = self.fields[name][seen]
            new = torch.zeros_like(held)
            new[row, rank] = values.to(held.dtype)
            both = torch.cat([held, new], 1)
            picked = best.reshape(*best.shape, *[1] * (both.ndim - 2)).expand(-1, -1, *both.shape[2:])
            self.fields[name][seen] = both.gather(1, picked)
