"""Is a difference more than chance? Noise of inputs and of seeds, permutation nulls, Holm's correction.

A statistic of a network is given by its *input values*: ``[seeds, n]`` numbers, one an input, whose mean is
the statistic. For a statistic that is no mean they are pseudo-values (the statistic plus each input's
influence on it). Rows of one array, and of a and b, belong to the same inputs: comparisons are paired.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.special import digamma, polygamma
from scipy.stats import norm
from scipy.stats import t as student

from microtome.comparison.part import Claim
from microtome.comparison.scales import SCALES, Scale

LEVEL = 0.95
PRIOR_COUNTS = 0.5
FEWEST_OWN = 2  # degrees of freedom from which the arms' own seeds tell their spread


@dataclass(frozen=True)
class Measured:
    """One statistic at one layer of both arms, with that of untrained networks of either architecture.

    ``a`` and ``b`` are input values [seeds, n]; ``floor_a``, ``floor_b`` one value an untrained network (the
    very same array where the architecture is one). ``scale`` is where noise is even: fractions on "logit",
    positive amounts on "log".
    """

    about: str
    layer: str
    a: Float[np.ndarray, "seeds_a n"]
    b: Float[np.ndarray, "seeds_b n"]
    floor_a: Float[np.ndarray, " untrained_a"]
    floor_b: Float[np.ndarray, " untrained_b"]
    unit: str = ""
    scale: Literal["identity", "log", "logit"] = "identity"

    @property
    def one_architecture(self) -> bool:
        """Whether both arms share their untrained networks."""
        return self.floor_a is self.floor_b


@dataclass(frozen=True)
class Judged:
    """A claim, its p-value corrected for all claims of a report, and the sentence that the report prints."""

    claim: Claim
    p_adjusted: float
    distinguishable: bool
    sentence: str


def difference_claims(analysis: str, a: str, b: str, measured: Sequence[Measured]) -> list[Claim]:
    """One claim a layer for one statistic, its p-value the larger of two: against inputs, against seeds.

    The first is a paired z-test over inputs. The second is a t-test whose variance is the spread between the
    arms' own seeds, or, where they have too few, between untrained networks, moderated over layers (Smyth,
    2004). Arms of different architecture are each taken relative to their own untrained networks. The
    interval is the wider of the two.
    """
    if not measured:
        return []
    spreads = [_spread_of_seeds(m) for m in measured]
    variance, freedom = moderated(np.array([s[0] for s in spreads]), np.array([s[1] for s in spreads]))
    return [
        _claim(analysis, a, b, m, float(v), float(d))
        for m, v, d in zip(measured, variance, freedom, strict=True)
    ]


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
    scale: Literal["identity", "log", "logit"] = "identity",
) -> Claim:
    """``difference_claims`` for a single measurement (nothing to moderate over)."""
    one = Measured(about, layer, values_a, values_b, floor_values, floor_values, unit, scale)
    return difference_claims(analysis, a, b, [one])[0]


def _spread_of_seeds(m: Measured) -> tuple[float, float]:
    """Variance between networks on the measurement's scale, and its degrees of freedom."""
    scale = SCALES[m.scale]
    own = [scale.to(values.mean(axis=1)) for values in (m.a, m.b)]
    floors = [scale.to(m.floor_a)] + ([] if m.one_architecture else [scale.to(m.floor_b)])
    variance, freedom = seed_spread(*own)
    return (variance, freedom) if freedom >= FEWEST_OWN else seed_spread(*own, *floors)


