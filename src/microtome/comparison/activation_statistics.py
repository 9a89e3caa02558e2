"""Activations of every layer before and after its nonlinearity: moments, sparsity, dimensions, selectivity.

Principal components are those of each network alone and those of all arms in one basis: networks share no
units, but they see the same images, so that the common basis is of patterns over images (multiple factor
analysis, Escofier and Pages, 1994).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from microtome.comparison.activation_config import ActivationConfig
from microtome.comparison.activations import Activations, Site
from microtome.comparison.arms import Arms
from microtome.comparison.gram import Gram
from microtome.comparison.networks import Pair, chosen, pairs, untrained
from microtome.comparison.part import Part, Row
from microtome.comparison.statistics import Measured, difference_claims, interval
from microtome.data.labelled_images import LabelledImages
from microtome.measures.selectivity import between_classes_input_values, selectivity_input_values

NAME = "activations"
STATISTICS: dict[str, tuple[str, str]] = {  # name -> words in "differ in ...", scale
    "share of zeros": ("how many activations are zero after {layer} (share)", "logit"),
    "effective dimension": (
        "how many dimensions the activations after {layer} fill (participation ratio)",
        "log",
    ),
    "variance between classes": (
        "how much of a channel's variance after {layer} lies between the classes of {label} (share)",
        "logit",
    ),
}
SELECTIVITY = "class selectivity"


def analyse(
    arms: Arms,
    activations: Mapping[str, Sequence[Activations]],
    images: LabelledImages,
    settings: ActivationConfig | None = None,
    progress: Callable[[str], None] = lambda _line: None,
    seed: int = 0,
) -> Part:
    """Statistics, principal components and selectivity of all arms, with claims for every pair."""
    del seed  # nothing is drawn
    settings = settings or ActivationConfig()
    part = Part(NAME)
    rows = chosen(images, settings.images)
    measured = _Measurements(images, rows)
    labels = [layer.label for layer in arms.layers]
    part.arrays["layers"], part.arrays["arms"] = np.array(labels), np.array([a.name for a in arms.given])
    for layer in arms.layers:
        progress(f"activations of {layer.label}")
        for arm in arms.given:
            first = activations[arm.name][0]
            _documented(part, arm.name, layer.names.get(arm.name, layer.label), first, layer.label)
            for statistic in STATISTICS:
                _rows(part, statistic, layer.label, arms, arm.name, activations, measured)
            _selectivity_rows(part, layer.label, arms, arm.name, activations, measured)
        _principal(part, arms, activations, layer.label, rows, settings.components)
    for pair in pairs(arms, activations):
        for statistic in STATISTICS:
            part.claims += difference_claims(
                NAME, pair.name_a, pair.name_b, _measured(statistic, pair, labels, measured)
            )
    part.arrays["classes"] = (
        measured.classes[rows] if measured.classes is not None else np.zeros(len(rows), int)
    )
    part.arrays["class names"] = np.array(measured.class_names)
    return part


class _Measurements:
    """Input values of every statistic; each is computed once a network and layer."""

    def __init__(self, images: LabelledImages, rows: Int[np.ndarray, " n"]):
        self.rows, self._kept = rows, {}
        self.classes: Int[np.ndarray, " N"] | None = None
        self.label, self.class_names = "", ("all",)
        for label, values in images.labels.items():
            if 2 <= len(np.unique(values.values)) <= len(images) // 2:
                self.classes, self.label, self.class_names = values.values, label, values.names
                break

    def values(self, statistic: str, network: Activations, layer: str) -> Float[np.ndarray, " n"] | None:
        """Input values, None where the statistic does not apply to the layer."""
        key = (statistic, network.folder, layer)
        if key not in self._kept:
            self._kept[key] = self._measure(statistic, network, layer)
        return self._kept[key]

    def _measure(self, statistic: str, network: Activations, layer: str) -> Float[np.ndarray, " n"] | None:
        if statistic == "share of zeros":
            return network.statistics(layer, "post").zeros_of_image if network.has_post(layer) else None
        if statistic == "effective dimension":
            return Gram(np.asarray(network.rows(layer, "post")[self.rows])).effective_dimension()
        if self.classes is None:
            return None
        channels = np.asarray(network.channels(layer, "post"))
        if statistic == SELECTIVITY:
            sensible = network.has_post(layer) and channels.min() >= 0
            return selectivity_input_values(channels, self.classes) if sensible else None
        return between_classes_input_values(channels, self.classes)


def _measured(statistic: str, pair: Pair, labels: Sequence[str], measured: _Measurements) -> list[Measured]:
    words, scale = STATISTICS[statistic]
    found = []
    for label in labels:
        groups = []
        for group in (pair.a, pair.b, pair.floor_a, pair.floor_b):
            values = [measured.values(statistic, network, label) for network in group]
            groups.append([v for v in values if v is not None])
        a, b, floor_a, floor_b = groups
        if not a or not b or np.ptp(np.concatenate([np.ravel(v) for v in a + b])) == 0:
            continue
        floors = [np.array([v.mean() for v in floor_a])]
        floors.append(floors[0] if pair.one_architecture else np.array([v.mean() for v in floor_b]))
        about = words.format(layer=label, label=measured.label)
        found.append(Measured(about, label, np.stack(a), np.stack(b), *floors, scale=scale))  # pyright: ignore[reportArgumentType]
    return found


def _rows(
    part: Part,
    statistic: str,
    layer: str,
    arms: Arms,
    arm: str,
    activations: Mapping[str, Sequence[Activations]],
    measured: _Measurements,
) -> None:
    """The arm's statistic with its interval, its floor, and for class labels what random labels give."""
    values = [measured.values(statistic, network, layer) for network in activations[arm]]
    own = [v for v in values if v is not None]
    if not own:
        return
    floor = [measured.values(statistic, network, layer) for network in untrained(arms, activations, arm)]
    floor_means = [float(v.mean()) for v in floor if v is not None]
    value, low, high = interval(np.mean(own, axis=0))
    null = None
    if statistic == "variance between classes" and measured.classes is not None:
        null = (len(np.unique(measured.classes)) - 1) / (len(measured.classes) - 1)
    part.rows.append(
        Row(NAME, statistic, value, layer, arm, label=measured.label if statistic != "share of zeros" else "",
            low=low, high=high, floor=float(np.mean(floor_means)) if floor_means else None, null=null,
            n=len(own[0]), seeds=len(own), note="after the nonlinearity")
    )  # fmt: skip
    part.arrays[f"{statistic}/{arm}/{layer}"] = np.array([float(v.mean()) for v in own])
    part.arrays[f"{statistic} floor/{arm}/{layer}"] = np.array(floor_means)
    part.arrays[f"{statistic} interval/{arm}/{layer}"] = np.array([value, low, high])


