"""Comparison of features: sparse dictionaries of every layer, matched between networks, and cross-coders."""

from collections.abc import Callable

import numpy as np
import torch

from microtome.comparison.activations import Activations
from microtome.comparison.arms import Arm, Arms
from microtome.comparison.feature_cards import Card, cards_of, thumbnails
from microtome.comparison.feature_crosscoders import crosscoder_shares
from microtome.comparison.feature_layer import Layer, Pairing
from microtome.comparison.feature_matching import (
    KINDS,
    kinds_of,
    mean_best,
)
from microtome.comparison.feature_rows import ANALYSIS, add_row, matching_rows, share_rows
from microtome.comparison.feature_training import (
    FEWEST_CHANNELS,
    TrainedDictionary,
    layer_rows,
    train_all,
    training_of,
)
from microtome.comparison.features_config import FeaturesConfig
from microtome.comparison.part import Part
from microtome.comparison.statistics import Measured, difference_claims
from microtome.core.seeds import generator
from microtome.data.labelled_images import LabelledImages
from microtome.dictionaries.crosscoder import fit_crosscoders
from microtome.dictionaries.quality import warnings_about

FOLDER = "autoencoder_analysis"


def analyse(
    arms: Arms,
    activations: dict[str, list[Activations]],
    images: LabelledImages,
    settings: FeaturesConfig,
    progress: Callable[[str], None],
    seed: int,
) -> Part:
    """Dictionaries, matching and cross-coders of every layer. See ``Part``; raises ``MicrotomeError``."""
    return _Analysis(arms, activations, images, settings, progress, seed).part


