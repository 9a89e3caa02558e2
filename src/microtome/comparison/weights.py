"""Comparison of weights: what each layer looks like, and how near two networks are, beside untrained ones."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from microtome.comparison.activations import Activations
from microtome.comparison.arms import Arm, Arms
from microtome.comparison.barrier import Barrier, barriers, path_images
from microtome.comparison.part import Claim, Part, Row
from microtome.comparison.permutation_symmetry import Symmetry, find_symmetry
from microtome.comparison.weight_alignment import renumbered
from microtome.comparison.weight_claims import (
    ANALYSIS,
    beyond,
    interval,
    interval_note,
    mean,
    rank_claims,
    sharing_claims,
    values_of,
)
from microtome.comparison.weight_measures import NUMBERS, LayerNumbers, change_from, draw_data, measure
from microtome.comparison.weight_pairs import Filters, Numbered, Pair, compare_pair
from microtome.comparison.weights_config import WeightsConfig
from microtome.data.labelled_images import LabelledImages
from microtome.targets.image_network import ImageNetwork

PAIRS = ("cosine", "aligned", "distance", "aligned_distance", "overlap")
WORDS = {
    "cosine": "cosine",
    "aligned": "aligned cosine",
    "distance": "distance",
    "aligned_distance": "aligned distance",
    "overlap": "overlap of principal directions",
}


def analyse(
    arms: Arms,
    activations: dict[str, list[Activations]],  # noqa: ARG001  (weights need none; all analyses have one face)
    images: LabelledImages,
    settings: WeightsConfig,
    progress: Callable[[str], None],
    seed: int,  # noqa: ARG001  (nothing here is drawn at random)
) -> Part:
    """Everything about the weights of all arms. See ``Part``; raises ``MicrotomeError``."""
    return _Analysis(arms, images, settings, progress).part


class _Analysis:
    """One comparison of weights under way."""

    def __init__(
        self, arms: Arms, images: LabelledImages, settings: WeightsConfig, progress: Callable[[str], None]
    ) -> None:
        self.arms, self.images, self.settings = arms, images, settings
        self.part = Part(ANALYSIS)
        self.names = {arm.name: self._weight_names(arm) for arm in arms.given}
        self.labels = [
            layer.label for layer in arms.layers if all(layer.label in own for own in self.names.values())
        ]
        self.symmetries = {arm.name: self._symmetry(arm) for arm in arms.given}
        progress("weights: distributions and spectra")
        self.filters: dict[str, list[dict[str, Filters]]] = {}
        self.numbers = {arm.name: self._measure(arm, arm.name, arm.networks) for arm in arms.given}
        self.floor_numbers: dict[str, list[dict[str, LayerNumbers]]] = {}
        self._floors()
        self._layer_rows()
        self._initial_rows()
        for a, b in arms.pairs:
            progress(f"weights: {a.name} beside {b.name}")
            self._pair(a, b)
            self.part.claims += self._rank_claims(a, b)
        numbers = self.numbers | self.floor_numbers
        draw_data(self.part, self.arms, self.labels, self.names, self.filters, numbers, settings)

    # -- one network ---------------------------------------------------------------------------------------

    def _weight_names(self, arm: Arm) -> dict[str, str]:
        """Label of every matched layer -> name of its weight in this arm."""
        module, found = arm.networks[0].module, {}
        parameters = dict(module.named_parameters(remove_duplicate=False))
        for layer in self.arms.layers:
            name = f"{layer.names.get(arm.name, '')}.weight"
            if name in parameters and parameters[name].ndim >= 2:
                found[layer.label] = name
        return found

    def _symmetry(self, arm: Arm) -> Symmetry:
        network = arm.networks[0]
        x = self.images.inputs(slice(0, 2), mean=network.mean, std=network.std)
        device = next((p.device for p in network.module.parameters()), torch.device("cpu"))
        return find_symmetry(network.module, x.to(device))

    def _measure(
        self, arm: Arm, owner: str, networks: Sequence[ImageNetwork]
    ) -> list[dict[str, LayerNumbers]]:
        found = []
        for network in networks:
            weights = _tensors(network.module)
            numbers, filters = {}, {}
            for label in self.labels:
                numbers[label], filters[label] = measure(weights[self.names[owner][label]], self.settings)
            found.append(numbers)
            self.filters.setdefault(arm.name, []).append(filters)
        return found

    def _few(self, arm: Arm) -> Sequence[ImageNetwork]:
        """The untrained networks that are looked at: two where the architecture is large."""
        floor = self.arms.floors[arm.name].networks
        size = sum(p.numel() for p in arm.networks[0].module.parameters())
        return floor[:2] if size > self.settings.large else floor

    def _floors(self) -> None:
        for arm in self.arms.given:
            floor = self.arms.floors[arm.name]
            if floor.name not in self.floor_numbers:
                self.floor_numbers[floor.name] = self._measure(floor, arm.name, self._few(arm))

    def _layer_rows(self) -> None:
        for arm in self.arms.given:
            floor = self.floor_numbers[self.arms.floors[arm.name].name]
            for label in self.labels:
                for statistic in NUMBERS:
                    values = [getattr(one[label], statistic) for one in self.numbers[arm.name]]
                    own = [getattr(one[label], statistic) for one in floor]
                    low, high = interval(values, own)
                    self._row(
                        statistic.replace("_", " "),
                        float(np.mean(values)),
                        layer=label,
                        arm=arm.name,
                        low=low,
                        high=high,
                        floor=mean(own),
                        seeds=len(values),
                        note=interval_note(values, own),
                    )

    def _initial_rows(self) -> None:
        """How far each layer moved from its own initialisation, beside the distance of unrelated weights."""
        for arm in self.arms.given:
            known = [
                (trained, first) for trained, first in zip(arm.networks, arm.initial, strict=False) if first
            ]
            if not known:
                self.part.remarks.append(
                    f"{arm.name}: its own initialisation is not known, nor then how far its weights moved"
                )
                continue
            floor = self._few(arm)[0]
            for label in self.labels:
                name = self.names[arm.name][label]
                moves = [
                    change_from(_tensors(first.module)[name], _tensors(one.module)[name])
                    for one, first in known
                ]
                other = change_from(_tensors(floor.module)[name], _tensors(known[0][0].module)[name])
                for statistic, place in (("angle to initialisation", 0), ("relative change", 1)):
                    values = [move[place] for move in moves]
                    low, high = interval(values, [])
                    self._row(
                        statistic,
                        float(np.mean(values)),
                        layer=label,
                        arm=arm.name,
                        low=low,
                        high=high,
                        floor=other[place],
                        seeds=len(values),
                        note="floor: to the initialisation of another network",
                    )

    # -- two networks --------------------------------------------------------------------------------------

    def _numbered(self, owner: str, network: ImageNetwork) -> Numbered:
        names = {label: self.names[owner][label] for label in self.labels}
        return Numbered(network, self.symmetries[owner], names)

    def _pair(self, a: Arm, b: Arm) -> None:
        together = _together(a.networks, b.networks)
        given = self._compare(a.name, b.name, together, (a.name, b.name), "all")
        floor_a, floor_b = self.arms.floors[a.name], self.arms.floors[b.name]
        # An untrained network in the place of either.
        wanted = self.settings.floor_pairs
        if len(self._few(a)) < len(floor_a.networks):
            wanted = min(wanted, 3)
        beside_b = [((i, u), (0, b.networks[0])) for i, u in enumerate(self._few(a))][: -(-wanted // 2)]
        beside_a = [((0, a.networks[0]), (i, u)) for i, u in enumerate(self._few(b))][-(wanted // 2) :]
        floor = self._compare(a.name, b.name, beside_b, (floor_a.name, b.name))
        if wanted > 1:
            floor += self._compare(a.name, b.name, beside_a, (a.name, floor_b.name))
        ceiling = [
            pair
            for arm in (a, b)
            for pair in self._compare(arm.name, arm.name, _within(arm.networks), (arm.name, arm.name))
        ]
        self._say_what_stays(a, b, given[0])
        self._pair_rows(a, b, given, floor, ceiling)
        self.part.claims += sharing_claims(a, b, given, floor)
        self._barriers(a, b, given[0])

    def _compare(
        self,
        owner_a: str,
        owner_b: str,
        pairs: Sequence[tuple[tuple[int, ImageNetwork], tuple[int, ImageNetwork]]],
        kept: tuple[str, str],
        spans: Literal["all", "few"] = "few",
    ) -> list[Pair]:
        return [
            compare_pair(
                self._numbered(owner_a, one),
                self._numbered(owner_b, other),
                self.settings.sweeps,
                (self.filters[kept[0]][i], self.filters[kept[1]][j]),
                spans,
            )
            for (i, one), (j, other) in pairs
        ]

    def _say_what_stays(self, a: Arm, b: Arm, pair: Pair) -> None:
        missing = [label for label in self.labels if label not in pair.layers]
        if missing:
            self.part.remarks.append(
                f"{a.name}, {b.name}: weights of unequal shape are not set against each other"
                f" ({', '.join(missing)})"
            )
        if pair.stay:
            reasons = self.symmetries[b.name].outputs_that_stay()
            why = {reasons.get(self.names[b.name][label], "") for label in pair.stay} - {""}
            self.part.remarks.append(
                f"{a.name}, {b.name}: the outputs of {', '.join(pair.stay)} cannot be renumbered"
                + (f" ({'; '.join(sorted(why))})" if why else "")
                + ", so their aligned cosine is that of the units as they are"
            )

    def _pair_rows(self, a: Arm, b: Arm, given: list[Pair], floor: list[Pair], ceiling: list[Pair]) -> None:
        fewest = min(len(a.networks), len(b.networks))
        for label in given[0].layers:
            for statistic in PAIRS:
                values, own, top = (values_of(pairs, label, statistic) for pairs in (given, floor, ceiling))
                if not values:
                    continue
                low, high = interval(values if fewest > 1 else values[:1], own)
                self._row(
                    WORDS[statistic],
                    float(np.mean(values)),
                    layer=label,
                    arm=a.name,
                    other=b.name,
                    low=low,
                    high=high,
                    floor=mean(own),
                    ceiling=mean(top),
                    seeds=fewest,
                    p=beyond(values, own) if own and statistic in ("cosine", "aligned", "overlap") else None,
                    note="p: as alike as with an untrained network"
                    if statistic in ("cosine", "aligned", "overlap")
                    else "",
                )
            first = given[0].layers[label]
            if len(first.angles):
                self.part.arrays[f"angles/{label}/{a.name}/{b.name}"] = first.angles
                unrelated = [
                    p.layers[label].angles for p in floor if len(p.layers[label].angles) == len(first.angles)
                ]
                if unrelated:
                    self.part.arrays[f"angles_floor/{label}/{a.name}/{b.name}"] = np.mean(unrelated, 0)
            if first.joint is not None and first.joint_ratio is not None and (a, b) == self.arms.pairs[0]:
                self.part.arrays[f"joint/{label}"] = first.joint
                self.part.arrays[f"joint_ratio/{label}"] = first.joint_ratio

    def _barriers(self, a: Arm, b: Arm, pair: Pair) -> None:
        """How much worse the networks between two are: of the arms, of untrained ones, and of two seeds."""
        rows = path_images(self.images, self.settings.barrier_images)
        first, last = a.networks[0], b.networks[0]
        if _shapes(first.module) != _shapes(last.module):
            self.part.remarks.append(
                f"{a.name}, {b.name}: no path between networks of different architecture, so no barrier"
            )
            return
        plain, aligned = self._path(first, last, b.name, pair, rows)
        untrained = self._few(a)[:2]
        low = high = None
        if len(untrained) == 2:
            between = self._compare_plainly(a.name, untrained[0], untrained[1])
            low = self._path(untrained[0], untrained[1], a.name, between, rows)
        if len(a.networks) > 1:
            between = self._compare_plainly(a.name, *a.networks[:2])
            high = self._path(a.networks[0], a.networks[1], a.name, between, rows)
        for place, (words, one) in enumerate((("barrier", plain), ("aligned barrier", aligned))):
            self._row(
                words,
                one.height,
                arm=a.name,
                other=b.name,
                label=one.kind,
                low=one.low,
                high=one.high,
                floor=low[place].height if low else None,
                ceiling=high[place].height if high else None,
                n=one.n,
                seeds=1,
                note="interval over images",
            )
            key = "aligned" if place else "plain"
            self.part.arrays[f"path/{key}/{a.name}/{b.name}"] = np.stack([one.points, one.rise])
            if low:
                self.part.arrays[f"path_floor/{key}/{a.name}/{b.name}"] = np.stack(
                    [low[place].points, low[place].rise]
                )

    def _rank_claims(self, a: Arm, b: Arm) -> list[Claim]:
        floors = (self.arms.floors[a.name].name, self.arms.floors[b.name].name)
        return rank_claims(a, b, self.numbers | self.floor_numbers, floors, self.labels)

    def _compare_plainly(self, owner: str, one: ImageNetwork, other: ImageNetwork) -> Pair:
        return compare_pair(self._numbered(owner, one), self._numbered(owner, other), self.settings.sweeps)

    def _path(
        self, first: ImageNetwork, last: ImageNetwork, owner: str, pair: Pair, rows: np.ndarray
    ) -> list[Barrier]:
        a, b = first.module.state_dict(), last.module.state_dict()
        ends = [b, renumbered(b, self.symmetries[owner], pair.permutations)]
        return barriers(first, a, ends, self.images, rows, self.settings.barrier_points)

    def _row(self, statistic: str, value: float, **columns: object) -> None:
        self.part.rows.append(Row(ANALYSIS, statistic, value, **columns))  # pyright: ignore[reportArgumentType]


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in module.named_parameters(remove_duplicate=False)}


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


def _together(a: Sequence[ImageNetwork], b: Sequence[ImageNetwork]) -> list:
    """Pairs of one seed of each: the first with the first, and so on, at most four."""
    n = min(4, max(len(a), len(b)))
    return [((i % len(a), a[i % len(a)]), (i % len(b), b[i % len(b)])) for i in range(n)]


def _within(networks: Sequence[ImageNetwork]) -> list:
    """Neighbouring seeds of one arm, at most three pairs."""
    return [((i, networks[i]), (i + 1, networks[i + 1])) for i in range(min(3, len(networks) - 1))]