def _selectivity_rows(
    part: Part,
    layer: str,
    arms: Arms,
    arm: str,
    activations: Mapping[str, Sequence[Activations]],
    measured: _Measurements,
) -> None:
    _rows(part, SELECTIVITY, layer, arms, arm, activations, measured)


def _documented(part: Part, arm: str, name: str, network: Activations, layer: str) -> None:
    """The documented text file, and one row and two arrays a site."""
    lines = []
    sites: tuple[tuple[Site, str], ...] = (("pre", ""), ("post", "After the nonlinearity"))
    for site, title in sites:
        if site == "post" and not network.has_post(layer):
            continue
        found = network.statistics(layer, site)
        numbers = {
            "Mean activation": found.overall_mean,
            "StdDev of activation": found.overall_std,
            "Sparsity (fraction of zeros)": found.zeros,
            "Min activation": found.smallest,
            "Max activation": found.largest,
        }
        lines += [f"{title}:"] if title else [f"Layer: {name}"]
        lines += [f"{what}: {value:.6f}" for what, value in numbers.items()]
        for what, value in numbers.items():
            part.rows.append(
                Row(NAME, what, value, layer, arm, n=network.n, seeds=1,
                    note="after the nonlinearity" if site == "post" else "before the nonlinearity")
            )  # fmt: skip
        part.arrays[f"unit mean/{site}/{arm}/{layer}"] = found.mean.astype(np.float32)
        part.arrays[f"unit std/{site}/{arm}/{layer}"] = found.std.astype(np.float32)
        if found.largest == found.smallest:
            part.remarks.append(
                f"{arm}: every activation {title.lower() or 'of'} {layer} is {found.largest:g}"
            )
    word = name.replace(".", "_")  # as the documented files have it
    part.arrays[f"name/{arm}/{layer}"] = np.array(word)
    part.texts[f"activation_analysis/{arm}/act_summary_{word}.txt"] = "\n".join(lines) + "\n"


def _principal(
    part: Part,
    arms: Arms,
    activations: Mapping[str, Sequence[Activations]],
    layer: str,
    rows: Int[np.ndarray, " n"],
    components: int,
) -> None:
    """Scores of each arm's first network alone (before the nonlinearity), and of all in one basis (after)."""
    grams = []
    for arm in arms.given:
        network = activations[arm.name][0]
        alone = Gram(np.asarray(network.rows(layer, "pre")[rows]))
        scores, shares = alone.pca(max(components, 2))
        part.arrays[f"pca/{arm.name}/{layer}"] = scores.astype(np.float32)
        part.arrays[f"pca share/{arm.name}/{layer}"] = shares
        grams.append(Gram(np.asarray(network.rows(layer, "post")[rows])))
    joint, shares = joint_scores(grams, max(components, 2))
    for arm, scores, share in zip(arms.given, joint, shares, strict=True):
        part.arrays[f"joint pca/{arm.name}/{layer}"] = scores.astype(np.float32)
        part.arrays[f"joint pca share/{arm.name}/{layer}"] = share
        part.rows.append(
            Row(NAME, f"variance in the first {scores.shape[1]} joint components", float(share.sum()), layer,
                arm.name, n=len(rows), seeds=1, note="after the nonlinearity")
        )  # fmt: skip


def joint_scores(
    grams: Sequence[Gram], k: int
) -> tuple[list[Float[np.ndarray, "n k"]], list[Float[np.ndarray, " k"]]]:
    """Each network's scores on principal components of all of them, and the share of its own variance there.

    Networks weigh alike (their Gram matrices are divided by their traces). The mean of all networks' scores
    are the scores of the joint analysis: a network whose point lies elsewhere sees that image otherwise.
    """
    units = []
    for gram in grams:
        total = np.trace(gram.products)
        units.append(gram.products / total if total > 0 else gram.products)
    values, vectors = np.linalg.eigh(np.sum(units, axis=0) / len(units))
    values, vectors = np.maximum(values[::-1][:k], 1e-300), vectors[:, ::-1][:, :k]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    vectors = vectors * np.where(signs == 0, 1.0, signs)
    scores = [unit @ vectors / np.sqrt(values) for unit in units]
    shares = [np.einsum("nk,nm,mk->k", vectors, unit, vectors) for unit in units]
    return scores, shares