class _Analysis:
    """One comparison of features under way."""

    def __init__(
        self,
        arms: Arms,
        activations: dict[str, list[Activations]],
        images: LabelledImages,
        settings: FeaturesConfig,
        progress: Callable[[str], None],
        seed: int,
    ) -> None:
        self.arms, self.images, self.settings, self.seed = arms, images, settings, seed
        self.part = Part(ANALYSIS, tensors={})
        self.tensors: dict[str, dict[str, torch.Tensor]] = {}
        self.measured: dict[tuple[str, str], list[Measured]] = {}
        self.networks = self._networks(activations)
        self.drawn: list[int] = []
        labels = [layer.label for layer in arms.layers]
        count = min(settings.layers, len(labels))
        chosen = np.unique(np.linspace(0, len(labels) - 1, count).round().astype(int)) if count else []
        if len(chosen) < len(labels):
            self.part.remarks.append(f"features of {len(chosen)} of {len(labels)} layers (features.layers)")
        done = []
        for label in [labels[i] for i in chosen]:
            progress(f"features: {label}")
            if self._layer(label):
                done.append(label)
        for (a, b), measured in self.measured.items():
            self.part.claims += difference_claims(ANALYSIS, a, b, measured)
        self.part.arrays["arms"] = np.array([arm.name for arm in arms.given])
        self.part.arrays["layers"] = np.array(done)
        self.part.arrays |= thumbnails(images, self.drawn)
        self.part.tensors = self.tensors

    def _networks(self, activations: dict[str, list[Activations]]) -> dict[str, Activations]:
        """Every network that is looked at, as ``arm#seed``."""
        found = {}
        for arm in self.arms.given:
            for i, one in enumerate(activations[arm.name][: self.settings.seeds]):
                found[f"{arm.name}#{i}"] = one
        for floor in self.arms.floors.values():
            for i, one in enumerate(activations[floor.name][: self.settings.floor_networks]):
                found[f"{floor.name}#{i}"] = one
        return found

    def _of(self, arm: Arm) -> list[str]:
        return [name for name in self.networks if name.rpartition("#")[0] == arm.name]

    # -- one layer -----------------------------------------------------------------------------------------

    def _layer(self, label: str) -> bool:
        data = layer_rows(label, self.networks, self.settings, self.seed)
        widths = {name: rows.shape[1] for name, rows in data.rows.items()}
        silent = [name for name, rows in data.rows.items() if not bool((rows != rows[0]).any())]
        if min(widths.values()) < FEWEST_CHANNELS or silent:
            why = f"{silent[0]} gives the same for every input" if silent else "has fewer than four channels"
            self.part.remarks.append(f"{label}: no dictionaries, since it {why}")
            return False
        seeds = {name: stream for stream, name in enumerate(self.networks)}
        jobs = [(name, self.seed + 10 * stream) for name, stream in seeds.items()]
        seconds = [(f"{arm.name}#0", self.seed + 10 * seeds[f"{arm.name}#0"] + 1) for arm in self.arms.given]
        trained = train_all(data, [*jobs, *seconds], self.settings)
        own = {name: trained[name, seed] for name, seed in jobs}
        again = {name: trained[name, seed] for name, seed in seconds}
        self._dictionary_rows(label, own)
        groups = generator(self.seed, stream="groups")
        group = torch.randperm(len(self.images), generator=groups) % self.settings.groups
        layer = Layer(label, data, own, again, group[data.image])
        for arm in self.arms.given:
            self._dictionary_pictures(label, arm, own[f"{arm.name}#0"])
        for a, b in self.arms.pairs:
            self._pair(layer, a, b)
            self._crosscoder(layer, a, b)
            self._measured(layer, a, b)
        return True

    def _dictionary_rows(self, label: str, own: dict[str, TrainedDictionary]) -> None:
        for arm in self.arms.given:
            names, floors = self._of(arm), self._of(self.arms.floors[arm.name])
            for name in names:
                which = f" (seed {name.rpartition('#')[2]})" if len(names) > 1 else ""
                self.part.remarks += warnings_about(
                    f"{arm.name} {label}{which}: the dictionary", own[name].quality
                )
            for statistic, get in _QUALITY:
                values = [get(own[name]) for name in names]
                floor = [get(own[name]) for name in floors]
                low = high = None
                if statistic == "explained variance":
                    images = np.mean([own[name].explained for name in names], 0)
                    reach = 1.96 * float(images.std(ddof=1)) / len(images) ** 0.5
                    low, high = float(np.mean(values)) - reach, float(np.mean(values)) + reach
                add_row(
                    self.part,
                    statistic,
                    float(np.mean(values)),
                    layer=label,
                    arm=arm.name,
                    low=low,
                    high=high,
                    floor=float(np.mean(floor)) if floor else None,
                    n=len(own[names[0]].explained),
                    seeds=len(values),
                    note=_QUALITY_NOTES.get(statistic, ""),
                )

    def _dictionary_pictures(self, label: str, arm: Arm, found: TrainedDictionary) -> None:
        weights = found.dictionary.W_enc.detach()
        top = float(weights.abs().max()) * 1.02 or 1.0
        arrays, key = self.part.arrays, f"{label}/{arm.name}"
        arrays[f"encoder/{key}"] = torch.histc(weights, 120, -top, top).numpy()
        arrays[f"encoder_range/{key}"] = np.array(top)
        arrays[f"density/{key}"] = found.density
        arrays[f"fvu/{key}"] = found.fvu
        arrays[f"pca_fvu/{key}"] = np.array(
            np.nan if found.quality.pca_fvu is None else found.quality.pca_fvu
        )
        arrays[f"held_fvu/{key}"] = np.array(found.quality.fvu)
        name = f"{FOLDER}/{arm.name}_ae_{label.replace('.', '_')}.pt"
        self.tensors[name] = {
            key: value.detach().clone() for key, value in found.dictionary.state_dict().items()
        }

    def _measured(self, layer: Layer, a: Arm, b: Arm) -> None:
        def values(arm: Arm) -> np.ndarray:
            return np.stack([layer.own[name].explained for name in self._of(arm)])

        k = layer.own[f"{a.name}#0"].dictionary.config.k
        floors = {
            arm.name: values(arm).mean(1) for arm in (self.arms.floors[a.name], self.arms.floors[b.name])
        }
        self.measured.setdefault((a.name, b.name), []).append(
            Measured(
                f"how much of {layer.label} {k} features at a time explain on held-out images",
                layer.label,
                values(a),
                values(b),
                floors[self.arms.floors[a.name].name],
                floors[self.arms.floors[b.name].name],
                unit="share of variance",
            )
        )

    # -- two networks --------------------------------------------------------------------------------------

    def _pair(self, layer: Layer, a: Arm, b: Arm) -> None:
        first, last = f"{a.name}#0", f"{b.name}#0"
        x, y = layer.own[first], layer.own[last]
        given = layer.pairing(x, y)
        beside_a = [layer.pairing(x, layer.own[name]) for name in self._of(self.arms.floors[b.name])]
        beside_b = [layer.pairing(y, layer.own[name]) for name in self._of(self.arms.floors[a.name])]
        own_a, own_b = layer.pairing(x, layer.again[first]), layer.pairing(y, layer.again[last])
        floor, ceiling = [*beside_a, *beside_b], [own_a, own_b]
        seeds = self._of(a), self._of(b)
        others = [
            layer.pairing(layer.own[names[0]], layer.own[name]).match.mean
            for names in seeds
            for name in names[1:]
        ]
        matching_rows(self.part, layer, a, b, given, floor, ceiling, others, len(self.images), self.seed)
        for arm, other, dictionary, best, own, floors in (
            (a, b, x, given.match.best, own_a, beside_a),
            (b, a, y, given.match.back, own_b, beside_b),
        ):
            top = own.match.best
            low = mean_best([one.match for one in floors])
            kinds = kinds_of(best, top, low, dictionary.alive, self.settings.stable, self.settings.distinct)
            key = f"{layer.label}/{arm.name}/{other.name}"
            self.part.arrays[f"best/{key}"] = np.stack([best, top, low, kinds.astype(float)])
            share_rows(self.part, self.settings, layer, arm, other, dictionary, kinds, own, floors)
        if (a, b) == self.arms.pairs[0]:
            self._cards(layer, a, b, given)

    def _cards(self, layer: Layer, a: Arm, b: Arm, given: Pairing) -> None:
        first, last = layer.own[f"{a.name}#0"], layer.own[f"{b.name}#0"]
        kinds = [self.part.arrays[f"best/{layer.label}/{x.name}/{y.name}"] for x, y in ((a, b), (b, a))]
        cards: list[Card] = cards_of(
            first, last, given.match, kinds[0], kinds[1], layer.data.image, self.settings
        )
        for i, card in enumerate(cards):
            key = f"card/{layer.label}/{i}"
            self.part.arrays[f"{key}/kind"] = np.array(card.kind)
            self.part.arrays[f"{key}/numbers"] = np.array(
                [*card.features, card.value, card.ceiling, card.floor]
            )
            self.part.arrays[f"{key}/images"] = card.images
            self.part.arrays[f"{key}/values"] = card.values
            self.drawn += [int(place) for place in card.images.ravel() if place >= 0]

    def _crosscoder(self, layer: Layer, a: Arm, b: Arm) -> None:
        """Cross-coders on both arms, and on the first arm and an untrained network, of equal size."""
        first, last = f"{a.name}#0", f"{b.name}#0"
        floor = self._of(self.arms.floors[b.name])[0]
        rows, learned = layer.data.rows, ~layer.data.held_out
        width = (rows[first].shape[1] + rows[last].shape[1]) // 2
        training = training_of(width, int(learned.sum()), self.settings, inputs=2)
        found = fit_crosscoders(
            [{x: rows[x][learned], y: rows[y][learned]} for x, y in ((first, last), (first, floor))],
            training,
            [self.seed + 7, self.seed + 7],
        )
        given, ground = (
            crosscoder_shares(layer, coder, names)
            for coder, names in zip(found, ((first, last), (first, floor)), strict=True)
        )
        key = f"{layer.label}/{a.name}/{b.name}"
        self.part.arrays[f"ratio/{key}"], self.part.arrays[f"ratio_floor/{key}"] = given[1], ground[1]
        for statistic, value in given[0].items():
            add_row(
                self.part,
                f"cross-coder: {statistic}",
                value,
                layer=layer.label,
                arm=a.name,
                other=b.name,
                floor=ground[0][statistic],
                seeds=1,
                note="floor: an untrained network in the second's place",
            )
        dead = given[0]["dead share"]
        if dead > 0.5:
            self.part.remarks.append(
                f"{a.name}, {b.name} {layer.label}: the cross-coder is MOSTLY DEAD ({dead:.0%} of it)"
            )
        state = found[0].dictionary.state_dict()
        self.tensors[f"{FOLDER}/crosscoder_{a.name}_{b.name}_{layer.label.replace('.', '_')}.pt"] = {
            name: value.detach().clone() for name, value in state.items()
        }


_QUALITY: tuple[tuple[str, Callable[[TrainedDictionary], float]], ...] = (
    ("explained variance", lambda one: one.quality.explained_variance),
    (
        "explained variance of as many components",
        lambda one: float("nan") if one.quality.pca_fvu is None else 1 - one.quality.pca_fvu,
    ),
    ("features at a time", lambda one: one.quality.l0),
    ("dead share", lambda one: one.quality.dead_share),
    ("features", lambda one: float(one.quality.n_features)),
)
_QUALITY_NOTES = {"explained variance": "on held-out images; interval over images"}
assert KINDS[0] == "shared"
