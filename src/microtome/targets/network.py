"""What every network that can be taken apart looks like.

Tensors carry a leading instance axis K: networks trained side by side, or seeds of one decomposition.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

# A site function may carry ``calls: dict[str, int]``, how often each site has run in this pass: a target that
# computes part of a pass again in the backward pass (checkpointing) sets it back to what it was at that part.
SiteFunction = Callable[[str, Tensor], Tensor]
SiteKind = Literal["linear", "embedding", "conv2d", "identity"]


def times(x: Shaped[Tensor, "K *B"], matrix: Float[Tensor, "K d_in d_out"]) -> Float[Tensor, "K *B2 d_out"]:
    """``x @ matrix`` for every instance: ``[K, *B, d_in]`` numbers, or ``[K, *B]`` ids that choose rows.

    Raises IndexError for an id that is no row.
    """
    if not x.is_floating_point():
        ids = x.long()
        if len(matrix) == 1:
            return nn.functional.embedding(ids, matrix[0])
        rows = [nn.functional.embedding(i, m) for i, m in zip(ids, matrix, strict=True)]
        return torch.stack(rows)
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    return torch.bmm(flat, matrix).reshape(*x.shape[:-1], matrix.shape[-1])


@dataclass(frozen=True)
class Site:
    """One weight matrix that can be decomposed: ``output = input @ weight (+ bias)``.

    ``tied_to`` names the site whose transposed weight this one is. What the input is depends on ``kind``:
    ``linear`` numbers ``[K, *B, d_in]``; ``embedding`` ids ``[K, *B]`` that choose rows of ``weight``;
    ``conv2d`` patches ``[K, B, positions, channels * height * width]``; ``identity`` what passes between two
    layers, ``weight`` being the identity.
    """

    name: str
    weight: Float[Tensor, "K d_in d_out"]
    bias: Float[Tensor, "K d_out"] | None = None
    tied_to: str | None = None
    kind: SiteKind = "linear"

    def apply(self, x: Shaped[Tensor, "K *B"]) -> Float[Tensor, "K *B2 d_out"]:
        """The site as trained."""
        out = times(x, self.weight)
        if self.bias is None:
            return out
        return out + self.bias.reshape(-1, *[1] * (out.ndim - 2), self.bias.shape[-1])


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
        self, x: Shaped[Tensor, "K B *d_in"], site: SiteFunction | None = None
    ) -> Float[Tensor, "K B *d_out"]:
        """The network's output; ``site`` replaces the decomposed layers."""

    @abstractmethod
    def select(self, instances: Sequence[int]) -> "Target":
        """A frozen copy with these instances, repeats allowed."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """JSON-able description from which ``targets.loading.build`` makes the same architecture."""
