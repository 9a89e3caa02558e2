"""Masks over subcomponents: the plain formulation and where their randomness comes from."""

import torch
from jaxtyping import Float
from torch import Tensor


def stochastic_mask(ci: Float[Tensor, "*any"], source: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """``ci + (1 - ci) * source`` with source uniform in [0, 1): SPD paper, equation for stochastic masks."""
    return ci + (1 - ci) * source


def draw_source(like: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform numbers in [0, 1) of the shape of ``like``: a fresh draw for every loss."""
    return torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
