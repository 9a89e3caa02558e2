"""The pieces of a ``ComponentModel``: a site's components and causal importances, the target without K."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from microtome.decomposition.causal_importance.functions import CausalImportanceFunction, Kind
from microtome.targets.network import Site, SiteKind, Target, times


class ComponentLayer(nn.Module):
    """The components of one site, in ``nn.Linear``'s orientation beside the weight that they explain.

    Rank one (SPD): ``V [d_in, C]``, ``U [C, d_out]``. Rank m (APD): ``V [d_in, C, m]``, ``U [C, m, d_out]``.
    At an embedding ``d_in`` is the vocabulary, and the input token ids ``[...]`` that choose rows.
    """

    def __init__(
        self,
        left: Float[Tensor, "C d_in m"],
        right: Float[Tensor, "C m d_out"],
        target_weight: Float[Tensor, "d_in d_out"],
        bias: Float[Tensor, " d_out"] | None,
        kind: SiteKind = "linear",
    ) -> None:
        super().__init__()
        self.kind: SiteKind = kind
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

    def get_component_acts(self, x: Shaped[Tensor, "*B"]) -> Float[Tensor, "*BC"]:
        """Inner activations ``x V``: ``[..., C]``, or ``[..., C, m]`` for components of rank m."""
        return _times(x, self.V.flatten(1)).unflatten(-1, self.V.shape[1:])

    get_inner_acts = get_component_acts

    def forward(
        self, x: Shaped[Tensor, "*B"], mask: Float[Tensor, "*R C"] | None = None
    ) -> Float[Tensor, "*R2 d_out"]:
        """The site's output, bias included, with its components weighed by ``mask`` (all of them without)."""
        acts = self.get_component_acts(x)
        if mask is not None:
            acts = acts * (mask if self.V.ndim == 2 else mask.unsqueeze(-1))
        rows = x.ndim - 1 if x.is_floating_point() else x.ndim
        out = acts.flatten(rows) @ self.U.flatten(0, -2)
        return out if self.bias is None else out + self.bias

    def target(self, x: Shaped[Tensor, "*B"]) -> Float[Tensor, "*R d_out"]:
        """The site's output as trained."""
        out = self.apply_weight(x, self.target_weight)
        return out if self.bias is None else out + self.bias

    def apply_weight(
        self, x: Shaped[Tensor, "*B"], weight: Float[Tensor, "d_out d_in"]
    ) -> Float[Tensor, "*R d_out"]:
        """What a weight in ``nn.Linear``'s orientation makes of the site's input."""
        return _times(x, weight.mT)


def _times(x: Tensor, matrix: Tensor) -> Tensor:
    return times(x.unsqueeze(0), matrix.unsqueeze(0)).squeeze(0)


class GateFunction(nn.Module):
    """The causal importance function of one site, before the sigmoid, without instance axis.

    ``reads`` says of what: ``component_acts [..., C]`` (inner activations) or ``input [..., d_in]``.
    """

    def __init__(self, function: CausalImportanceFunction, instance: int) -> None:
        super().__init__()
        self.kind: Kind = function.kind
        self.reads = function.reads
        for name, tensor in function.weights.items():
            self.register_parameter(_plain(name), nn.Parameter(tensor[instance].detach().clone()))
        self._names = list(function.weights)

    def forward(self, x: Float[Tensor, "*B width"]) -> Float[Tensor, "*B C"]:
        """Gate values ``[..., C]``."""
        out = self.function()(x.reshape(1, -1, x.shape[-1]))
        return out.reshape(*x.shape[:-1], out.shape[-1])

    def function(self) -> CausalImportanceFunction:
        """The function with an instance axis of one."""
        weights = {name: self.get_parameter(_plain(name)).unsqueeze(0) for name in self._names}
        return CausalImportanceFunction(self.kind, weights)


def _plain(name: str) -> str:
    """Parameters take no dots."""
    return name.replace(".", "_")


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
        self, x: Shaped[Tensor, "B *d_in"], site: Callable[[str, Tensor], Tensor] | None = None
    ) -> Float[Tensor, "B *d_out"]:
        """The target's output; ``site`` replaces its sites, without instance axis too."""
        if site is None:
            return self.target(x.unsqueeze(0)).squeeze(0)
        return self.target(x.unsqueeze(0), lambda name, h: site(name, h.squeeze(0)).unsqueeze(0)).squeeze(0)
