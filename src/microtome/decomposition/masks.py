"""Masks over subcomponents: the plain formulation and where their randomness comes from."""

import torch
from jaxtyping import Float
from torch import Tensor


def stochastic_mask(ci: Float[Tensor, "*any"], source: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """``ci + (1 - ci) * source`` with source uniform in [0, 1): SPD paper, equation for stochastic masks."""
    return ci + (1 - ci) * source


def draw_key(generator: torch.Generator) -> int:
    """A key that stands for one fresh draw of uniform numbers: one for every loss."""
    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
