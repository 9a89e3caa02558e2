"""Weights against the sum of their components."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.result import Decomposition


def weight_errors(d: Decomposition) -> dict[str, Float[Tensor, " K"]]:
    """By site, ``|W - sum_c P_c|^2 / |W|^2`` per seed: the share of the squared weights that is missed.

    nan where the weights are all zero, infinite where components are not finite.
    """
    return {
        name: torch.where(size > 0, torch.where(error.isfinite(), error / size, torch.inf), torch.nan)
        for name, error, size in _squares(d)
    }


def faithfulness(d: Decomposition) -> Float[Tensor, " K"]:
    """``sum_sites |W - sum_c P_c|^2 / (number of decomposed weights)``; tied sites count again."""
    errors = torch.stack([error for _, error, _ in _squares(d)])
    return errors.sum(0) / sum(site.weight[0].numel() for site in d.sites.values())


@torch.no_grad()
def _squares(d: Decomposition) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each site's squared error and squared size, in double precision; one site's product at a time."""
    for name, site in d.sites.items():
        left, right = d.factors[name]
        summed = left.transpose(1, 2).flatten(2) @ right.flatten(1, 2)
        error = (site.weight - summed).flatten(1).double().square().sum(1)
        yield name, error, site.weight.flatten(1).double().square().sum(1)
