"""What every network that can be taken apart looks like.

Tensors carry a leading instance axis K: networks trained side by side, or seeds of one decomposition.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

SiteFunction = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True)
class Site:
    """One weight matrix that can be decomposed: ``output = input @ weight (+ bias)``.

    ``tied_to`` names the site whose transposed weight this one is.
    """

    name: str
    weight: Float[Tensor, "K d_in d_out"]
    bias: Float[Tensor, "K d_out"] | None = None
    tied_to: str | None = None

    def apply(self, x: Float[Tensor, "K *B d_in"]) -> Float[Tensor, "K *B d_out"]:
        """The site as trained."""
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        out = torch.bmm(flat, self.weight)
        if self.bias is not None:
            out = out + self.bias.unsqueeze(1)
        return out.reshape(*x.shape[:-1], self.weight.shape[-1])


class Target(nn.Module, ABC):
    """A network that can be taken apart.

    ``forward(x, site)`` hands the input of every site to ``site(name, input)`` and takes what it
    returns as that site's full output, bias included; without ``site`` the network runs as trained.
    """

    n_instances: int

    @abstractmethod
    def sites(self) -> dict[str, Site]:
        """Name to site, in the order in which they run."""

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "K B *d_in"], site: SiteFunction | None = None
    ) -> Float[Tensor, "K B *d_out"]:
        """The network's output; ``site`` replaces the decomposed layers."""

    @abstractmethod
    def select(self, instances: Sequence[int]) -> "Target":
        """A frozen copy with these instances, repeats allowed."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """JSON-able description from which ``targets.loading.build`` makes the same architecture."""
