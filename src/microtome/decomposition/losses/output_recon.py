"""Reconstruction of the output: with all components (out_recon) or with the top-k ones (topk_recon)."""

from jaxtyping import Float
from torch import Tensor


def output_recon(
    output: Float[Tensor, "K B n_out"], target: Float[Tensor, "K B n_out"]
) -> Float[Tensor, " K"]:
    """Mean squared error over samples and outputs (APD paper, eq. 4: L_minimality for the top-k pass)."""
    return (output - target).square().mean(dim=(-2, -1))
