"""Statistics of pairs of networks: how far one pair lies from the pairs of a group, given noise of seeds.

A dissimilarity of networks i and j is modelled as ``mean + node_i + node_j + rest``: a network may be odd as
a whole, which all of its pairs share.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

SAME = 1e-6  # below this, networks are as alike as rounding allows


def log_dissimilarity(similarity: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """``log(1 - similarity)``: on this scale the spread between seeds is even."""
    return np.log(np.maximum(1.0 - similarity, SAME))


@dataclass(frozen=True)
class Components:
    """Mean squares of networks (nodes) and of what remains, with their degrees of freedom."""

    mean: float
    nodes: float
    nodes_freedom: float
    rest: float
    rest_freedom: float
    new_pair: float  # variance of the difference between one further pair and the mean


NOTHING = Components(float("nan"), 0.0, 0.0, 0.0, 0.0, 0.0)


def within_group(d: Float[np.ndarray, "k k"]) -> Components:
    """Of all pairs of ``k`` networks; ``d`` is symmetric and its diagonal is not read."""
    k = len(d)
    rows, columns = np.triu_indices(k, 1)
    values = d[rows, columns]
    if k < 3:
        return NOTHING
    middle = values.mean()
    sums = np.array([d[i][np.arange(k) != i].mean() for i in range(k)])
    node = (k - 1) / (k - 2) * (sums - middle)
    shared = node[rows] + node[columns]
    nodes = float(np.square(shared).sum() / (k - 1))
    freedom = k * (k - 3) / 2
    rest = float(np.square(values - middle - shared).sum() / freedom) if freedom else 0.0
    # Two new nodes and a new rest, against a mean that holds 2/k of every node and 1/pairs of every rest.
    of_nodes = (2 + 4 / k) / (k - 2)
    of_rest = 1 + 2 / (k * (k - 1)) - of_nodes
    pooled = float(np.square(values - middle).sum() / (len(values) - 1)) * (1 + 1 / len(values))
    return Components(
        float(middle), nodes, k - 1.0, rest, freedom, max(of_nodes * nodes + of_rest * rest, pooled)
    )


def between_groups(d: Float[np.ndarray, "k m"]) -> Components:
    """Of the pairs of ``k`` networks of one kind with ``m`` of another."""
    k, m = d.shape
    if k < 2 or m < 2:
        return NOTHING
    middle = d.mean()
    one, other = d.mean(axis=1) - middle, d.mean(axis=0) - middle
    rest_freedom = (k - 1) * (m - 1)
    rest = float(np.square(d - middle - one[:, None] - other[None, :]).sum() / rest_freedom)
    squares = m * np.square(one).sum() + k * np.square(other).sum()
    variance_one = max(m * np.square(one).sum() / (k - 1) - rest, 0.0) / m
    variance_other = max(k * np.square(other).sum() / (m - 1) - rest, 0.0) / k
    new = variance_one * (1 + 1 / k) + variance_other * (1 + 1 / m) + rest * (1 + 1 / d.size)
    freedom = float(k + m - 2)
    return Components(float(middle), float(squares / freedom), freedom, rest, float(rest_freedom), new)


def spread_out(node_means: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Means of each network's pairs with the others of its group, as far apart as those with outsiders are.

    A network's odd pairs also enter the means of the others, which draws means within the group together.
    """
    k = len(node_means)
    if k < 3:
        return node_means
    return node_means.mean() + (k - 1) / (k - 2) * (node_means - node_means.mean())


@dataclass(frozen=True)
class Contrast:
    """How much further apart two groups are than networks within them; ``error`` squared is its variance."""

    effect: float
    variance: float
    freedom: float


def apart(
    d: Float[np.ndarray, "k k"], groups: Float[np.ndarray, " k"], extra: Components = NOTHING
) -> Contrast:
    """Least squares over all pairs: nodes, and one number for pairs of unlike groups.

    ``extra`` lends its rest where the groups themselves leave fewer than two degrees of freedom.
    """
    k = len(d)
    rows, columns = np.triu_indices(k, 1)
    design = np.zeros((len(rows), k + 1))
    design[np.arange(len(rows)), rows] = 1.0
    design[np.arange(len(rows)), columns] = 1.0
    design[:, k] = groups[rows] != groups[columns]
    values = d[rows, columns]
    inverse = np.linalg.pinv(design.T @ design)
    fitted = inverse @ design.T @ values
    freedom = float(len(values) - np.linalg.matrix_rank(design))
    squares = float(np.square(values - design @ fitted).sum()) if freedom else 0.0
    if freedom < 2:
        squares, freedom = squares + extra.rest * extra.rest_freedom, freedom + extra.rest_freedom
    variance = squares / freedom if freedom else 0.0
    # Rests of pairs that share a network are not independent: there are no more of them than networks.
    freedom = float(min(freedom, max(k - len(np.unique(groups)), 2)))
    return Contrast(float(fitted[k]), variance * float(inverse[k, k]), freedom)
