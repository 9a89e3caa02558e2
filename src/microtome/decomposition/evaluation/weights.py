"""Weights against the sum of their components."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.result import Decomposition


def weight_errors(d: Decomposition) -> dict[str, Float[Tensor, " K"]]:
    """By site, ``|W - sum_c P_c|^2 / |W|^2`` per seed: the share of the squared weights that is missed.

    A tied site is its partner and left out. nan where the weights are all zero.
    """
    found = {}
    for name, (error, size) in _squares(d).items():
        found[name] = torch.where(size > 0, error / size, torch.nan)
    return found


def faithfulness(d: Decomposition) -> Float[Tensor, " K"]:
    """``sum_sites |W - sum_c P_c|^2 / (number of decomposed weights)``; tied sites count again."""
    squares, total, n = _squares(d), torch.zeros(d.n_instances, dtype=torch.float64), 0
    for name, site in d.sites.items():
        total = total.to(site.weight.device) + squares[_own(d, name)][0]
        n += site.weight[0].numel()
    return total / n


def _own(d: Decomposition, name: str) -> str:
    tied = d.sites[name].tied_to
    return tied if tied in d.sites else name


@torch.no_grad()
def _squares(d: Decomposition) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Squared error and squared size by site, in double precision; one site's product at a time."""
    out = {}
    for name, site in d.sites.items():
        if _own(d, name) != name:
            continue
        left, right = d.factors[name]
        summed = left.transpose(1, 2).flatten(2) @ right.flatten(1, 2)
        error = (site.weight - summed).flatten(1).double().square().sum(1)
        out[name] = error, site.weight.flatten(1).double().square().sum(1)
    return out
