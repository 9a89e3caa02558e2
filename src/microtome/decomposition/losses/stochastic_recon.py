"""Reconstruction of the target's output under random masks between the causal importances and 1."""

from collections.abc import Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.loss_configs import StochasticRecon
from microtome.decomposition.mask_makers import stochastic_masks
from microtome.decomposition.routing import route
from microtome.decomposition.step import Step


def stochastic_recon(
    step: Step, config: StochasticRecon, state: dict[str, Any] | None = None
) -> Iterator[Float[Tensor, " K"]]:
    """``mean over samples of D(f(x | m = g + (1 - g) u), f(x))``, u uniform and fresh in every pass.

    Source: SPD paper, equations of L_stochastic-recon and its layerwise form; subsets: the later SPD code.
    A part for every pass.
    """
    del state
    for _ in range(step.n_mask_samples):
        for share, routes in route(step, config.sites, config.routing):
            yield share / step.n_mask_samples * step.recon(stochastic_masks(step, routes))
