"""Frequency: subcomponents that matter for many rows cost more than their share."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.loss_configs import Frequency
from microtome.decomposition.losses.smooth_l0 import smoothly_counted

if TYPE_CHECKING:
    from microtome.decomposition.step import Step


def frequency(
    step: "Step", config: Frequency, state: dict[str, Any] | None = None
) -> Iterator[Float[Tensor, " K"]]:
    """``sum_c f_c log2(1 + scale f_c)``, f_c the mean over the whole batch of the smooth L0 of u_c.

    A part for every site's call. Source: "Interpreting Language Model Parameters" (2026), frequency term.
    """
    del state
    gamma = config.gamma_at(step.fraction)
    for name, calls in step.upper.items():
        for i, upper in enumerate(calls):
            own = smoothly_counted(upper, gamma).flatten(1, -2).mean(1)
            f = step.whole_batch.mean(f"{name} {i}", own)
            yield (f * torch.log2(1 + config.scale * f)).sum(-1)
