"""Faithfulness: how far the sum of the subcomponents is from the target's weights."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.targets.network import Site


def faithfulness_loss(
    sites: Mapping[str, Site], factors: Mapping[str, tuple[Tensor, Tensor]]
) -> Float[Tensor, " K"]:
    """``sum_sites |W - V U|^2 / (number of decomposed weights)``, per instance.

    A tied site counts again, as it does in the number of weights. Source: SPD paper, faithfulness loss.
    """
    errors: dict[str, Tensor] = {}
    n_weights = 0
    for name, site in sites.items():
        n_weights += site.weight[0].numel()
        if site.tied_to is not None and site.tied_to in errors:
            errors[name] = errors[site.tied_to]
            continue
        v, u = factors[name]
        difference = torch.baddbmm(site.weight, v, u, alpha=-1.0)
        errors[name] = difference.flatten(1).square().sum(1)
    return torch.stack(list(errors.values())).sum(0) / n_weights
