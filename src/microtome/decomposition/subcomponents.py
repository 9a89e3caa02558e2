"""Rank-one subcomponents and their gates: everything SPD trains, by name."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.seeds import generator
from microtome.decomposition.gates import GateWeights, init_gates
from microtome.targets.network import Site

Factors = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Subcomponents:
    """For each site ``V [K, d_in, C]`` and ``U [K, C, d_out]`` with ``W ~ V U``, and C gates.

    ``tied`` maps a site to the one whose factors it uses transposed; it has gates of its own.
    """

    factors: Factors
    gates: dict[str, GateWeights]
    tied: dict[str, str]

    def all_factors(self) -> Factors:
        """Factors of every site, tied ones as transposed views."""
        return with_tied(self.gates, self.factors, self.tied)

    def named_parameters(self) -> dict[str, Tensor]:
        """Every trainable tensor once, under the names that checkpoints use."""
        named = named_factors(self.factors)
        for site, gates in self.gates.items():
            named.update(gates.named(site))
        return named


def named_factors(factors: Factors) -> dict[str, Tensor]:
    """The factors under the names that checkpoints use."""
    return {f"components.{s}.{n}": t for s, f in factors.items() for n, t in zip("VU", f, strict=True)}


def init_subcomponents(
    sites: Mapping[str, Site],
    n_components: int | Mapping[str, int],
    gate_hidden: int,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
) -> Subcomponents:
    """Random directions of unit length, each scaled by how much of the target's weight lies along it.

    ``U_c`` is multiplied by ``v_c^T W u_c`` (the SPD paper's code). Instance k depends on ``seeds[k]`` alone.
    """
    draws = site_draws(sites, seeds, device)
    counts = dict.fromkeys(sites, n_components) if isinstance(n_components, int) else n_components
    factors, tied = init_factors(sites, counts, draws)
    gates = {name: init_gates(len(seeds), counts[name], gate_hidden, draws[name]) for name in sites}
    return Subcomponents(factors, gates, tied)


def site_draws(
    sites: Iterable[str], seeds: Sequence[int], device: torch.device | str = "cpu"
) -> dict[str, list[torch.Generator]]:
    """A stream of its own for every site and seed: what starts a site does not depend on the others."""
    return {name: [generator(seed, device, f"subcomponents {name}") for seed in seeds] for name in sites}


def init_factors(
    sites: Mapping[str, Site], counts: Mapping[str, int], draws: Mapping[str, list[torch.Generator]]
) -> tuple[Factors, dict[str, str]]:
    """The factors of ``init_subcomponents``, and which sites use another's transposed."""
    factors: Factors = {}
    tied: dict[str, str] = {}
    for name, site in sites.items():
        if site.tied_to is not None and site.tied_to in factors:
            tied[name] = site.tied_to
        else:
            factors[name] = _aligned_factors(site.weight, counts[name], draws[name])
    return factors, tied


def with_tied(sites: Iterable[str], factors: Factors, tied: Mapping[str, str]) -> Factors:
    """Factors of every site, tied ones as transposed views."""
    out: Factors = {}
    for name in sites:
        if name in tied:
            v, u = factors[tied[name]]
            out[name] = (u.mT, v.mT)
        else:
            out[name] = factors[name]
    return out


def _aligned_factors(
    weight: Float[Tensor, "K d_in d_out"], n_components: int, draws: list[torch.Generator]
) -> tuple[Tensor, Tensor]:
    _, d_in, d_out = weight.shape
    v = torch.stack([torch.randn(d_in, n_components, generator=g, device=g.device) for g in draws])
    u = torch.stack([torch.randn(n_components, d_out, generator=g, device=g.device) for g in draws])
    v = v / v.norm(dim=1, keepdim=True)
    u = u / u.norm(dim=2, keepdim=True)
    along = torch.einsum("kic,kio,kco->kc", v, weight.to(v.dtype), u)
    return v, u * along.unsqueeze(-1)
