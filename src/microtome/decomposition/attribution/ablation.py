"""Ablation attributions: how far the output moves when a component is taken away."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MaskedForward = Callable[[Bool[Tensor, "K B C"]], Float[Tensor, "K B n_out"]]


def ablation_attributions(
    forward: MaskedForward, output: Float[Tensor, "K B n_out"], n_components: int
) -> Float[Tensor, "K B C"]:
    """``A_c = mean_o (out_o - out_o without component c)^2``, one forward pass for each component.

    ``forward(mask)`` runs the decomposed network with the marked components on (original APD code).
    """
    scores = []
    for c in range(n_components):
        mask = torch.ones(*output.shape[:-1], n_components, dtype=torch.bool, device=output.device)
        mask[..., c] = False
        scores.append((output - forward(mask)).square().mean(dim=-1))
    return torch.stack(scores, dim=-1)
