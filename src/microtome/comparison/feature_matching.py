"""Do two networks have the same features? Matching by how features act on the same inputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def correlations(x: Float[Tensor, "m F"], y: Float[Tensor, "m G"]) -> Float[Tensor, "F G"]:
    """Pearson correlation over rows of every feature of one with every one of the other; 0 of a constant."""
    return _standardised(x).T @ _standardised(y) / len(x)


def _standardised(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    spread = centred.square().mean(0).sqrt()
    return torch.where(spread > 0, centred / spread.clamp_min(1e-12), 0.0)


@dataclass(frozen=True)
class FeatureMatch:
    """One-to-one pairs with the largest sum of correlations, and each feature's best partner of all.

    ``rows[i]`` of the first goes with ``columns[i]`` of the second. ``best`` and ``partner`` are the largest
    correlation of every feature of the first with any of the second, and which it is; ``back`` the reverse.
    """

    rows: Int[np.ndarray, " pairs"]
    columns: Int[np.ndarray, " pairs"]
    values: Float[np.ndarray, " pairs"]
    best: Float[np.ndarray, " F"]
    partner: Int[np.ndarray, " F"]
    back: Float[np.ndarray, " G"]
    back_partner: Int[np.ndarray, " G"]

    @property
    def mean(self) -> float:
        """Mean correlation of the pairs; 0 where a side has no feature that acts."""
        return float(self.values.mean()) if len(self.values) else 0.0


def match_features(x: Float[Tensor, "m F"], y: Float[Tensor, "m G"]) -> FeatureMatch:
    """Match features by correlation; those that never act are left out of the pairs."""
    table = correlations(x, y).double().numpy()
    alive_x, alive_y = np.flatnonzero((x > 0).any(0).numpy()), np.flatnonzero((y > 0).any(0).numpy())
    r, c = linear_sum_assignment(table[np.ix_(alive_x, alive_y)], maximize=True)
    rows, columns = alive_x[r], alive_y[c]
    return FeatureMatch(
        rows,
        columns,
        table[rows, columns],
        table.max(1),
        table.argmax(1),
        table.max(0),
        table.argmax(0),
    )


def leave_out_means(
    x: Float[Tensor, "m F"], y: Float[Tensor, "m G"], match: FeatureMatch, group: Int[Tensor, " m"], n: int
) -> Float[np.ndarray, " groups"]:
    """Mean correlation of the pairs without the rows of each of ``n`` groups in turn."""
    if not len(match.rows):
        return np.zeros(n)
    a, b = x[:, torch.from_numpy(match.rows)], y[:, torch.from_numpy(match.columns)]
    chosen = torch.nn.functional.one_hot(group, n).to(a.dtype).T  # [groups, m]
    sums = [(chosen @ part).double() for part in (a, b, a * a, b * b, a * b)]
    counts = chosen.sum(1).double()[:, None]
    left = counts.sum(0) - counts
    sa, sb, saa, sbb, sab = (part.sum(0) - part for part in sums)
    covariance = sab / left - sa * sb / left**2
    spread = ((saa / left - (sa / left) ** 2) * (sbb / left - (sb / left) ** 2)).clamp_min(0).sqrt()
    return torch.where(spread > 0, covariance / spread.clamp_min(1e-30), 0.0).mean(1).numpy()


def jackknife_error(left_out: Float[np.ndarray, " groups"]) -> float:
    """Standard error of a statistic from its values with each group left out."""
    n = len(left_out)
    return float(np.sqrt((n - 1) / n * np.square(left_out - left_out.mean()).sum()))


KINDS = ("shared", "only", "everyone's", "unstable")


def kinds_of(
    best: Float[np.ndarray, " F"],
    ceiling: Float[np.ndarray, " F"],
    floor: Float[np.ndarray, " F"],
    alive: Bool[np.ndarray, " F"],
    stable: float,
    distinct: float,
) -> Int[np.ndarray, " F"]:
    """Number in ``KINDS`` of every feature of one network, seen from another; -1 for one that never acts.

    ``best``: its largest correlation with the other's features, ``ceiling``: with the same network's second
    dictionary, ``floor``: with untrained networks' features. Unstable is what the second dictionary does not
    find; everyone's is what untrained networks have as well; of the others, those nearer to the ceiling
    than to the floor are shared.
    """
    middle = (ceiling + floor) / 2
    found = np.where(best >= middle, 0, 1)
    found = np.where(ceiling - floor < distinct, 2, found)
    found = np.where(ceiling < stable, 3, found)
    return np.where(alive, found, -1)


def shares_of(kinds: Int[np.ndarray, " F"]) -> dict[str, float]:
    """Share of every kind among the features that act."""
    alive = kinds[kinds >= 0]
    return {kind: float((alive == i).mean()) if len(alive) else 0.0 for i, kind in enumerate(KINDS)}


def mean_best(matches: Sequence[FeatureMatch]) -> Float[np.ndarray, " F"]:
    """Mean over several other networks of each feature's largest correlation."""
    return np.mean([match.best for match in matches], axis=0)
