"""A decomposition's components in place of the weights, weighed as somebody asks, for one pass."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.errors import bad_value
from microtome.decomposition.site_masks import MaskedNetwork, SiteMask, masked_output
from microtome.decomposition.subcomponents import Factors

Weights = Tensor | SiteMask
"""A mask ``[K, *B, C]`` (rows and positions may be flattened into one axis), or one with more to it."""
CallMasks = Mapping[str, Weights | Sequence[Weights]]


def masked_forward(
    network: MaskedNetwork, factors: Factors, x: Tensor, masks: CallMasks, rank: int = 1
) -> Float[Tensor, "K B *d_out"]:
    """The output with the components of every site in place of its weight.

    ``masks``: by site, a mask for all its calls or a sequence with one for each; sites that it leaves out
    keep the sum of their components. ``rank``: consecutive columns of the factors that are one component.
    Raises ``MicrotomeError`` for an unknown site or a mask of the wrong width.
    """
    for name in masks:
        if name not in network.sites:
            raise bad_value("masks", name, "no such site", f"sites: {', '.join(network.sites)}")
    calls: dict[str, int] = {}

    def site(name: str, seen: Tensor) -> Tensor:
        own = network.all_sites[name]
        if name not in network.sites:
            return own.apply(seen)
        call = calls.get(name, 0)
        calls[name] = call + 1
        given = masks.get(name)
        if isinstance(given, Sequence):
            given = given[call % len(given)]
        where = seen.shape[:-1] if seen.is_floating_point() else seen.shape
        n = factors[name][0].shape[-1]
        return masked_output(own, seen, factors[name], _as_mask(name, given, where, n, rank, seen.device))

    return network.target(x, site)


def _as_mask(
    name: str, given: Weights | None, where: Sequence[int], n: int, rank: int, device: torch.device
) -> SiteMask:
    mask = given if isinstance(given, SiteMask) else None
    weights = mask.components if mask is not None else given
    if weights is None:
        weights = torch.ones(n // rank, device=device)
    assert isinstance(weights, Tensor)
    if weights.shape[-1] != n // rank:
        raise bad_value("masks", weights.shape[-1], f"wide, at {name}", f"give one of {n // rank}")
    if weights.ndim < len(where) + 1:
        flat = weights.shape[:-1].numel() == math.prod(where)
        shape = where if flat else [1] * (len(where) + 1 - weights.ndim) + list(weights.shape[:-1])
        weights = weights.reshape(*shape, weights.shape[-1])
    weights = weights.repeat_interleave(rank, -1) if rank > 1 else weights
    return SiteMask(weights, None if mask is None else mask.delta, None if mask is None else mask.route)
