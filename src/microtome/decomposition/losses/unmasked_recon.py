"""Reconstruction of the target's output by all subcomponents at their full weight."""

from collections.abc import Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.loss_configs import UnmaskedRecon
from microtome.decomposition.mask_makers import full_masks
from microtome.decomposition.routing import route
from microtome.decomposition.step import Step


def unmasked_recon(
    step: Step, config: UnmaskedRecon, state: dict[str, Any] | None = None
) -> Iterator[Float[Tensor, " K"]]:
    """``D(f(x | m = 1), f(x))``: SPD paper's code, ``out_recon``."""
    del config, state
    for share, routes in route(step, "all"):
        yield share * step.recon(full_masks(step, routes))
