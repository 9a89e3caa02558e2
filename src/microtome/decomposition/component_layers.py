"""The pieces of a ``ComponentModel``: a site's components, its gates, the target without instance axis."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from microtome.decomposition.gates import GateWeights, gate_values
from microtome.targets.network import Site, Target


class ComponentLayer(nn.Module):
    """The components of one site, in ``nn.Linear``'s orientation beside the weight that they explain.

    Rank one (SPD): ``V [d_in, C]``, ``U [C, d_out]``. Rank m (APD): ``V [d_in, C, m]``, ``U [C, m, d_out]``.
    """

    def __init__(
        self,
        left: Float[Tensor, "C d_in m"],
        right: Float[Tensor, "C m d_out"],
        target_weight: Float[Tensor, "d_in d_out"],
        bias: Float[Tensor, " d_out"] | None,
    ) -> None:
        super().__init__()
        v, u = left.movedim(1, 0), right
        if left.shape[-1] == 1:
            v, u = v.squeeze(-1), u.squeeze(1)
        self.V = nn.Parameter(v.detach().clone())
        self.U = nn.Parameter(u.detach().clone())
        self.register_buffer("target_weight", target_weight.detach().mT.clone())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.target_weight: Float[Tensor, "d_out d_in"]
        self.bias: Float[Tensor, " d_out"] | None

    @property
    def C(self) -> int:
        """Number of components."""
        return self.V.shape[1]

    @property
    def weight(self) -> Float[Tensor, "d_out d_in"]:
        """The sum of all components."""
        return (self.V.flatten(1) @ self.U.flatten(0, -2)).mT

    def component_weights(self) -> Float[Tensor, "C d_out d_in"]:
        """Every component's own matrix."""
        v, u = self.V.reshape(len(self.V), self.C, -1), self.U.reshape(self.C, -1, self.U.shape[-1])
        return torch.einsum("icm,cmo->coi", v, u)

    def get_component_acts(self, x: Float[Tensor, "*B d_in"]) -> Float[Tensor, "*BC"]:
        """Inner activations ``x V``: ``[..., C]``, or ``[..., C, m]`` for components of rank m."""
        return (x @ self.V.flatten(1)).unflatten(-1, self.V.shape[1:])

    get_inner_acts = get_component_acts

    def forward(
        self, x: Float[Tensor, "*B d_in"], mask: Float[Tensor, "*B C"] | None = None
    ) -> Float[Tensor, "*B d_out"]:
        """The site's output, bias included, with its components weighed by ``mask`` (all of them without)."""
        acts = self.get_component_acts(x)
        if mask is not None:
            acts = acts * (mask if self.V.ndim == 2 else mask.unsqueeze(-1))
        out = acts.flatten(x.ndim - 1) @ self.U.flatten(0, -2)
        return out if self.bias is None else out + self.bias

    def target(self, x: Float[Tensor, "*B d_in"]) -> Float[Tensor, "*B d_out"]:
        """The site's output as trained."""
        return nn.functional.linear(x, self.target_weight, self.bias)


class GateFunction(nn.Module):
    """The gates of one site: inner activations ``[..., C]`` to gate values ``[..., C]``."""

    def __init__(self, gates: GateWeights, instance: int) -> None:
        super().__init__()
        for part in ("w_in", "b_in", "w_out", "b_out"):
            setattr(self, part, nn.Parameter(getattr(gates, part)[instance].detach().clone()))

    def forward(self, component_acts: Float[Tensor, "*B C"]) -> Float[Tensor, "*B C"]:
        weights = GateWeights(*(getattr(self, p).unsqueeze(0) for p in ("w_in", "b_in", "w_out", "b_out")))
        inner = component_acts.reshape(1, -1, component_acts.shape[-1]).mT
        return gate_values(inner, weights).mT.reshape(component_acts.shape)


class OneInstance(nn.Module):
    """A target of one instance without its instance axis: ``[B, ...]`` in and out."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        assert target.n_instances == 1
        self.target = target

    @property
    def config(self) -> Any:
        """The architecture's configuration; None for a user's own module."""
        return getattr(self.target, "config", None)

    def site(self, name: str) -> Site:
        """One of the target's sites, decomposed or not."""
        return self.target.sites()[name]

    def forward(
        self, x: Float[Tensor, "B *d_in"], site: Callable[[str, Tensor], Tensor] | None = None
    ) -> Float[Tensor, "B *d_out"]:
        """The target's output; ``site`` replaces its sites, without instance axis too."""
        if site is None:
            return self.target(x.unsqueeze(0)).squeeze(0)
        return self.target(x.unsqueeze(0), lambda name, h: site(name, h.squeeze(0)).unsqueeze(0)).squeeze(0)
