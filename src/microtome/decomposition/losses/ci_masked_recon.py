"""Reconstruction of the target's output with the causal importances as masks."""

from collections.abc import Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.loss_configs import CIMaskedRecon
from microtome.decomposition.mask_makers import importance_masks
from microtome.decomposition.routing import route
from microtome.decomposition.step import Step


def ci_masked_recon(
    step: Step, config: CIMaskedRecon, state: dict[str, Any] | None = None
) -> Iterator[Float[Tensor, " K"]]:
    """``D(f(x | m = g), f(x))`` over the passes of ``config.sites``; a part for every pass."""
    del state
    for share, routes in route(step, config.sites, config.routing):
        yield share * step.recon(importance_masks(step, routes))
