"""The networks that are compared: arms, each of one or several seeds, and untrained ones as a floor."""

from dataclasses import dataclass

from microtome.targets.image_network import ImageNetwork


@dataclass(frozen=True)
class Arm:
    """Networks of one kind of training, one a seed. ``initial`` are their own initialisations, when known."""

    name: str
    networks: tuple[ImageNetwork, ...]
    initial: tuple[ImageNetwork | None, ...] = ()


@dataclass(frozen=True)
class MatchedLayer:
    """One place in all arms: what it is called in reports, and the module's name in each arm."""

    label: str
    names: dict[str, str]


@dataclass(frozen=True)
class Arms:
    """All that is compared. ``floors`` maps each arm's name to untrained networks of its architecture."""

    given: tuple[Arm, ...]
    floors: dict[str, Arm]
    layers: tuple[MatchedLayer, ...]

    @property
    def pairs(self) -> list[tuple[Arm, Arm]]:
        """Every pair of given arms, the first one first."""
        arms = self.given
        return [(arms[i], arms[j]) for i in range(len(arms)) for j in range(i + 1, len(arms))]
