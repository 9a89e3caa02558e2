"""What probing found for one task in every network, and its means and intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import norm
from scipy.stats import t as student

from microtome.comparison.probe_tasks import Task
from microtome.comparison.statistics import moderated, seed_spread

Z = float(norm.ppf(0.975))
Curves = dict[str, np.ndarray]  # steps, train_loss, inner_loss


@dataclass
class Probed:
    """One layer of one network, probed for one task. Names are those of the rows made of it."""

    correct: dict[str, Bool[np.ndarray, " n"]] = field(default_factory=dict)  # linear, MLP, logistic
    controls: Float[np.ndarray, " controls"] = field(default_factory=lambda: np.empty(0))
    null: Float[np.ndarray, " permutations"] = field(default_factory=lambda: np.empty(0))
    inner: Float[np.ndarray, " shrinkages"] = field(default_factory=lambda: np.empty(0))
    bits: Float[np.ndarray, " n"] | None = None
    null_bits: float | None = None
    sent: Float[np.ndarray, " blocks"] | None = None  # bits an image up to the end of each block
    curves: Curves | None = None  # of the MLP


@dataclass
class TaskResult:
    """Every network's layers for one task, ``networks[name][seed][layer]``; floors by their own names."""

    task: Task
    layers: tuple[str, ...]
    networks: dict[str, list[list[Probed]]]
    control_types: str = "images"
    blocks: tuple[int, ...] = ()

    def correct(self, name: str, kind: str) -> Float[np.ndarray, "layers seeds n"] | None:
        """Correctness of every image in the networks that have this kind of probe; None without any."""
        kept = [layers for layers in self.networks.get(name, []) if kind in layers[0].correct]
        if not kept:
            return None
        found = [[one[i].correct[kind] for one in kept] for i in range(len(self.layers))]
        return np.array(found, dtype=float)

    def bits(self, name: str) -> Float[np.ndarray, "layers seeds n"] | None:
        """Bits of every image's label; None where the code was not measured."""
        found = [[layer.bits for layer in layers] for layers in self.networks.get(name, [])]
        if not found or any(bits is None for bits in found[0]):
            return None
        return np.array(found, dtype=float).swapaxes(0, 1)

    def null(self, name: str) -> Float[np.ndarray, "layers permutations"]:
        """Accuracies of linear probes under permuted labels, of the first network of the arm."""
        return np.stack([one.null for one in self.networks[name][0]])


def mean_intervals(
    values: Float[np.ndarray, "layers seeds n"], share: bool = True
) -> list[tuple[float, float, float]]:
    """Mean and 95 % interval of every layer over images and, with two networks or more, over networks.

    The spread between networks is moderated over layers: two seeds alone would tell hardly anything.
    """
    k = values.shape[1]
    spread = [seed_spread(layer.mean(1)) for layer in values]
    variance, freedom = moderated(np.array([s[0] for s in spread]), np.array([s[1] for s in spread]))
    return [
        _mean_interval(layer, np.sqrt(float(v) / k), float(d), share)
        for layer, v, d in zip(values, variance, freedom, strict=True)
    ]


def _mean_interval(
    values: Float[np.ndarray, "seeds n"], error: float, freedom: float, share: bool
) -> tuple[float, float, float]:
    """One layer's interval; ``error`` is that of the mean over networks, with its degrees of freedom.

    Shares take Wilson's interval over images, which does not vanish at 0 and 1. The part of the networks
    is a t interval; both parts are added as independent errors.
    """
    k, n = values.shape
    over_images = values.mean(0)
    mean = float(over_images.mean())
    if share:
        centre = (mean + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * np.sqrt(mean * (1 - mean) / n + Z**2 / (4 * n**2))
        low, high = centre - half, centre + half
    else:
        half = Z * over_images.std(ddof=1) / np.sqrt(n)
        low, high = mean - half, mean + half
    if k > 1:
        seeds = student.ppf(0.975, max(freedom, 1.0)) * error
        low, high = mean - np.hypot(mean - low, seeds), mean + np.hypot(high - mean, seeds)
    if share:
        low, high = max(low, 0.0), min(high, 1.0)
    return mean, float(low), float(high)


def typical_difference(means: Sequence[float] | Float[np.ndarray, " k"]) -> float | None:
    """Mean distance of two networks of a kind; None with fewer than two."""
    values = np.asarray(means, dtype=float)
    if len(values) < 2:
        return None
    first, second = np.triu_indices(len(values), 1)
    return float(np.abs(values[first] - values[second]).mean())
