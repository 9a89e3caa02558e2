"""Which differences in similarity might be stated, each with its p-value against seeds and inputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import t as student

from microtome.comparison.gram import cka_input_values
from microtome.comparison.networks import Pair
from microtome.comparison.pairwise import (
    NOTHING,
    Components,
    apart,
    between_groups,
    log_dissimilarity,
    spread_out,
    within_group,
)
from microtome.comparison.part import Claim
from microtome.comparison.statistics import Measured, difference_claims, moderated, two_sided

IDENTICAL = 1e-4  # 1 - CKA below which two networks see the images the same way
PARTED = 1e-3


@dataclass(frozen=True)
class LayerSimilarity:
    """Debiased CKA between all networks at one layer; ``a``, ``b`` and the floors number its rows."""

    label: str
    values: Float[np.ndarray, "networks networks"]
    a: Int[np.ndarray, " seeds_a"]
    b: Int[np.ndarray, " seeds_b"]
    floor_a: Int[np.ndarray, " untrained_a"]
    floor_b: Int[np.ndarray, " untrained_b"]
    n: int
    units: Float[np.ndarray, "networks n n"]

    @property
    def between(self) -> Int[np.ndarray, "pairs 2"]:
        """All pairs of a network of a with one of b."""
        return np.array([(i, j) for i in self.a for j in self.b])

    @property
    def one_architecture(self) -> bool:
        """Whether the floors are the same networks."""
        return np.array_equal(self.floor_a, self.floor_b)

    @property
    def floor_pairs(self) -> Int[np.ndarray, "pairs 2"]:
        """Pairs of untrained networks, of unlike architectures where the arms have two."""
        if self.one_architecture:
            found = [(i, j) for x, i in enumerate(self.floor_a) for j in self.floor_a[x + 1 :]]
        else:
            found = [(i, j) for i in self.floor_a for j in self.floor_b]
        return np.array(found, dtype=int).reshape(-1, 2)

    def floor(self) -> float | None:
        """Mean CKA of untrained networks with each other."""
        found = self.floor_pairs
        return float(self.values[found[:, 0], found[:, 1]].mean()) if len(found) else None

    def ceiling(self) -> float | None:
        """Mean CKA of networks of one arm with each other, None without a second seed."""
        inside = [
            self.values[i, j] for own in (self.a, self.b) for x, i in enumerate(own) for j in own[x + 1 :]
        ]
        return float(np.mean(inside)) if inside else None

    def input_values(self, pairs: Int[np.ndarray, "pairs 2"]) -> Float[np.ndarray, "pairs n"]:
        """CKA of each pair plus each input's influence on it."""
        return cka_input_values(self.units, pairs)

    def floor_components(self) -> Components:
        """Spread of the logarithm of dissimilarity between untrained networks."""
        d = log_dissimilarity(self.values)
        if self.one_architecture:
            return within_group(d[np.ix_(self.floor_a, self.floor_a)])
        return between_groups(d[np.ix_(self.floor_a, self.floor_b)])


def claims_of(
    analysis: str, pair: Pair, layers: Sequence[LayerSimilarity], remarks: list[str]
) -> list[Claim]:
    """All claims about one pair of arms."""
    if not len(layers[0].floor_pairs):
        remarks.append(
            f"{pair.name_a} and {pair.name_b}: fewer than two untrained networks, no claim about similarity"
        )
        return []
    several = min(len(pair.a), len(pair.b)) > 1
    alike = _seed_claims(analysis, pair, layers) if several else _floor_claims(analysis, pair, layers)
    return [*alike, *_moved_claims(analysis, pair, layers), *_parting_claims(analysis, pair, layers)]


def _floor_claims(analysis: str, pair: Pair, layers: Sequence[LayerSimilarity]) -> list[Claim]:
    """Are a and b less, or more, alike than two untrained networks?"""
    components = [layer.floor_components() for layer in layers]
    variance, freedom = moderated(
        np.array([c.new_pair for c in components]), np.array([c.nodes_freedom for c in components])
    )
    out = []
    for layer, c, v, df in zip(layers, components, variance, freedom, strict=True):
        d = log_dissimilarity(layer.values[np.ix_(layer.a, layer.b)]).mean()
        pairs = layer.input_values(layer.between).mean(axis=0)
        floor = layer.input_values(layer.floor_pairs).mean(axis=0)
        word = "less" if pairs.mean() < floor.mean() else "more"
        verb = f"are {word} alike than two untrained networks in"
        control = (
            f"{pairs.mean():.3f} between them, {floor.mean():.3f} between untrained networks"
            f" ({len(layer.floor_pairs)} pairs)"
        )
        out.append(
            _claim(analysis, pair, layer, verb, control, pairs - floor, d - c.mean, float(v), float(df))
        )
    return out


