"""How alike two arms see the same images: debiased CKA of all layers, Procrustes, RSA, shared directions.

Every number stands beside untrained networks of the same architecture (floor), other seeds of one arm
(ceiling), images dealt out at random (null), and an interval over images.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from microtome.comparison.activation_config import SimilarityConfig
from microtome.comparison.activations import Activations
from microtome.comparison.arms import Arms
from microtome.comparison.gram import Gram
from microtome.comparison.networks import Pair, chosen, pairs
from microtome.comparison.part import Part, Row
from microtome.comparison.similarity_claims import LayerSimilarity, claims_of
from microtome.comparison.statistics import interval
from microtome.data.labelled_images import LabelledImages

NAME = "similarity"
NULL_NUMBERS = 300_000_000  # shuffled at most: with many layers and images there are fewer permutations
NULL_LEVEL = 0.975


def analyse(
    arms: Arms,
    activations: Mapping[str, Sequence[Activations]],
    images: LabelledImages,
    settings: SimilarityConfig | None = None,
    progress: Callable[[str], None] = lambda _line: None,
    seed: int = 0,
) -> Part:
    """Similarity of all layers of every pair of arms."""
    settings = settings or SimilarityConfig()
    part = Part(NAME)
    rows = chosen(images, settings.images)
    labels = [layer.label for layer in arms.layers]
    for pair in pairs(arms, activations):
        progress(f"similarity of {pair.name_a} and {pair.name_b}: {len(labels)} layers, {len(rows)} images")
        found = [_one_layer(part, pair, label, rows, settings) for label in labels]
        part.claims += claims_of(NAME, pair, found, part.remarks)
        _all_layers(part, pair, labels, rows, settings, seed)
    part.arrays["layers"] = np.array(labels)
    part.arrays["pairs"] = np.array([[a.name, b.name] for a, b in arms.pairs])
    return part


def _gram(activations: Activations, label: str, rows: Int[np.ndarray, " n"]) -> Gram:
    return Gram(np.asarray(activations.rows(label, "post")[rows]))


def _one_layer(
    part: Part, pair: Pair, label: str, rows: Int[np.ndarray, " n"], settings: SimilarityConfig
) -> LayerSimilarity:
    """CKA between all networks at one layer, with the input values that intervals come from."""
    groups = [pair.a, pair.b, pair.floor_a] + ([] if pair.one_architecture else [pair.floor_b])
    grams = [[_gram(each, label, rows) for each in group] for group in groups]
    units = np.stack([gram.unit for group in grams for gram in group])
    flat = units.reshape(len(units), -1)
    where = np.split(np.arange(len(units)), np.cumsum([len(group) for group in grams])[:-1])
    found = LayerSimilarity(
        label,
        np.clip(flat @ flat.T, -1.0, 1.0),
        where[0],
        where[1],
        where[2],
        where[-1],
        len(rows),
        units,
    )
    _cka_rows(part, pair, found)
    _second_opinions(part, pair, label, grams, settings)
    return found


def _cka_rows(part: Part, pair: Pair, found: LayerSimilarity) -> None:
    floor, ceiling = found.floor(), found.ceiling()
    value, low, high = interval(found.input_values(found.between).mean(axis=0))
    seeds = len(found.a) + len(found.b)
    null = NULL_STEPS * _null_deviation(found.n)
    part.rows.append(
        Row(NAME, "debiased CKA", value, found.label, pair.name_a, pair.name_b, low=low, high=high,
            floor=floor, ceiling=ceiling, null=null, n=found.n, seeds=seeds)
    )  # fmt: skip
    for name, own, own_floor in (
        (pair.name_a, found.a, found.floor_a),
        (pair.name_b, found.b, found.floor_b),
    ):
        with_floor = [(int(i), int(j)) for i in own for j in own_floor]
        if with_floor:
            value, low, high = interval(found.input_values(np.array(with_floor)).mean(axis=0))
            part.rows.append(
                Row(NAME, "debiased CKA", value, found.label, name, "untrained", low=low, high=high,
                    floor=floor, null=null, n=found.n, seeds=len(own) + len(own_floor))
            )  # fmt: skip
        if len(own) > 1:
            inside = np.array([(i, j) for x, i in enumerate(own) for j in own[x + 1 :]])
            value, low, high = interval(found.input_values(inside).mean(axis=0))
            part.rows.append(
                Row(NAME, "debiased CKA", value, found.label, name, name, low=low, high=high,
                    floor=floor, null=null, n=found.n, seeds=len(own), note="other seeds of the same arm")
            )  # fmt: skip


NULL_STEPS = 1.96


def _null_deviation(n: int) -> float:
    """Standard deviation of debiased CKA when the images of one network are dealt out at random.

    Exact for every pair of U-centred matrices: their rows sum to 0, which fixes all second moments.
    """
    return float(
        np.sqrt(2 / (n * (n - 1)) + 4 / (n * (n - 1) * (n - 2)) + 4 / (n * (n - 1) * (n - 2) * (n - 3)))
    )


def _second_opinions(
    part: Part, pair: Pair, label: str, grams: list[list[Gram]], settings: SimilarityConfig
) -> None:
    """Procrustes, RSA and shared directions of the arms, beside floor and ceiling."""
    some = np.arange(min(len(grams[0][0]), settings.second_opinion_images))
    if len(some) < len(grams[0][0]):
        grams = [[gram.resample(some) for gram in group] for group in grams]
    a, b, floor_a = grams[0], grams[1], grams[2]
    floors = (
        [(x, y) for i, x in enumerate(floor_a) for y in floor_a[i + 1 :]]
        if pair.one_architecture
        else [(x, y) for x in floor_a for y in grams[3]]
    )
    inside = [(x, y) for group in (a, b) for i, x in enumerate(group) for y in group[i + 1 :]]
    measures: dict[str, Callable[[Gram, Gram], float]] = {
        "Procrustes distance": lambda x, y: x.procrustes(y),
        "RSA (rank correlation of distances)": lambda x, y: x.rsa(y),
        f"overlap of {settings.directions} principal directions": lambda x, y: x.overlap(
            y, settings.directions
        ),
    }
    for statistic, measure in measures.items():
        between = [measure(x, y) for x in a for y in b]
        low, high = _half_sample_interval(a[0], b[0], measure, between[0])
        shift = float(np.mean(between)) - between[0]
        part.rows.append(
            Row(NAME, statistic, float(np.mean(between)), label, pair.name_a, pair.name_b,
                low=low + shift, high=high + shift, floor=_mean(measure(x, y) for x, y in floors),
                ceiling=_mean(measure(x, y) for x, y in inside), n=len(some), seeds=len(a) + len(b))
        )  # fmt: skip


def _mean(values: Any) -> float | None:
    every = list(values)
    return float(np.mean(every)) if every else None


HALVES = 10


def _half_sample_interval(
    a: Gram, b: Gram, measure: Callable[[Gram, Gram], float], value: float
) -> tuple[float, float]:
    """95 % interval from half samples: their spread is that of the whole sample (Politis and Romano, 1994).

    The two halves of one split make up for what fewer inputs shift, so that only their difference counts.
    """
    n = len(a)
    if n < 16:
        return value, value
    draws = np.random.default_rng(0)
    differences = []
    for _ in range(HALVES):
        order = draws.permutation(n)
        one, other = (measure(a.resample(half), b.resample(half)) for half in np.array_split(order, 2))
        differences.append((one - other) / 2)
    half = 1.96 * float(np.sqrt(np.mean(np.square(differences))))
    return value - half, value + half


def _all_layers(
    part: Part,
    pair: Pair,
    labels: list[str],
    rows: Int[np.ndarray, " n"],
    settings: SimilarityConfig,
    seed: int,
) -> None:
    """CKA of every layer of the first network of a with every layer of that of b, interval and null."""
    stacks = []
    for group in (pair.a, pair.b):
        units = [_gram(group[0], label, rows).unit.astype(np.float32) for label in labels]
        stacks.append(np.stack(units))
    one, other = stacks
    n = len(rows)
    values = one.reshape(len(labels), -1) @ other.reshape(len(labels), -1).T
    error = _errors(one, other, values.astype(np.float64))
    null = _null(one, other, settings.permutations, seed)
    key = f"{pair.name_a}/{pair.name_b}"
    part.arrays[f"cka/{key}"] = values
    part.arrays[f"cka error/{key}"] = error
    part.arrays[f"cka null/{key}"] = null
    for i, here in enumerate(labels):
        for j, there in enumerate(labels):
            if i != j:
                value, half = float(values[i, j]), 1.96 * float(error[i, j])
                part.rows.append(
                    Row(NAME, "debiased CKA between layers", value, here, pair.name_a, pair.name_b,
                        label=there, low=value - half, high=value + half, null=float(null[i, j]), n=n,
                        seeds=2, note="layer of the first, label of the second network")
                )  # fmt: skip


def _errors(
    one: Float[np.ndarray, "a n n"], other: Float[np.ndarray, "b n n"], values: Float[np.ndarray, "a b"]
) -> Float[np.ndarray, "a b"]:
    """Standard error over images of every CKA, from each image's influence."""
    n = one.shape[1]
    shared = np.matmul(one.transpose(1, 0, 2), other.transpose(1, 2, 0))  # [n, a, b]: products of one image
    own = np.einsum("aij,aij->ia", one, one)[:, :, None] + np.einsum("bij,bij->ib", other, other)[:, None, :]
    influence = n * (2 * shared - values * own)
    return np.asarray(influence.std(axis=0, ddof=1) / np.sqrt(n), dtype=np.float64)


def _null(
    one: Float[np.ndarray, "a n n"], other: Float[np.ndarray, "b n n"], permutations: int, seed: int
) -> Float[np.ndarray, "a b"]:
    """What CKA exceeds in one of forty deals of the second network's images at random."""
    count = int(np.clip(NULL_NUMBERS // other.size, 20, permutations))
    draws = np.random.default_rng(seed)
    flat = one.reshape(len(one), -1)
    values = []
    for _ in range(count):
        order = draws.permutation(other.shape[1])
        dealt = other[:, order[:, None], order[None, :]]
        values.append(flat @ dealt.reshape(len(other), -1).T)
    return np.quantile(np.stack(values), NULL_LEVEL, axis=0)
