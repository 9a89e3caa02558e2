"""The activations of a pair of arms with those of untrained networks of their architectures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from microtome.comparison.activations import Activations
from microtome.comparison.arms import Arms
from microtome.comparison.image_order import canonical_order
from microtome.data.labelled_images import LabelledImages

Collected = Mapping[str, Sequence[Activations]]


@dataclass(frozen=True)
class Pair:
    """Two arms. ``floor_a`` and ``floor_b`` are one object where the architecture is one."""

    name_a: str
    name_b: str
    a: Sequence[Activations]
    b: Sequence[Activations]
    floor_a: Sequence[Activations]
    floor_b: Sequence[Activations]

    @property
    def one_architecture(self) -> bool:
        """Whether both arms have the same untrained networks."""
        return self.floor_a is self.floor_b


def untrained(arms: Arms, activations: Collected, arm: str) -> Sequence[Activations]:
    """Activations of the untrained networks of an arm's architecture, none when there are not any."""
    floor = arms.floors.get(arm)
    return _NONE if floor is None else activations.get(floor.name, _NONE)


_NONE: Sequence[Activations] = ()


def pairs(arms: Arms, activations: Collected) -> list[Pair]:
    """Every pair of given arms; arms of one architecture share all untrained networks of it."""
    out = []
    for one, other in arms.pairs:
        floors = [untrained(arms, activations, arm.name) for arm in (one, other)]
        if one_architecture(arms, one.name, other.name):
            every = {each.folder: each for floor in floors for each in floor}
            floors = [list(every.values())] * 2
        out.append(Pair(one.name, other.name, activations[one.name], activations[other.name], *floors))
    return out


def one_architecture(arms: Arms, one: str, other: str) -> bool:
    """Whether the untrained networks of both arms are drawn alike, the number of classes set aside."""
    floors = [arms.floors.get(name) for name in (one, other)]
    if floors[0] is None or floors[1] is None or not (floors[0].networks and floors[1].networks):
        return True
    first, second = (floor.networks[0] for floor in floors if floor is not None)
    kinds = [{k: v for k, v in one.architecture.items() if k != "n_classes"} for one in (first, second)]
    return first is second or bool(kinds[0] and kinds[0] == kinds[1])


def chosen(images: LabelledImages, most: int) -> Int[np.ndarray, " n"]:
    """At most ``most`` images chosen by their content, in an order that depends on it too."""
    return canonical_order(images)[:most]