def _seed_claims(analysis: str, pair: Pair, layers: Sequence[LayerSimilarity]) -> list[Claim]:
    """Are networks of a and b less alike than networks of one arm?"""
    contrasts = []
    for layer in layers:
        own = np.concatenate([layer.a, layer.b])
        groups = np.repeat([0.0, 1.0], [len(layer.a), len(layer.b)])
        extra = layer.floor_components() if len(layer.floor_pairs) else NOTHING
        contrasts.append(apart(log_dissimilarity(layer.values[np.ix_(own, own)]), groups, extra))
    variance, freedom = moderated(
        np.array([c.variance for c in contrasts]), np.array([c.freedom for c in contrasts])
    )
    out = []
    for layer, c, v, df in zip(layers, contrasts, variance, freedom, strict=True):
        between = layer.input_values(layer.between).mean(axis=0)
        inside = np.mean(
            [
                layer.input_values(np.array([(i, j) for x, i in enumerate(own) for j in own[x + 1 :]])).mean(
                    axis=0
                )
                for own in (layer.a, layer.b)
            ],
            axis=0,
        )
        word = "less" if between.mean() < inside.mean() else "more"
        verb = f"are {word} alike than seeds of one arm in"
        control = (
            f"{between.mean():.3f} between arms, {inside.mean():.3f} between seeds of one arm,"
            f" {layer.floor():.3f} between untrained networks"
        )
        out.append(
            _claim(analysis, pair, layer, verb, control, between - inside, c.effect, float(v), float(df))
        )
    return out


def _claim(
    analysis: str,
    pair: Pair,
    layer: LayerSimilarity,
    verb: str,
    control: str,
    inputs: Float[np.ndarray, " n"],
    effect: float,
    variance: float,
    freedom: float,
) -> Claim:
    """A claim whose p-value is the larger of those against inputs (``inputs`` values) and against seeds."""
    natural = float(inputs.mean())
    error = float(inputs.std(ddof=1) / np.sqrt(len(inputs)))
    by_seeds = float(np.sqrt(variance))
    p = max(two_sided(natural, error, np.inf), two_sided(effect, by_seeds, freedom))
    slope = abs(natural / effect) if abs(effect) > 1e-9 else 0.0
    reach = student.ppf(0.975, freedom) * by_seeds * slope if freedom > 0 else np.inf
    half = float(max(reach, 1.96 * error))
    seeds = (len(layer.a), len(layer.b))
    about = f"how they see the images at {layer.label} (debiased CKA)"
    return Claim(
        analysis, about, pair.name_a, pair.name_b, natural, natural - half, natural + half, p, layer.n,
        seeds, control, layer.label, verb=verb,
    )  # fmt: skip


def _moved_claims(analysis: str, pair: Pair, layers: Sequence[LayerSimilarity]) -> list[Claim]:
    """Is one arm further from untrained networks than the other?"""
    if min(len(layers[0].floor_a), len(layers[0].floor_b)) < 3:
        return []
    measured = []
    for layer in layers:
        away = [
            np.stack([1 - layer.input_values(np.array([(i, j) for j in floor])).mean(axis=0) for i in own])
            for own, floor in ((layer.a, layer.floor_a), (layer.b, layer.floor_b))
        ]
        floors = [_among_themselves(layer, layer.floor_a)]
        floors.append(floors[0] if layer.one_architecture else _among_themselves(layer, layer.floor_b))
        about = f"how far they are from untrained networks at {layer.label} (1 - debiased CKA)"
        measured.append(Measured(about, layer.label, away[0], away[1], floors[0], floors[1], scale="log"))
    return difference_claims(analysis, pair.name_a, pair.name_b, measured)


def _among_themselves(layer: LayerSimilarity, floor: Int[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Each untrained network's mean distance from the others, spread as far as distances from outsiders."""
    d = 1 - layer.values[np.ix_(floor, floor)]
    means = np.array([np.delete(d[i], i).mean() for i in range(len(floor))])
    return np.exp(spread_out(np.log(np.maximum(means, 1e-12))))


def _parting_claims(analysis: str, pair: Pair, layers: Sequence[LayerSimilarity]) -> list[Claim]:
    """Networks that are one and the same up to a layer: where do they part?

    Two networks of unlike initialisation are never the same at a layer, and how surprising it is that these
    are gives the p-value. Every network of a needs a counterpart in b.
    """
    first = layers[0]
    partner = first.values[np.ix_(first.a, first.b)].argmax(axis=1)
    together = np.stack([first.a, first.b[partner]], axis=1)
    own = np.array([layer.values[together[:, 0], together[:, 1]].min() for layer in layers])
    same = own > 1 - IDENTICAL
    at = int(np.argmin(same))
    if same.all() or at == 0 or own[at] > 1 - PARTED:
        return []
    before, layer = layers[at - 1], layers[at]
    components = [each.floor_components() for each in layers]
    variance, freedom = moderated(
        np.array([c.new_pair for c in components]), np.array([c.nodes_freedom for c in components])
    )
    effect = log_dissimilarity(own[at - 1 : at])[0] - components[at - 1].mean
    p = two_sided(float(effect), float(np.sqrt(variance[at - 1])), float(freedom[at - 1]))
    loss = layer.input_values(together).mean(axis=0) - before.input_values(together).mean(axis=0)
    error = float(loss.std(ddof=1) / np.sqrt(len(loss)))
    natural = float(loss.mean())
    return [
        Claim(
            analysis,
            f"what {layer.label} does: up to {before.label} they see the images the same way, there they part"
            " (loss of debiased CKA)",
            pair.name_a, pair.name_b, natural, natural - 1.96 * error, natural + 1.96 * error,
            max(p, two_sided(natural, error, np.inf)), layer.n, (len(layer.a), len(layer.b)),
            f"{own[at - 1]:.5f} at {before.label} and {own[at]:.3f} at {layer.label}; untrained networks"
            f" {before.floor():.3f} and {layer.floor():.3f}",
            layer.label,
        )
    ]  # fmt: skip
