"""How near the weights of two networks are: as they are, and after the units of one were renumbered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from microtome.comparison.permutation_symmetry import Symmetry
from microtome.comparison.weight_alignment import (
    Aligner,
    Permutation,
    alignment_problem,
    permuted,
)
from microtome.measures.weights import Principal, centred_gram, filter_gram, principal, span_cosines
from microtome.targets.image_network import ImageNetwork

MOST_FILTERS = 2048  # filters of one layer that principal components are made of
MANY = 512  # filters of one layer whose spans are compared with untrained networks' too


@dataclass(frozen=True)
class Numbered:
    """A network, what can be renumbered in it, and the name of every layer's weight by the layer's label."""

    network: ImageNetwork
    symmetry: Symmetry
    names: Mapping[str, str]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its weights by name."""
        return {name: p.detach() for name, p in self.network.module.named_parameters(remove_duplicate=False)}


class Filters:
    """The filters of one layer ``[n, d]``: inner products, and principal components about their mean."""

    def __init__(self, weight: Tensor, components: int) -> None:
        self.gram = filter_gram(matrix(weight))
        self.k = components

    @cached_property
    def components(self) -> Principal:
        """The first ``components`` of them."""
        return principal(centred_gram(self.gram), self.k)


@dataclass(frozen=True)
class PairOfLayers:
    """``distance`` is ``|a - b|`` over the root mean square of both norms: 0 identical, 1.41 unrelated.

    ``overlap`` is the mean square of ``angles``: cosines of the principal angles between the first principal
    components of the filters, after renumbering.
    """

    cosine: float
    aligned: float
    distance: float
    aligned_distance: float
    angles: Float[np.ndarray, " k"]
    overlap: float
    joint: Float[np.ndarray, "nm j"] | None = None
    joint_ratio: Float[np.ndarray, " j"] | None = None


@dataclass(frozen=True)
class Pair:
    """Two networks. ``permutations`` are of b's units; ``stay`` are layers that cannot be renumbered."""

    layers: dict[str, PairOfLayers]
    permutations: list[Permutation]
    stay: tuple[str, ...]


def matrix(weight: Tensor) -> Float[Tensor, "n d"]:
    """One row a filter, at most ``MOST_FILTERS``."""
    rows = weight.detach().reshape(len(weight), -1)
    return rows[:: -(-len(rows) // MOST_FILTERS)]


def compare_pair(
    a: Numbered,
    b: Numbered,
    sweeps: int,
    filters: Sequence[Mapping[str, Filters]] = (),
    spans: Literal["all", "few", "none"] = "none",
) -> Pair:
    """Cosines and distances of all layers of equal shape.

    ``filters``, of both networks, give the principal angles and the common components: of "all" layers, or
    the angles alone of those with "few" filters.
    """
    weights_a, weights_b = a.tensors, b.tensors
    shared = [
        (label, a.names[label], b.names[label])
        for label in a.names
        if label in b.names and weights_a[a.names[label]].shape == weights_b[b.names[label]].shape
    ]
    last = list(a.names)[-1] if a.names else ""
    problem = alignment_problem(a.symmetry, b.symmetry, shared, last)
    aligner = Aligner(problem, weights_a, weights_b)
    plain = aligner.cosines()
    permutations = aligner.align(sweeps)
    aligned = aligner.cosines()
    layers = {}
    for i, pair in enumerate(problem.pairs):
        sizes = aligner.sizes[i]
        angles, joint = np.zeros(0), None
        if spans == "all" or (spans == "few" and len(weights_a[pair.a]) <= MANY):
            # Columns follow a's units; rows stay, as in b's inner products among themselves.
            moved = permuted(weights_b[pair.b], (None, *pair.axes[1:]), permutations)
            first, second = filters[0][pair.label], filters[1][pair.label]
            cross = filter_gram(matrix(weights_a[pair.a]), matrix(moved))
            angles = span_cosines(first.components, second.components, centred_gram(cross))
            joint = _joint(first.gram, second.gram, cross) if spans == "all" else None
        layers[pair.label] = PairOfLayers(
            plain[i],
            aligned[i],
            _distance(plain[i], *sizes),
            _distance(aligned[i], *sizes),
            angles,
            float(np.square(angles).mean()) if len(angles) else float("nan"),
            None if joint is None else joint.scores,
            None if joint is None else joint.ratio,
        )
    return Pair(layers, permutations, problem.stay)


def _distance(cosine: float, size_a: float, size_b: float) -> float:
    squares = (size_a**2 + size_b**2) / 2
    return max(2 * squares - 2 * cosine * size_a * size_b, 0.0) ** 0.5 / squares**0.5 if squares > 0 else 0.0


def _joint(
    a: Float[np.ndarray, "n n"], b: Float[np.ndarray, "m m"], cross: Float[np.ndarray, "n m"]
) -> Principal:
    """Two components of the filters of both networks together, about their common mean."""
    return principal(centred_gram(np.block([[a, cross], [cross.T, b]])), 2, quick=True)
