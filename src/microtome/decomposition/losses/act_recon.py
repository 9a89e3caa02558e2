"""Reconstruction of the activations inside the network."""

from jaxtyping import Float
from torch import Tensor


def act_recon(
    site_outputs: dict[str, Float[Tensor, "K B _"]], target: dict[str, Float[Tensor, "K B _"]]
) -> Float[Tensor, " K"]:
    """Squared error of all sites' outputs over their total width, mean over samples (original APD code)."""
    width = sum(acts.shape[-1] for acts in target.values())
    errors = [(site_outputs[name] - acts).square().sum(dim=-1).mean(dim=-1) for name, acts in target.items()]
    total = errors[0]
    for error in errors[1:]:
        total = total + error
    return total / width