def _claim(analysis: str, a: str, b: str, m: Measured, variance: float, freedom: float) -> Claim:
    scale = SCALES[m.scale]
    points = [scale.to(values.mean(axis=1)) for values in (m.a, m.b)]
    effect = points[0].mean() - points[1].mean()
    natural = float(m.a.mean() - m.b.mean())
    terms = 1 / len(m.a) + 1 / len(m.b)
    if not m.one_architecture:
        effect -= scale.to(m.floor_a).mean() - scale.to(m.floor_b).mean()
        natural -= float(m.floor_a.mean() - m.floor_b.mean())
        terms += 1 / max(len(m.floor_a), 1) + 1 / max(len(m.floor_b), 1)
    by_seeds = float(np.sqrt(variance * terms))
    by_inputs = _error_over_inputs(m, scale)
    n = m.a.shape[1]
    p = max(two_sided(effect, by_seeds, freedom), two_sided(effect, by_inputs, np.inf))
    half = max(
        student.ppf(0.5 + LEVEL / 2, max(freedom, 1e-9)) * by_seeds if freedom else np.inf,
        norm.ppf(0.5 + LEVEL / 2) * by_inputs,
    )
    # So that interval and p agree; at the scale's own slope where the two effects do not.
    slope = natural / effect if natural * effect > 0 else scale.back(np.array([m.a.mean(), m.b.mean()]))
    half = float(half * slope)
    return Claim(
        analysis,
        m.about,
        a,
        b,
        natural,
        natural - half,
        natural + half,
        p,
        n,
        (len(m.a), len(m.b)),
        control_words(m),
        m.layer,
        m.unit,
    )


def _error_over_inputs(m: Measured, scale: Scale) -> float:
    """Standard error of the difference over inputs; values of both arms are paired by input."""
    sides = []
    for values in (m.a, m.b):
        slopes = scale.slope(values.mean(axis=1))
        sides.append((slopes[:, None] * (values - values.mean(axis=1, keepdims=True))).mean(axis=0))
    n = m.a.shape[1]
    return float((sides[0] - sides[1]).std(ddof=1) / np.sqrt(n)) if n > 1 else float("inf")


def control_words(m: Measured) -> str:
    """What the difference stands beside: both values and those of untrained networks."""
    parts = []
    floors = [m.floor_a] if m.one_architecture else [m.floor_a, m.floor_b]
    for floor in floors:
        if len(floor):
            spread = f" ± {floor.std(ddof=1):.2g}" if len(floor) > 1 else ""
            parts.append(f"{floor.mean():.3g}{spread} ({len(floor)})")
    floor_words = f"; untrained networks {' and '.join(parts)}" if parts else "; no untrained networks"
    if not m.one_architecture:
        floor_words += ", whose own difference is taken off"
    return f"{m.a.mean():.3g} against {m.b.mean():.3g}{floor_words}"


def two_sided(effect: float, error: float, freedom: float) -> float:
    """Two-sided p-value of a t statistic; 1 where nothing differs or the error is not known."""
    if effect == 0 or not np.isfinite(error) or freedom <= 0:
        return 1.0
    if error == 0:
        return 0.0
    z = abs(effect) / error
    return float(2 * (norm.sf(z) if np.isinf(freedom) else student.sf(z, freedom)))


def moderated(
    variances: Float[np.ndarray, " layers"], freedom: Float[np.ndarray, " layers"]
) -> tuple[Float[np.ndarray, " layers"], Float[np.ndarray, " layers"]]:
    """Variances shrunk towards what all layers have in common, and their degrees of freedom (Smyth, 2004).

    Layers of one network depend on each other: the common value weighs no more than a layer's own variance,
    and each of its degrees of freedom counts for half of one. With more, two untrained networks are told
    apart too often (up to 15 % of reports instead of 5 %).
    """
    known = (variances > 0) & (freedom > 0)
    if known.sum() < 2:
        return variances, freedom
    d = freedom[known]
    logs = np.log(variances[known]) - digamma(d / 2) + np.log(d / 2)
    excess = logs.var(ddof=1) - polygamma(1, d / 2).mean()
    most = float(d.mean())
    prior = min(2 * _trigamma_inverse(excess), most) if excess > 0 else most
    common = np.exp(logs.mean() + digamma(prior / 2) - np.log(prior / 2))
    out, df = variances.astype(float).copy(), freedom.astype(float).copy()
    out[known] = (prior * common + d * variances[known]) / (prior + d)
    df[known] = d + PRIOR_COUNTS * prior
    return out, df


