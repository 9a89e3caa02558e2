"""Reconstruction: how far an output under masks is from the target's own."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.losses.divergence import kl_divergence

OutputLoss = Literal["mse", "kl"]


def reconstruction_loss(
    output: Float[Tensor, "K N *d"],
    target: Float[Tensor, "K N *d"],
    weight: Float[Tensor, "K N"],
    n_rows: int,
    kind: OutputLoss = "mse",
) -> Float[Tensor, " K"]:
    """Mean over the batch's ``n_rows`` rows, of which rows with ``weight`` 0 or equal output are left out.

    ``mse``: mean squared difference over all elements. ``kl``: KL(target || output) of the softmax over the
    last axis, summed over classes, mean over positions. Source: SPD paper, equations for reconstruction.
    """
    if kind == "mse":
        per_row = (output - target).square().flatten(2).mean(2)
    else:
        per_position = kl_divergence(output, target)
        per_row = per_position.flatten(2).mean(2) if per_position.ndim > 2 else per_position
    return (per_row * weight).sum(1) / n_rows
