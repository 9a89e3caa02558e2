"""Which layers a network has, in the order they run, and which of them correspond between networks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from microtome.comparison.arms import MatchedLayer
from microtome.targets.image_network import ImageNetwork


@dataclass(frozen=True)
class TracedLayer:
    """A layer as it ran: ``shape`` of its output without the batch, ``after`` its nonlinearity ("" for none).

    ``after`` is the module's name, or the function's in brackets (``(relu)``) where it is no module.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    after: str = ""


def trace_layers(
    network: ImageNetwork, x: Float[Tensor, "B C H W"], also: Sequence[str] = ()
) -> list[TracedLayer]:
    """Convolutions and linear layers (and the modules named in ``also``) in execution order."""
    raise NotImplementedError


@dataclass(frozen=True)
class Matching:
    """Layers that correspond, and in words what could not be matched or is matched only by depth."""

    layers: tuple[MatchedLayer, ...]
    remarks: tuple[str, ...] = ()


def match_layers(
    traces: Mapping[str, Sequence[TracedLayer]], layer_map: Mapping[str, str] | None = None
) -> Matching:
    """Layers of all arms matched by execution order and shape.

    ``layer_map`` maps names in the first arm to names in the others and beats everything.
    """
    raise NotImplementedError
