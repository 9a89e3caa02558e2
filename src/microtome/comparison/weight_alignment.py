"""Renumbering the units of one network so that its weights lie as close to another's as they can.

Weight matching (Ainsworth et al. 2023, arXiv 2209.04836): one group of units after the other is assigned
until nothing changes. What is maximised is the likelihood of two correlated normal weights a layer,
``-n/2 log(1 - cosine^2)`` for ``n`` entries: it does not know the scale of a layer, which a norm behind it
makes meaningless, and a few entries that fit exactly outweigh many that fit a little, by luck.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from microtome.comparison.permutation_symmetry import Symmetry, UnitAxis

Permutation = Int[Tensor, " _"]  # unit p[i] of b takes the place of i
SMALLEST_GAIN = 1e-4, 1e-2  # a sweep that adds less than this share is the last; in large networks
LARGE = 4_000_000  # weights from which on there is one first pass, without trying weights one by one
LEAST, MOST = 0.02, 1 - 1e-6  # cosines that a layer's weight in the sum is taken from


@dataclass(frozen=True)
class WeightPair:
    """The weight of one matched layer in both networks, and which groups of units its axes hold."""

    label: str
    a: str
    b: str
    axes: tuple[UnitAxis | None, ...]


@dataclass(frozen=True)
class AlignmentProblem:
    """Which units of b may be renumbered.

    ``sizes``: units of every group of b; ``free``: groups matched to one of a's; ``stay``: layers whose
    outputs stay as they are.
    """

    pairs: tuple[WeightPair, ...]
    sizes: tuple[int, ...]
    free: tuple[int, ...]
    stay: tuple[str, ...] = ()


def alignment_problem(
    a: Symmetry, b: Symmetry, weights: Sequence[tuple[str, str, str]], last: str = ""
) -> AlignmentProblem:
    """What of b can follow a. ``weights``: (label, parameter of a, parameter of b), in execution order.

    A group of b is free when the weights tie it to exactly one group of a, everywhere in the same way.
    ``last`` is the label of the layer whose outputs are the network's.
    """
    partner: dict[int, int | None] = {}
    back: dict[int, int | None] = {}
    for _, name_a, name_b in weights:
        for x, y in zip(a.axes[name_a], b.axes[name_b], strict=True):
            one = x.group if x is not None and _alike(x, y) else None
            if y is not None and partner.setdefault(y.group, one) != one:
                partner[y.group] = None
            other = y.group if y is not None and _alike(x, y) else None
            if x is not None and back.setdefault(x.group, other) != other:
                back[x.group] = None
    free = [g for g, own in partner.items() if own is not None and back.get(own) == g]
    pairs = tuple(
        WeightPair(
            label,
            name_a,
            name_b,
            tuple(y if y is not None and y.group in free else None for y in b.axes[name_b]),
        )
        for label, name_a, name_b in weights
    )
    stay = tuple(pair.label for pair in pairs if pair.axes[0] is None and pair.label != last)
    return AlignmentProblem(pairs, b.sizes, tuple(free), stay)


def _alike(x: UnitAxis | None, y: UnitAxis | None) -> bool:
    return x is not None and y is not None and (x.outer, x.inner) == (y.outer, y.inner)


class Aligner:
    """Finds permutations of b's units; weights are ``{parameter: tensor}``."""

    def __init__(self, problem: AlignmentProblem, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
        self.problem = problem
        self.a = [a[pair.a].detach().float() for pair in problem.pairs]
        self.b = [b[pair.b].detach().float() for pair in problem.pairs]
        self.sizes = [(_dot(x, x) ** 0.5, _dot(y, y) ** 0.5) for x, y in zip(self.a, self.b, strict=True)]
        self.norms = [x * y or 1.0 for x, y in self.sizes]
        self.entries = [x.numel() for x in self.a]
        self.large = sum(self.entries) > LARGE
        self._gains: dict[tuple[int, int], tuple[tuple[int, ...], np.ndarray]] = {}
        self._current = [torch.arange(size) for size in problem.sizes]
        self._versions = [0] * len(problem.sizes)

    def align(self, sweeps: int = 20) -> list[Permutation]:
        """Permutations of all groups of b, those that cannot follow a left as they are.

        Starts from the units as they are, from a pass from the input on, or (unless the networks are large)
        from one from the output back, whichever is best.
        """
        starts = [list(self._current)]
        values = [self._value()]
        orders = (self.problem.free, self.problem.free[::-1])
        for order in orders[:1] if self.large else orders:
            self._renumber(starts[0])
            self._pass(order)
            starts.append(list(self._current))
            values.append(self._value())
        self._renumber(starts[int(np.argmax(values))])
        for _ in range(sweeps):
            before, changed = self._value(), False
            for group in self.problem.free:
                changed |= self._set(group, self._best(group, range(len(self.a)), self._weights()))
            if not changed or self._value() - before <= SMALLEST_GAIN[self.large] * before:
                break
        return list(self._current)

    def cosines(self) -> list[float]:
        """Cosine of every pair of weights, with b's units numbered as they are now."""
        return [self._cosine(i) for i in range(len(self.a))]

    def _cosine(self, i: int) -> float:
        """From the gains of an axis that are known for the present numbering, else from the weights."""
        axes = self.problem.pairs[i].axes
        for d, axis in enumerate(axes):
            kept = self._gains.get((i, d))
            if axis is not None and kept is not None and kept[0] == self._version(i, d):
                units = np.arange(self.problem.sizes[axis.group])
                return float(kept[1][units, self._current[axis.group].numpy()].sum())
        return _dot(self.a[i], permuted(self.b[i], axes, self._current)) / self.norms[i]

    def _value(self, weights: Sequence[int] | None = None) -> float:
        """The log likelihood ratio of the present numbering, of some weights or all."""
        which = range(len(self.a)) if weights is None else weights
        return sum(
            self.entries[i] * -0.5 * math.log1p(-(min(max(self._cosine(i), 0.0), MOST) ** 2)) for i in which
        )

    def _weights(self) -> list[float]:
        """How much a little more cosine adds to the likelihood: a lower bound that touches it here."""
        cosines = [min(max(c, LEAST), MOST) for c in self.cosines()]
        return [n * c / (1 - c**2) for n, c in zip(self.entries, cosines, strict=True)]

    def _set(self, group: int, new: Permutation) -> bool:
        """Number a group anew; whether that changes anything."""
        if torch.equal(new, self._current[group]):
            return False
        self._current[group] = new
        self._versions[group] += 1
        return True

    def _version(self, i: int, d: int) -> tuple[int, ...]:
        """Which numbering of the other axes the gains of axis ``d`` belong to."""
        axes = self.problem.pairs[i].axes
        return tuple(self._versions[axis.group] for e, axis in enumerate(axes) if e != d and axis is not None)

    def _renumber(self, permutations: Sequence[Permutation]) -> None:
        for group in self.problem.free:
            self._set(group, permutations[group])

    def _pass(self, order: Sequence[int]) -> None:
        """Every group in turn, judged by the weights whose other axes are settled, together or each alone."""
        settled: set[int] = set()
        even = [float(n) for n in self.entries]
        for group in order:
            own = [i for i, pair in enumerate(self.problem.pairs) if group in _groups(pair)]
            known = [i for i in own if _groups(self.problem.pairs[i]) - {group} <= settled] or own
            choices = [known, *([i] for i in known)] if len(known) > 1 and not self.large else [known]
            found = []
            for choice in choices:
                new = self._best(group, choice, even)
                self._set(group, new)
                found.append((self._value(known), new))
            self._set(group, max(found, key=lambda one: one[0])[1])
            settled.add(group)

    def _best(self, group: int, which: Sequence[int], weights: Sequence[float]) -> Permutation:
        gain = np.zeros((self.problem.sizes[group],) * 2)
        for i in which:
            for d, axis in enumerate(self.problem.pairs[i].axes):
                if axis is not None and axis.group == group:
                    gain += weights[i] * self._gain(i, d, axis)
        _, columns = linear_sum_assignment(gain, maximize=True)
        return torch.from_numpy(columns)

    def _gain(self, i: int, d: int, axis: UnitAxis) -> np.ndarray:
        """What unit k of b in the place of unit j of a adds to the cosine, ``[units, units]``."""
        version, kept = self._version(i, d), self._gains.get((i, d))
        if kept is not None and kept[0] == version:
            return kept[1]
        axes = self.problem.pairs[i].axes
        size = self.problem.sizes[axis.group]
        moved = permuted(
            self.b[i], [None if e == d else other for e, other in enumerate(axes)], self._current
        )
        products = unfolded(self.a[i], d, axis, size) @ unfolded(moved, d, axis, size).T
        gain = products.double().numpy() / self.norms[i]
        self._gains[i, d] = (version, gain)
        return gain


def _groups(pair: WeightPair) -> set[int]:
    return {axis.group for axis in pair.axes if axis is not None}


def _dot(x: Tensor, y: Tensor) -> float:
    """Inner product, added up in blocks so that float32 keeps seven digits."""
    x, y = x.reshape(-1), y.reshape(-1)
    if len(x) <= 4096:
        return float(x.double() @ y.double())
    whole = len(x) // 4096 * 4096
    blocks = torch.linalg.vecdot(x[:whole].view(-1, 4096), y[:whole].view(-1, 4096))
    return float(blocks.double().sum() + x[whole:].double() @ y[whole:].double())


def unfolded(weight: Tensor, d: int, axis: UnitAxis, size: int) -> Tensor:
    """``[units, rest]``: one row a unit of the axis ``d``."""
    shape = (*weight.shape[:d], axis.outer, size, axis.inner, *weight.shape[d + 1 :])
    return weight.reshape(shape).movedim(d + 1, 0).reshape(size, -1)


def permuted(weight: Tensor, axes: Sequence[UnitAxis | None], permutations: Sequence[Permutation]) -> Tensor:
    """The weight with unit ``p[i]`` of every group in the place of unit ``i``; the same if none moves."""
    for d, axis in enumerate(axes):
        if axis is None:
            continue
        p = permutations[axis.group]
        if torch.equal(p, torch.arange(len(p))):
            continue
        shape = (*weight.shape[:d], axis.outer, len(p), axis.inner, *weight.shape[d + 1 :])
        weight = weight.reshape(shape).index_select(d + 1, p).reshape(weight.shape)
    return weight


def renumbered(
    state: Mapping[str, Tensor], symmetry: Symmetry, permutations: Sequence[Permutation]
) -> dict[str, Tensor]:
    """Every parameter and buffer of a network with its units renumbered: it computes the same as before."""
    return {
        name: permuted(tensor, symmetry.axes.get(name, (None,) * tensor.ndim), permutations)
        for name, tensor in state.items()
    }
