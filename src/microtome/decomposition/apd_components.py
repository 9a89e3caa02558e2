"""The components of APD: low-rank products A_c B_c for every decomposed matrix of a target."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.seeds import generator
from microtome.targets.network import Site, Target
from microtome.targets.tms import TMS

Factors = dict[str, tuple[Tensor, Tensor]]
"""Site name to (A [K, C, d_in, m], B [K, C, m, d_out])."""


def component_rank(target: Target, site: Site, m: int | None) -> int:
    """``m``, or the original default: for TMS min(n_features, n_hidden) + 1, else the smaller side."""
    if m is not None:
        return m
    first = next(iter(target.sites().values())).weight if isinstance(target, TMS) else site.weight
    return min(first.shape[-2:]) + int(isinstance(target, TMS))


def xavier_components(
    n_instances: int, C: int, d_in: int, d_out: int, seed: int, name: str, gain: float = 1.0
) -> Float[Tensor, "K C d_in d_out"]:
    """Normal entries with standard deviation ``gain * sqrt(2 / ((C + 1) d_in d_out))``.

    This is what xavier_normal_ makes of a [1, C, d_in, d_out] array, as the original code calls it. Instance
    k draws from a stream of its own, so its start does not depend on how many others there are.
    """
    std = gain * (2.0 / ((C + 1) * d_in * d_out)) ** 0.5
    draws = [
        torch.randn(C, d_in, d_out, generator=generator(seed, stream=f"{name}/{k}"))
        for k in range(n_instances)
    ]
    return torch.stack(draws) * std


def initial_parameters(target: Target, C: int, m: int | None, gain: float, seed: int) -> dict[str, Tensor]:
    """Leaves for every site with a matrix of its own, drawn by ``xavier_components``.

    ``<site>.A_T [K, C, m, d_in]`` holds A transposed (every product and norm reads it in one go),
    ``<site>.B`` is ``[K, C, m, d_out]``.
    """
    parameters: dict[str, Tensor] = {}
    for name, site in target.sites().items():
        if site.tied_to is not None:
            continue
        k, d_in, d_out = site.weight.shape
        rank = component_rank(target, site, m)
        start = xavier_components(k, C, d_in, rank, seed, f"{name}.A", gain)
        parameters[f"{name}.A_T"] = start.transpose(-1, -2).contiguous().to(site.weight)
        start = xavier_components(k, C, rank, d_out, seed, f"{name}.B", gain)
        parameters[f"{name}.B"] = start.to(site.weight)
    return {name: value.requires_grad_() for name, value in parameters.items()}


def site_factors(sites: Mapping[str, Site], parameters: Mapping[str, Tensor]) -> Factors:
    """(A, B) of every site; a tied site has its partner's, transposed and swapped."""
    factors: Factors = {}
    for name, site in sites.items():
        if site.tied_to is None:
            factors[name] = (parameters[f"{name}.A_T"].transpose(-1, -2), parameters[f"{name}.B"])
        else:
            a, b = factors[site.tied_to]
            factors[name] = (b.transpose(-1, -2), a.transpose(-1, -2))
    return factors


def parameter_count(sites: Mapping[str, Site]) -> int:
    """Entries of all decomposed matrices of one instance, tied ones each time."""
    return sum(site.weight.shape[-2] * site.weight.shape[-1] for site in sites.values())
