"""Whether the scores predict: true ablations of features beside every score, and faithfulness curves."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import spearmanr

from microtome.gradients.ablation import LayerIntervention
from microtome.gradients.result import strongest

FIRING_OFTEN = 8  # positions at which a feature must act to be drawn
NUDGES = (-1.0, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5)
NUDGED = 10  # features that are nudged together
REMOVED = (1, 2, 5, 10, 20, 50, 100, 200)  # features that are removed together
MAGNITUDES = {
    "|attribution|": "attribution_mean",
    "mean |attribution|": "attribution_mean_abs",
    "mean |gradient| where active": "active_gradients_mean_abs",
    "mean_abs (documented)": "gradients_mean_abs",
    "|mean| (documented)": "gradients_mean",
    "mean activation": "values_mean_abs",
}
SIGNED = {"attribution, signed": "attribution_mean", "mean, signed (documented)": "gradients_mean"}


@dataclass(frozen=True)
class LayerValidation:
    """One layer's ablations. Losses are in nats per scored token, changes positive where the loss rises.

    ``features`` drawn at random, how often they fire, the ``change`` of the loss when each is removed and
    what the attribution ``predicted``; ``spearman`` of each score with the size of the change (or, signed,
    with the change itself); ``nudges``: factor, change, prediction for the strongest features together;
    ``removed``: for each order, number of features, change and prediction.
    """

    layer: int
    features: Int[np.ndarray, " n"]
    firing: Int[np.ndarray, " n"]
    change: Float[np.ndarray, " n"]
    predicted: Float[np.ndarray, " n"]
    scores: Mapping[str, Float[np.ndarray, " n"]]
    spearman: Mapping[str, float]
    nudges: Float[np.ndarray, "m 3"]
    removed: Mapping[str, Float[np.ndarray, "r 3"]]
    loss: float
    tokens: int

    @property
    def chance(self) -> float:
        """The Spearman correlation that unrelated numbers exceed one time in twenty, either way."""
        return 1.96 / np.sqrt(max(len(self.features) - 1, 1))

    def rows(self) -> list[dict[str, Any]]:
        """One row a feature, for a table."""
        return [
            {
                "feature": int(feature),
                "fires": int(fires),
                "change": float(change),
                "predicted": float(predicted),
                **{name: float(values[place]) for name, values in self.scores.items()},
            }
            for place, (feature, fires, change, predicted) in enumerate(
                zip(self.features, self.firing, self.change, self.predicted, strict=True)
            )
        ]


@dataclass(frozen=True)
class Validation:
    """All layers' ablations."""

    layers: Mapping[int, LayerValidation]
    noun: str

    def summary(self) -> dict[str, Any]:
        """Spearman correlations by layer, and their means, for ``summary.json``."""
        names = list(next(iter(self.layers.values())).spearman)
        mean = {name: float(np.nanmean([v.spearman[name] for v in self.layers.values()])) for name in names}
        by_layer = [{"layer": layer, "n": len(v.features), **v.spearman} for layer, v in self.layers.items()]
        return {"spearman": mean, "spearman_by_layer": by_layer}

    def told(self) -> Iterator[str]:
        """Lines for the terminal."""
        yield f"Spearman correlation of each score with the loss change when a {self.noun} is removed:"
        names = list(next(iter(self.layers.values())).spearman)
        heads = "".join(f"{f'layer {layer}':>10}" for layer in self.layers)
        yield f"  {'':<32}{heads}"
        for name in names:
            yield f"  {name:<32}" + "".join(f"{v.spearman[name]:>10.2f}" for v in self.layers.values())
        n = min(len(v.features) for v in self.layers.values())
        chance = 1.96 / max(n - 1, 1) ** 0.5
        yield f"  ({n} {self.noun}s a layer; unrelated numbers stay within ±{chance:.2f})"


def validate_layer(
    layer: int,
    intervention: LayerIntervention,
    arrays: Mapping[str, np.ndarray],
    positions: int,
    n: int,
    rng: np.random.Generator,
    progress: Callable[[], None] = lambda: None,
) -> LayerValidation | None:
    """Remove ``n`` random features that fire often enough, one at a time; None when there are fewer than 3.

    ``arrays`` are the layer's scores on the very samples of the intervention, ``positions`` how many
    positions they are means over.
    """
    firing = intervention.firing.numpy()
    eligible = np.flatnonzero(firing >= FIRING_OFTEN)
    if len(eligible) < 3:
        return None
    features = np.sort(rng.choice(eligible, size=min(n, len(eligible)), replace=False))
    per_token = 1 / max(intervention.scored, 1)
    change = intervention.single(features.tolist()).numpy() * per_token
    progress()
    attribution = arrays["attribution_mean"].astype(np.float64) * positions * per_token
    scores = {name: arrays[key][features] for name, key in MAGNITUDES.items() if key in arrays}
    signed = {name: arrays[key][features] for name, key in SIGNED.items() if key in arrays}
    spearman = {name: rank_correlation(np.abs(v), np.abs(change)) for name, v in scores.items()}
    # Removing is a step of minus the activation, so that the loss falls where the attribution is positive.
    spearman |= {name: rank_correlation(-v, change) for name, v in signed.items()}
    orders = {"attribution": np.argsort(attribution, kind="stable")}
    if "gradients_mean_abs" in arrays:
        orders["mean_abs (documented)"] = strongest(arrays["gradients_mean_abs"], max(REMOVED))
    orders["random"] = rng.permutation(np.flatnonzero(firing > 0))
    validation = LayerValidation(
        layer=layer,
        features=features,
        firing=firing[features],
        change=change,
        predicted=-attribution[features],
        scores=scores | signed,
        spearman=spearman,
        nudges=_nudges(intervention, attribution, per_token),
        removed={
            name: _removed(intervention, order, attribution, per_token) for name, order in orders.items()
        },
        loss=intervention.base * per_token,
        tokens=intervention.scored,
    )
    progress()
    return validation


def _nudges(intervention: LayerIntervention, attribution: np.ndarray, per_token: float) -> np.ndarray:
    """Factor, change and prediction when the strongest features are scaled together by ``1 + factor``."""
    top = strongest(attribution, NUDGED)
    return np.array(
        [
            (factor, intervention.together(top.tolist(), factor) * per_token, factor * attribution[top].sum())
            for factor in NUDGES
        ]
    )


def _removed(
    intervention: LayerIntervention, order: np.ndarray, attribution: np.ndarray, per_token: float
) -> np.ndarray:
    """Number of features, change and prediction when the first few of an order are removed together."""
    rows = [(0.0, 0.0, 0.0)]
    for number in REMOVED:
        if number > len(order) or (number > len(attribution) // 2 and number > 1):
            break
        chosen = order[:number]
        change = intervention.together(chosen.tolist()) * per_token
        rows.append((float(number), change, -float(attribution[chosen].sum())))
    return np.array(rows)


def rank_correlation(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Spearman's rank correlation; nan where one side is constant."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)  # pyright: ignore[reportAttributeAccessIssue]
