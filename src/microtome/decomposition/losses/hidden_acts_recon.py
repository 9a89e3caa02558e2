"""Reconstruction of hidden activations: what reaches each site when the sites before it are masked."""

from collections.abc import Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.loss_configs import HiddenActsRecon
from microtome.decomposition.mask_makers import importance_masks, stochastic_masks
from microtome.decomposition.step import Step


def hidden_acts_recon(
    step: Step, config: HiddenActsRecon, state: dict[str, Any] | None = None
) -> Iterator[Float[Tensor, " K"]]:
    """``sum over sites of |a_masked - a|^2 / (number of activations)``; a part for every mask sample.

    Tokens that reach an embedding are no activations. Source: the later SPD code.
    """
    del state
    n = step.n_mask_samples if config.masks == "stochastic" else 1
    make = stochastic_masks if config.masks == "stochastic" else importance_masks
    for _ in range(n):
        masks = make(step, dict.fromkeys(step.network.sites))
        _, seen = step.network.run_recording(step.x, step.factors, masks)
        yield mean_square_error(seen, step.inputs, step.zeros()) / n


def mean_square_error(
    seen: dict[str, list[Tensor]], wanted: dict[str, list[Tensor]], zero: Tensor
) -> Float[Tensor, " K"]:
    """Mean over every activation at every site, ``[K]``; token numbers are left out."""
    total, count = zero, 0
    for name, calls in wanted.items():
        for own, theirs in zip(seen[name], calls, strict=True):
            if theirs.is_floating_point():
                total = total + (own - theirs).flatten(1).square().sum(1)
                count += theirs[0].numel()
    return total / max(count, 1)
