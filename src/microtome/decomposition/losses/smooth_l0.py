"""Smooth L0: the number of subcomponents that matter for an input, made differentiable."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.loss_configs import SmoothL0

if TYPE_CHECKING:
    from microtome.decomposition.step import Step


def smoothly_counted(upper: Float[Tensor, "*any"], gamma: float) -> Float[Tensor, "*any"]:
    """``u^2 / (u^2 + gamma^2)``: near 0 for u well below gamma, near 1 well above."""
    square = upper.square()
    return square / (square + gamma**2)


def smooth_l0(
    step: "Step", config: SmoothL0, state: dict[str, Any] | None = None
) -> Iterator[Float[Tensor, " K"]]:
    """``mean over rows of sum_c u_c^2 / (u_c^2 + gamma^2)``; a part for every site's call.

    Gamma falls over training. Source: "Interpreting Language Model Parameters" (2026), simplicity loss.
    """
    del state
    gamma = config.gamma_at(step.fraction)
    for calls in step.upper.values():
        for upper in calls:
            yield smoothly_counted(upper, gamma).flatten(1, -2).mean(1).sum(-1)
