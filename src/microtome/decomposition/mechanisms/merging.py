"""Merging components into clusters, one pair at a time, and what each merge costs."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from microtome.decomposition.mechanisms.description_length import merge_changes, weight_changes


@dataclass(frozen=True)
class MergeHistory:
    """Every merge from C clusters of one component down to one cluster of all."""

    pairs: Int[np.ndarray, "merges 2"]
    """The two clusters merged: components are 0 to C - 1, the cluster that merge t makes is C + t."""
    names: Float[np.ndarray, " C"]
    """Bits an input for naming clusters, before the first merge and after each."""
    weights: Float[np.ndarray, " C"]
    """Bits an input for weights, likewise."""

    @property
    def n_components(self) -> int:
        """C."""
        return len(self.names)

    @property
    def total(self) -> Float[np.ndarray, " C"]:
        """Description length before the first merge and after each."""
        return self.names + self.weights

    @cached_property
    def best(self) -> int:
        """After how many merges the description is shortest; the fewest, of several."""
        total = self.total
        return int(np.flatnonzero(total <= total.min() + 1e-9 * max(abs(float(total.min())), 1.0))[0])

    def labels(self, merges: int | None = None) -> Int[np.ndarray, " C"]:
        """Each component's cluster after so many merges (default: the best), numbered by first component."""
        parent = np.arange(self.n_components + len(self.pairs))
        for t, (a, b) in enumerate(self.pairs[: self.best if merges is None else merges].tolist()):
            parent[a] = parent[b] = self.n_components + t
        root = parent[: self.n_components]
        while not np.array_equal(root, parent[root]):
            root = parent[root]
        first, where = np.unique(root, return_index=True)
        number = np.empty(len(first), dtype=np.int64)
        number[np.argsort(where)] = np.arange(len(first))
        return number[np.searchsorted(first, root)]


def merge_components(
    fires: Bool[Tensor, "N C"],
    rank: Float[Tensor, " C"] | None = None,
    alpha: float = 1.0,
    temperature: float | None = None,
    generator: torch.Generator | None = None,
) -> MergeHistory:
    """Merge until one cluster is left: always the cheapest pair, or drawn by softmax(-cost / temperature).

    ``fires``: which components fire on which of N inputs; a cluster fires where any of its components does.
    ``rank``: of each component (1). ``temperature`` in bits an input; None is greedy.
    """
    state = _State.start(fires, rank, alpha)
    n = fires.shape[1]
    pairs, names, weights = [], [state.names()], [state.weights()]
    for t in range(n - 1):
        i, j = state.pick(temperature, generator)
        pairs.append(sorted((int(state.cluster[i]), int(state.cluster[j]))))
        state.merge(i, j, n + t)
        names.append(state.names())
        weights.append(state.weights())
    made = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return MergeHistory(made, np.array(names), np.array(weights))


class _State:
    """The k clusters left, in the first k places of every array."""

    def __init__(self, fires: Tensor, counts: Tensor, both: Tensor, rank: Tensor, alpha: float) -> None:
        self.fires, self.counts, self.both, self.rank, self.alpha = fires, counts, both, rank, alpha
        self.n = float(counts.double().sum())
        self.k = fires.shape[1]
        self.work = torch.empty(self.k**2, dtype=both.dtype, device=both.device)
        self.cluster = torch.arange(self.k)
        self.of_weights = weight_changes(both, rank, alpha)

    @classmethod
    def start(cls, fires: Tensor, rank: Tensor | None, alpha: float) -> "_State":
        # Inputs with the same components on are one row with their number: toy models have few of them.
        rows, counts = torch.unique(fires, dim=0, return_counts=True)
        rows, counts = rows.float(), counts.float()
        both = ((rows * counts[:, None]).T @ rows).double() / len(fires)
        given = torch.ones(fires.shape[1], dtype=torch.float64) if rank is None else rank.double()
        return cls(rows, counts, both, given.to(fires.device), alpha)

    def names(self) -> float:
        return float(np.log2(self.k)) * float(self.both.diagonal()[: self.k].sum())

    def weights(self) -> float:
        return self.alpha * float((self.both.diagonal()[: self.k] * self.rank[: self.k]).sum())

    def pick(self, temperature: float | None, generator: torch.Generator | None) -> tuple[int, int]:
        k = self.k
        room = self.work[: k * k].view(k, k)
        costs, _ = merge_changes(self.both[:k, :k], self.of_weights[:k, :k], room)
        if temperature is None:
            place = int(costs.argmin())
        else:
            # Drawn from the running sum: torch.multinomial takes no more than 2^24 outcomes.
            likely = ((costs.min() - costs) / temperature).exp_().flatten().cumsum_(0)
            u = torch.rand((), generator=generator, dtype=torch.float64, device=costs.device)
            place = int(torch.searchsorted(likely, u * likely[-1], right=True).clamp(max=k * k - 1))
        i, j = divmod(place, k)
        return min(i, j), max(i, j)

    def _union(self, i: int, j: int) -> Tensor:
        """Share of inputs on which i or j fires, and each cluster too; at i, without another.

        Counted over the fewest inputs that tell it: those of both, or those of one only.
        """
        a, b, k = self.fires[:, i] > 0, self.fires[:, j] > 0, self.k
        parts = (a & b, b & ~a, a & ~b)
        sizes = [int(part.sum()) for part in parts]
        least = sizes.index(min(sizes))
        where = parts[least].nonzero().squeeze(1)
        # Whole counts below 2^24 are exact in single precision.
        found = (self.counts[where] @ self.fires[where, :k]).double() / self.n
        bases = (self.both[i, :k] + self.both[j, :k], self.both[i, :k], self.both[j, :k])
        row = bases[0] - found if least == 0 else bases[least] + found
        row[i] = float(self.both[i, i] + self.both[j, j] - self.both[i, j])
        return row

    def merge(self, i: int, j: int, name: int) -> None:
        """Cluster i becomes the union, the last one moves to where j was."""
        last = self.k - 1
        row = self._union(i, j)
        self.fires[:, i] = torch.maximum(self.fires[:, i], self.fires[:, j])
        self.rank[i] += self.rank[j]
        self.cluster[i] = name
        self.fires[:, j], self.rank[j], self.cluster[j] = (
            self.fires[:, last],
            self.rank[last],
            int(self.cluster[last]),
        )
        for matrix in (self.both, self.of_weights):
            matrix[j, : self.k] = matrix[last, : self.k].clone()
            matrix[: self.k, j] = matrix[: self.k, last].clone()
        self.of_weights[j, j] = torch.inf
        self.both[j, j] = self.both[last, last]
        self.k = k = last
        if j < k:
            row[j] = row[last].clone()
        row = row[:k]
        self.both[i, :k], self.both[:k, i] = row, row
        density, rank = self.both.diagonal()[:k], self.rank[:k]
        cost = self.alpha * (row[i] * rank + density * rank[i] - row * (rank + rank[i]))
        self.of_weights[i, :k], self.of_weights[:k, i] = cost, cost
        self.of_weights[i, i] = torch.inf


def shuffled(fires: Bool[Tensor, "N C"], generator: torch.Generator) -> Bool[Tensor, "N C"]:
    """Every component's firings at inputs of their own: as often, but together by chance only."""
    keys = torch.rand(fires.shape, generator=generator, device=fires.device)
    return fires.gather(0, keys.argsort(0))
