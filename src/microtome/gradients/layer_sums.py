"""Everything that is kept of one layer while the data streams by."""

from collections.abc import Sequence

import torch
from torch import Tensor

from microtome.core.distributed import Processes, all_reduce_sum
from microtome.gradients.moments import Moments
from microtome.gradients.token_mass import TokenMass
from microtome.gradients.top_tokens import TopTokens

QUANTITIES = ("gradients", "active_gradients", "attribution", "values")
# Those with confidence intervals, at three times the memory.
WITH_ERRORS = ("gradients", "attribution")


class LayerSums:
    """Moments of each quantity of ``width`` values, how often each acts, and on which tokens it acts most.

    With ``g`` the gradient of the loss by a value and ``f`` the value: ``gradients`` is g,
    ``active_gradients`` g where f is not 0, ``attribution`` f g, ``values`` f; all are summed over every
    counted position.
    """

    def __init__(
        self, width: int, quantities: Sequence[str], top_tokens: int, device: torch.device | str = "cpu"
    ) -> None:
        device = "cpu" if torch.device(device).type == "mps" else device  # MPS has no float64
        self.moments = {name: Moments(width, device, name in WITH_ERRORS) for name in quantities}
        self.active = torch.zeros(width, dtype=torch.float64)
        self.top = TopTokens(width, top_tokens if "attribution" in quantities else 0)
        self.mass = TokenMass()

    @property
    def width(self) -> int:
        """Values of this layer: features, or dimensions of its activations."""
        return len(self.active)

    def all_reduce(self, processes: Processes) -> None:
        """Add up over all processes."""
        for moments in self.moments.values():
            moments.all_reduce(processes)
        self.active = all_reduce_sum(self.active, processes)
        self.top.all_reduce(processes)
        self.mass.all_reduce(processes)

    def state(self) -> dict[str, Tensor]:
        """Tensors from which ``restore`` makes the same sums again, for a checkpoint."""
        state = {"active": self.active, "mass": self.mass.bins}
        state |= {f"top.{name}": tensor for name, tensor in self.top.state().items()}
        for quantity, moments in self.moments.items():
            state |= {f"{quantity}.{name}": tensor for name, tensor in moments.state().items()}
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take the sums of ``state``."""
        self.active, self.mass.bins = state["active"], state["mass"]
        self.top.restore(_below(state, "top"))
        for quantity, moments in self.moments.items():
            moments.restore(_below(state, quantity))


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}
