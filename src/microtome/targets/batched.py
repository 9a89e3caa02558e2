"""What our own networks share: matrices with an instance axis, and picking instances."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from microtome.core.errors import CannotLoad, MicrotomeError, bad_value
from microtome.targets.network import Site, Target

Same = TypeVar("Same", bound="BatchedTarget")


class BatchedLinear(nn.Module):
    """K linear maps ``x @ weight (+ bias)``, one for each instance; zero until initialised or loaded."""

    def __init__(self, n_instances: int, d_in: int, d_out: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_instances, d_in, d_out))
        self.bias = nn.Parameter(torch.zeros(n_instances, d_out)) if bias else None

    def site(self, name: str) -> Site:
        """This layer as a site."""
        return Site(name, self.weight, self.bias)

    def forward(self, x: Float[Tensor, "K *B d_in"]) -> Float[Tensor, "K *B d_out"]:
        return self.site("").apply(x)


class BatchedTarget(Target):
    """A network of our own: every parameter and buffer has the instance axis first (or 1, when shared)."""

    @abstractmethod
    def empty(self: Same, n_instances: int) -> Same:
        """The same architecture with ``n_instances`` instances, all weights zero."""

    def select(self: Same, instances: Sequence[int]) -> Same:
        """A frozen copy with these instances, repeats allowed.

        Raises MicrotomeError for an empty list or an instance that does not exist.
        """
        check_instances(instances, self.n_instances)
        chosen = self.empty(len(instances))
        reference = next(self.parameters())
        index = torch.as_tensor(list(instances), device=reference.device)
        shapes = {name: value.shape for name, value in chosen.state_dict().items()}
        state = {
            name: value.detach() if shapes[name][0] == 1 and value.shape[0] == 1 else value.detach()[index]
            for name, value in self.state_dict().items()
        }
        chosen.to(device=reference.device, dtype=reference.dtype).load_state_dict(state)
        return chosen.requires_grad_(False).eval()

    def linear(self, name: str) -> BatchedLinear:
        """The layer of that name."""
        layer = self.get_submodule(name)
        assert isinstance(layer, BatchedLinear)
        return layer

    def load_weights(self, state: Mapping[str, Tensor], source: object) -> None:
        """Copy ``state`` in. CannotLoad names the first tensor that is missing, misshapen or not finite."""
        mine = self.state_dict()
        missing, surplus = sorted(mine.keys() - state.keys()), sorted(state.keys() - mine.keys())
        if missing or surplus:
            raise CannotLoad(
                f"{source}: missing tensors {missing}, unexpected tensors {surplus}; "
                "is the configuration beside it the one it was trained with?"
            )
        for name, value in state.items():
            if value.shape != mine[name].shape:
                raise CannotLoad(
                    f"{source}: {name} has shape {list(value.shape)} but the configuration beside it "
                    f"says {list(mine[name].shape)}; use the configuration it was trained with"
                )
            if not torch.isfinite(value).all():
                raise CannotLoad(f"{source}: {name} holds NaN or infinity; train or download the model again")
        self.load_state_dict(dict(state))


def check_instances(instances: Sequence[int], n_instances: int) -> None:
    """Raise MicrotomeError unless every entry of a non-empty ``instances`` exists."""
    if len(instances) == 0:
        raise MicrotomeError("instances=[]: nothing to select; name at least one instance")
    for instance in instances:
        if not 0 <= instance < n_instances:
            missing = f"there is no instance {instance}"
            raise bad_value("instances", list(instances), missing, f"use 0 to {n_instances - 1}")
