"""A network run with subcomponents in place of its weights, each weighed by a mask.

One mask for every call of a site, at every row and position: what all losses over whole language models are
made of. The difference between the target's weight and the sum of its subcomponents is never built.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from microtome.decomposition.fused_draws import can_fuse, drawn_inner
from microtome.decomposition.masks import stochastic_mask
from microtome.decomposition.network import chosen_sites, frozen_sites
from microtome.decomposition.subcomponents import Factors
from microtome.targets.network import Site, Target, times


@dataclass(frozen=True)
class SiteMask:
    """How one call of a site runs. Everything may be broadcast over instances, rows and positions.

    ``components``: the weight of each subcomponent. ``delta``: the weight of the delta component
    ``W - V U``; None leaves it out. ``route``: where it is False the target's own weight is used.
    """

    components: Float[Tensor, "#K *#B C"]
    delta: Float[Tensor, "#K *#B"] | None = None
    route: Bool[Tensor, "#K *#R"] | None = None

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow into the weights of the subcomponents."""
        return self.components.requires_grad

    def applied(self, inner: Tensor, delta: Tensor | None, route: Tensor | None) -> Float[Tensor, "K *B C"]:
        """``inner * (components - delta)``, 0 where not routed; ``delta`` and ``route`` over positions."""
        weight = self.components if delta is None else self.components - delta.unsqueeze(-1)
        return inner * (weight if route is None else torch.where(route.unsqueeze(-1), weight, 0.0))


class DrawnMask(SiteMask):
    """Weights ``lower + (1 - lower) source``, kept apart so that they are made while they are multiplied."""

    lower: Float[Tensor, "#K *#B C"]
    source: Float[Tensor, "#K *#B C"]

    def __init__(self, lower: Tensor, source: Tensor, delta: Tensor | None, route: Tensor | None) -> None:
        for name, value in (("lower", lower), ("source", source), ("delta", delta), ("route", route)):
            object.__setattr__(self, name, value)  # as every frozen dataclass does in its own __init__

    @property
    def components(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The weights themselves."""
        return stochastic_mask(self.lower, self.source)

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow into the weights of the subcomponents."""
        return torch.is_grad_enabled() and (self.lower.requires_grad or self.source.requires_grad)

    def applied(self, inner: Tensor, delta: Tensor | None, route: Tensor | None) -> Float[Tensor, "K *B C"]:
        """As ``SiteMask``."""
        if can_fuse(inner, self.lower, self.source, delta, route):
            return drawn_inner(inner, self.lower, self.source, delta, route)
        return super().applied(inner, delta, route)


Masks = Mapping[str, Sequence[SiteMask]]
"""A mask for every call of a site; a single one serves all its calls. Sites left out run as trained."""


class MaskedNetwork:
    """A target whose sites can run as their masked subcomponents."""

    def __init__(self, target: Target, patterns: Sequence[str] = ("*",)) -> None:
        """``patterns``: which of the target's sites are decomposed. Raises ``MicrotomeError``."""
        self.target = target
        self.all_sites = frozen_sites(target)
        self.sites: dict[str, Site] = chosen_sites(self.all_sites, patterns)

    def run(self, x: Tensor, factors: Factors, masks: Masks) -> Tensor:
        """The output ``[K, B, ...]`` with the sites in ``masks`` run as their masked subcomponents."""
        return self.target(x, MaskedSites(self.all_sites, factors, masks))

    def record(self, x: Tensor) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """The target's own output, and what reaches each decomposed site (an entry a call); no gradients."""
        with torch.no_grad():
            return self.run_recording(x, {}, {})

    def run_recording(
        self, x: Tensor, factors: Factors, masks: Masks
    ) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """``run``, and what reaches each decomposed site on the way, with gradients."""
        seen: dict[str, list[Tensor]] = {name: [] for name in self.sites}
        sites = MaskedSites(self.all_sites, factors, masks, seen)
        output = self.target(x, sites)
        sites.seen = None  # layers that are computed again in the backward pass have been seen
        return output, seen


class MaskedSites:
    """The site function of one pass.

    ``calls``: how often each site has run, which a target that computes a layer again sets back first.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        factors: Factors,
        masks: Masks,
        seen: dict[str, list[Tensor]] | None = None,
    ) -> None:
        self.sites, self.factors, self.masks, self.seen = sites, factors, masks, seen
        self.calls: dict[str, int] = {}

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if self.seen is not None and name in self.seen:
            self.seen[name].append(x)
        call = self.calls.get(name, 0)
        self.calls[name] = call + 1
        if name not in self.masks:
            return self.sites[name].apply(x)
        mine = self.masks[name]
        return self.masked(name, call % len(mine), x, mine[call % len(mine)])

    def masked(self, name: str, call: int, x: Tensor, mask: SiteMask) -> Tensor:
        """One call of a site under its mask."""
        del call
        return masked_output(self.sites[name], x, self.factors[name], mask)


def masked_output(
    site: Site,
    x: Tensor,
    factors: tuple[Tensor, Tensor],
    mask: SiteMask,
    inner: Float[Tensor, "K *B C"] | None = None,
) -> Float[Tensor, "K *B d_out"]:
    """``(h * (m - r)) U + r x W + b`` with ``h = x V``: equals ``(h * m) U + r x (W - V U) + b``.

    A position that is not routed has ``m = r = 1``, and so exactly the target's output. ``inner``: h,
    where it is known.
    """
    v, u = factors
    inner = times(x, v) if inner is None else inner
    over = inner.ndim - 1
    delta = None if mask.delta is None else _over_positions(mask.delta, over)
    route = None if mask.route is None else _over_positions(mask.route, over)
    out = times(mask.applied(inner, delta, route), u)
    original = delta
    if route is not None:
        original = torch.where(route, 0.0 if delta is None else delta, 1.0).to(inner.dtype)
    if original is not None:
        out = out + original.unsqueeze(-1).to(out.dtype) * times(x, site.weight)
    if site.bias is not None:
        out = out + site.bias.reshape(site.bias.shape[0], *[1] * (out.ndim - 2), -1)
    return out


def _over_positions(mask: Tensor, ndim: int) -> Tensor:
    """A mask over rows stands for all positions of a row."""
    return mask.reshape(*mask.shape, *[1] * (ndim - mask.ndim))
