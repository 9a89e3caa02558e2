"""Faithfulness: how far the sum of the subcomponents is from the target's weights."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.loss_configs import Faithfulness
from microtome.targets.network import Site

if TYPE_CHECKING:
    from microtome.decomposition.step import Step


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
        errors[name] = squared_error(site, factors[name])
    return torch.stack(list(errors.values())).sum(0) / n_weights


def squared_error(site: Site, factors: tuple[Tensor, Tensor]) -> Float[Tensor, " K"]:
    """``|W - V U|^2`` of one site."""
    difference = torch.baddbmm(site.weight, *factors, alpha=-1.0)
    return difference.flatten(1).square().sum(1)


def faithfulness(
    step: "Step", config: Faithfulness, state: dict[str, Any] | None = None
) -> Iterator[Float[Tensor, " K"]]:
    """``faithfulness_loss``, a part for every weight matrix; it does not depend on the batch.

    ``relative``: the mean over sites of ``|W - V U|^2 / |W|^2``, as in the later code.
    """
    del state
    sites = step.network.sites
    n_weights = sum(site.weight[0].numel() for site in sites.values())
    owners = Counter(site.tied_to if site.tied_to in sites else name for name, site in sites.items())
    for name, times_used in owners.items():
        assert name is not None
        error = squared_error(sites[name], step.factors[name])
        if config.relative:
            size = sites[name].weight.flatten(1).square().sum(1)
            yield times_used / len(sites) * error / size.clamp(min=torch.finfo(size.dtype).tiny)
        else:
            yield times_used / n_weights * error