def _trigamma_inverse(value: float) -> float:
    """The x with ``trigamma(x) = value`` (Newton steps on 1 / trigamma, which is nearly straight)."""
    x = 0.5 + 1 / value
    for _ in range(50):
        first = float(polygamma(1, x))
        step = first * (1 - first / value) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x


def paired_interval(
    values_a: Float[np.ndarray, "seeds_a n"], values_b: Float[np.ndarray, "seeds_b n"]
) -> tuple[float, float, float]:
    """Mean difference a - b and its 95 % interval over inputs alone (normal approximation)."""
    difference = values_a.mean(axis=0) - values_b.mean(axis=0)
    return interval(difference)


def interval(values: Float[np.ndarray, " n"]) -> tuple[float, float, float]:
    """Mean of input values and its 95 % interval (normal approximation)."""
    middle = float(values.mean())
    half = (
        float(norm.ppf(0.5 + LEVEL / 2) * values.std(ddof=1) / np.sqrt(len(values)))
        if len(values) > 1
        else 0.0
    )
    return middle, middle - half, middle + half


def paired_bootstrap(
    statistic: Callable[[np.ndarray], float], n: int, *, replicates: int, seed: int
) -> Float[np.ndarray, " replicates"]:
    """``statistic`` of ``replicates`` draws of ``n`` input indices with replacement.

    Draws depend on the seed alone: statistics of two networks on the same draws are paired.
    """
    draws = np.random.default_rng(seed).integers(0, n, (replicates, n))
    return np.array([statistic(index) for index in draws], dtype=float)


def permutation_p(value: float, null: Float[np.ndarray, " draws"], *, sides: int = 2) -> float:
    """Share of null draws at least as extreme, the value itself counted as one of them.

    Two sides compare distances from the null's median; one side asks for large values.
    """
    middle = np.median(null) if sides == 2 else 0.0
    extreme = np.abs(null - middle) >= abs(value - middle) if sides == 2 else null >= value
    return float((1 + extreme.sum()) / (1 + len(null)))


def seed_spread(*groups: Float[np.ndarray, " _"]) -> tuple[float, float]:
    """Pooled variance within groups and its degrees of freedom (0 and 0 when no group has two)."""
    freedom = float(sum(max(len(group) - 1, 0) for group in groups))
    if not freedom:
        return 0.0, 0.0
    squares = sum(float(np.square(group - group.mean()).sum()) for group in groups if len(group))
    return squares / freedom, freedom


def holm(p: Sequence[float]) -> Float[np.ndarray, " claims"]:
    """Adjusted p-values that bound the chance of any false claim, however they depend (Holm, 1979)."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return adjusted


def judge(claims: Sequence[Claim], alpha: float = 0.05) -> list[Judged]:
    """Decide over all claims of a report together; the order is kept."""
    adjusted = holm([claim.p for claim in claims])
    return [
        Judged(claim, float(p), bool(p < alpha), _sentence(claim, float(p), len(claims), alpha))
        for claim, p in zip(claims, adjusted, strict=True)
    ]


def _sentence(claim: Claim, p: float, count: int, alpha: float) -> str:
    unit = f" {claim.unit}" if claim.unit else ""
    seeds = f"{claim.seeds[0]} + {claim.seeds[1]} networks"
    numbers = f"{claim.effect:+.3g}{unit}, 95 % interval {claim.low:.3g} to {claim.high:.3g}"
    inputs = f"n = {claim.n} inputs, " if claim.n else ""  # weights are not measured on inputs
    basis = f"{inputs}{seeds}, p = {p:.2g} corrected for {count} comparisons"
    if p < alpha:
        return f"{claim.a} and {claim.b} {claim.verb} {claim.about}: {numbers} ({basis}); {claim.control}."
    about = claim.about[:1].upper() + claim.about[1:]
    return f"{about}: not distinguishable from noise ({numbers}; {basis}); {claim.control}."
