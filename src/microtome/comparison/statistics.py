"""Is a difference more than chance? Noise of inputs and of seeds, permutation nulls, and Holm's correction.

A statistic of a network is given by its *input values*: ``[seeds, n]`` numbers, one an input, whose mean is the
statistic. For a statistic that is no mean they are pseudo-values (the statistic plus each input's influence on
it). Rows of one array, and of a and b, belong to the same inputs: comparisons are paired.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from microtome.comparison.part import Claim


@dataclass(frozen=True)
class Measured:
    """One statistic at one layer of both arms, with that of untrained networks of either architecture.

    ``a`` and ``b`` are input values [seeds, n]; ``floor_a``, ``floor_b`` one value an untrained network (the
    same array where the architecture is one). ``scale`` is where noise is even: fractions on "logit",
    positive amounts on "log". ``width`` is the layer's number of channels: wider layers vary less by seed.
    """

    about: str
    layer: str
    a: Float[np.ndarray, "seeds_a n"]
    b: Float[np.ndarray, "seeds_b n"]
    floor_a: Float[np.ndarray, " untrained_a"]
    floor_b: Float[np.ndarray, " untrained_b"]
    unit: str = ""
    scale: str = "identity"
    width: int = 1


@dataclass(frozen=True)
class Judged:
    """A claim, its p-value corrected for all claims of the report, and the sentence that the report prints."""

    claim: Claim
    p_adjusted: float
    distinguishable: bool
    sentence: str


def difference_claims(analysis: str, a: str, b: str, measured: Sequence[Measured]) -> list[Claim]:
    """One claim a layer for one statistic; the spread between seeds is moderated over its layers."""
    raise NotImplementedError


def difference_claim(
    analysis: str,
    about: str,
    a: str,
    b: str,
    values_a: Float[np.ndarray, "seeds_a n"],
    values_b: Float[np.ndarray, "seeds_b n"],
    floor_values: Float[np.ndarray, " untrained"],
    *,
    layer: str = "",
    unit: str = "",
    scale: str = "identity",
) -> Claim:
    """``difference_claims`` for a single measurement (nothing to moderate over)."""
    raise NotImplementedError


def paired_interval(
    values_a: Float[np.ndarray, "seeds_a n"], values_b: Float[np.ndarray, "seeds_b n"]
) -> tuple[float, float, float]:
    """Mean difference a - b and its 95 % interval over inputs alone (normal approximation)."""
    raise NotImplementedError


def paired_bootstrap(
    statistic: Callable[[np.ndarray], float], n: int, *, replicates: int, seed: int
) -> Float[np.ndarray, " replicates"]:
    """``statistic`` of ``replicates`` draws of ``n`` input indices with replacement."""
    raise NotImplementedError


def permutation_p(value: float, null: Float[np.ndarray, " draws"], *, sides: int = 2) -> float:
    """Share of null draws at least as extreme, the value itself counted as one of them."""
    raise NotImplementedError


def seed_spread(*groups: Float[np.ndarray, " seeds"]) -> tuple[float, float]:
    """Pooled variance within groups and its degrees of freedom (0 when no group has two)."""
    raise NotImplementedError


def holm(p: Sequence[float]) -> Float[np.ndarray, " claims"]:
    """Adjusted p-values that bound the chance of any false claim (Holm, 1979)."""
    raise NotImplementedError


def judge(claims: Sequence[Claim], alpha: float = 0.05) -> list[Judged]:
    """Decide over all claims of a report together; the order is kept."""
    raise NotImplementedError
