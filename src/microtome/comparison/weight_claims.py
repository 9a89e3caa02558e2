"""What may be said of weights: intervals and claims, from the spread of seeds and untrained networks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy import stats

from microtome.comparison.arms import Arm
from microtome.comparison.part import Claim
from microtome.comparison.statistics import Measured, difference_claims, moderated
from microtome.comparison.weight_measures import LayerNumbers
from microtome.comparison.weight_pairs import Pair

ANALYSIS = "weights"
ENOUGH = 3  # untrained networks, or pairs with them, whose spread says something


def sharing_claims(a: Arm, b: Arm, given: Sequence[Pair], floor: Sequence[Pair]) -> list[Claim]:
    """Which layers have less (or more) in common than the others of the same two networks.

    What is in common is ``(aligned cosine - floor) / (1 - floor)``: 0 as with an untrained network, 1 the
    same weights. Its noise is the spread of the floor, whose networks share nothing.
    """
    labels = list(given[0].layers)
    if len(floor) < ENOUGH or len(labels) < 3:
        return []
    values = np.array([np.mean(values_of(given, label, "aligned")) for label in labels])
    own = np.array([values_of(floor, label, "aligned") for label in labels])
    room = np.maximum(1 - own.mean(1), 1e-6)
    shared = (values - own.mean(1)) / room
    # What each pair with an untrained network gives for the same contrast: its spread is the noise.
    null = _against_others((own - own.mean(1, keepdims=True)) / room[:, None])
    n, claims = own.shape[1], []
    middles = shared - _against_others(shared[:, None])[:, 0]
    variance, _ = moderated(null.var(1, ddof=1), np.full(len(labels), n - 1.0))
    for i, label in enumerate(labels):
        middle = float(middles[i])
        # Half of the pairs share one of the two networks, whose own part of the noise they do not show.
        noise = max(float((2 * variance[i] * (1 + 1 / n)) ** 0.5), 1e-9)
        effect = float(shared[i] - middle - null[i].mean())
        reach = float(stats.t.ppf(0.975, n - 1)) * noise
        claims.append(
            Claim(
                ANALYSIS,
                f"what the weights of {label} have in common, set against their other layers",
                a.name,
                b.name,
                effect,
                effect - reach,
                effect + reach,
                float(2 * stats.t.sf(abs(effect) / noise, n - 1)),
                0,
                (len(a.networks), len(b.networks)),
                f"{shared[i]:.2f} in common here, {middle:.2f} in the other layers; an untrained network"
                " has 0 in common, the same weights 1",
                layer=label,
            )
        )
    return claims


def _against_others(shared: Float[np.ndarray, "layers pairs"]) -> Float[np.ndarray, "layers pairs"]:
    """Each layer's share less the median of the other layers' of the same pair."""
    return np.array([row - np.median(np.delete(shared, i, axis=0), axis=0) for i, row in enumerate(shared)])


def rank_claims(
    a: Arm,
    b: Arm,
    numbers: Mapping[str, Sequence[Mapping[str, LayerNumbers]]],
    floors: tuple[str, str],
    labels: Sequence[str],
) -> list[Claim]:
    """Differences of the effective rank of every layer, against the spread of seeds."""
    measured = []
    for label in labels:
        ranks = {
            name: np.array([one[label].effective_rank for one in numbers[name]])
            for name in (a.name, b.name, *floors)
        }
        about = f"the effective rank of the weights of {label}"
        measured.append(
            Measured(
                about,
                label,
                _without_inputs(ranks[a.name]),
                _without_inputs(ranks[b.name]),
                ranks[floors[0]],
                ranks[floors[1]],
                unit="directions",
                scale="log",
            )
        )
    return [replace(claim, n=0) for claim in difference_claims(ANALYSIS, a.name, b.name, measured)]


def _without_inputs(values: Float[np.ndarray, " seeds"]) -> Float[np.ndarray, "seeds 2"]:
    """Input values of what does not depend on inputs: two alike, so that there is no noise over them."""
    return np.repeat(values[:, None], 2, axis=1)


def values_of(pairs: Sequence[Pair], label: str, statistic: str) -> list[float]:
    """One statistic of one layer of all pairs that have it."""
    values = [getattr(pair.layers[label], statistic) for pair in pairs]
    return [value for value in values if np.isfinite(value)]


def mean(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return float(np.mean(values)) if len(values) else None


def interval(values: Sequence[float], floor: Sequence[float]) -> tuple[float | None, float | None]:
    """95 % interval of the mean over seeds; of a single seed, from the spread of untrained networks."""
    source = values if len(values) > 1 else floor
    if len(source) < (2 if len(values) > 1 else ENOUGH):
        return None, None
    reach = stats.t.ppf(0.975, len(source) - 1) * float(np.std(source, ddof=1)) / len(values) ** 0.5
    middle = float(np.mean(values))
    return middle - reach, middle + reach


def interval_note(values: Sequence[float], floor: Sequence[float]) -> str:
    """What ``interval`` came from."""
    if len(values) > 1:
        return "interval over seeds"
    return "interval from the spread of untrained networks" if len(floor) >= ENOUGH else ""


def beyond(values: Sequence[float], floor: Sequence[float]) -> float | None:
    """Two-sided p-value of the mean being one of the floor's, by the t distribution of its spread."""
    if len(floor) < ENOUGH:
        return None
    spread = float(np.std(floor, ddof=1)) * (1 / len(values) + 1 / len(floor)) ** 0.5
    if spread == 0:
        return 1.0 if float(np.mean(values)) == float(np.mean(floor)) else 0.0
    return float(2 * stats.t.sf(abs(float(np.mean(values)) - float(np.mean(floor))) / spread, len(floor) - 1))
