"""Simplicity: the Schatten norm of the active components (APD paper, eq. 5)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from microtome.decomposition.loss_configs import Schatten

if TYPE_CHECKING:
    from microtome.decomposition.step import Step

EPSILON = 1e-16


def schatten(
    factors: dict[str, tuple[Float[Tensor, "K C _ m"], Float[Tensor, "K C m _"]]],
    mask: Float[Tensor, "K B C"] | Bool[Tensor, "K B C"],
    p: float,
    n_params: int,
) -> Float[Tensor, " K"]:
    """``sum_{b,l,c,r} (mask[b,c] ||A_{c,l}[:,r]||^2 ||B_{c,l}[r]||^2 + 1e-16)^(p/2) / (n_params B)``.

    ``mask`` is the top-k mask, or the Lp sparsity of every pair. Inactive pairs add the constant 1e-16^(p/2),
    as in the original code.
    """
    batch = mask.shape[1]
    weights = mask.to(next(iter(factors.values()))[0].dtype)
    terms = []
    for a, b in factors.values():
        sizes = a.square().sum(dim=-2) * b.square().sum(dim=-1)
        terms.append(
            ((torch.einsum("kbc,kcm->kbcm", weights, sizes) + EPSILON) ** (p / 2)).sum(dim=(1, 2, 3))
        )
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total / n_params / batch


def schatten_from_counts(
    sizes: Float[Tensor, "K C m"], counts: Float[Tensor, "K C"], batch_size: int, p: float
) -> tuple[Float[Tensor, " K"], Float[Tensor, "K C m"]]:
    """One site's sum of ``schatten`` under a top-k mask, and its gradient by ``sizes``.

    Only the number of samples that use each component matters: ``counts``.
    """
    shifted = sizes + EPSILON
    powers = shifted ** (p / 2)
    idle = (batch_size - counts) * (sizes.shape[-1] * EPSILON ** (p / 2))
    loss = (counts * powers.sum(dim=-1) + idle).sum(dim=-1)
    return loss, counts.unsqueeze(-1) * (p / 2) * powers / shifted


def schatten_of_step(
    step: "Step", config: Schatten, state: dict[str, Any] | None = None
) -> Iterator[Float[Tensor, " K"]]:
    """``mean over rows of sum_c u_c^p (|V_c|^2 + |U_c|^2)``, as in the SPD paper's code.

    A part for every site's call.
    """
    del state
    for name, calls in step.upper.items():
        for upper in calls:
            v, u = step.factors[name]
            size = v.square().sum(1) + u.square().sum(2)
            yield ((upper + 1e-12).pow(config.pnorm).flatten(1, -2).mean(1) * size).sum(-1)
