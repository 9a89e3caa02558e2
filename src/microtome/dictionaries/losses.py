"""Losses of the dictionaries whose sparsity is penalised, for autograd: ReLU, Gated, JumpReLU.

All are sums over the batch divided by ``rows * d`` (the rows of the global batch), so that the reconstruction
term is a mean squared error. Decoder rows have length 1, so that a penalty on activations is one on what they
contribute.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.dictionaries.dictionary import Dictionary

Loss = Callable[..., tuple[Tensor, Tensor, Tensor]]


def relu_loss(
    dictionary: Dictionary, x: Float[Tensor, "B d"], penalty: float, rows: int, bandwidth: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``|x - x_hat|^2 + penalty * sum f`` (Bricken et al. 2023); also the features and the error."""
    del bandwidth
    f = dictionary.encode(x)
    error = dictionary.decode(f) - x
    return (error.square().sum() + penalty * f.sum()) / (rows * x.shape[1]), f, error


def gated_loss(
    dictionary: Dictionary, x: Float[Tensor, "B d"], penalty: float, rows: int, bandwidth: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of gated dictionaries (Rajamanoharan et al. 2024, arXiv 2404.16014, equation 8).

    The penalty is on ``relu`` of the gate's pre-activation, which must also reconstruct by itself, through a
    decoder that this term does not train.
    """
    del bandwidth
    projection = dictionary.project(x)
    f = dictionary.candidates(projection, *(dictionary.get_parameter(name) for name in dictionary.vectors))
    gate = (projection + dictionary.get_parameter("b_gate")).relu()
    error = dictionary.decode(f) - x
    through_gate = gate @ dictionary.W_dec.detach() + dictionary.b_dec.detach() - x
    total = error.square().sum() + penalty * gate.sum() + through_gate.square().sum()
    return total / (rows * x.shape[1]), f, error


def jumprelu_loss(
    dictionary: Dictionary, x: Float[Tensor, "B d"], penalty: float, rows: int, bandwidth: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``|x - x_hat|^2 + penalty * L0``, thresholds trained by straight-through estimators.

    Rajamanoharan et al. 2024, arXiv 2407.14435, equations 9 to 12, with a rectangle of width ``bandwidth``.
    """
    threshold = dictionary.get_parameter("threshold")
    z = dictionary.project(x) + dictionary.get_parameter("b_enc")
    f: Tensor = _Jump.apply(z, threshold, bandwidth)  # pyright: ignore[reportAssignmentType]
    acts: Tensor = _Step.apply(z, threshold, bandwidth)  # pyright: ignore[reportAssignmentType]
    error = dictionary.decode(f) - x
    return (error.square().sum() + penalty * acts.sum()) / (rows * x.shape[1]), f, error


LOSSES: dict[str, Loss] = {"relu": relu_loss, "gated": gated_loss, "jumprelu": jumprelu_loss}


class _Jump(torch.autograd.Function):
    """``relu(z) * (z > threshold)``; the threshold gets a gradient from inputs near it."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        acts = z > threshold
        ctx.save_for_backward(z, threshold, acts)
        ctx.bandwidth = bandwidth
        return z.relu() * acts

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        z, threshold, acts = ctx.saved_tensors
        (g,) = gradients
        near = ((z - threshold).abs() < ctx.bandwidth / 2).to(g.dtype)
        return g * acts * (z > 0), -(g * near).sum(0) * threshold / ctx.bandwidth, None


class _Step(torch.autograd.Function):
    """``z > threshold`` as a number; only the threshold gets a gradient."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return (z > threshold).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        z, threshold = ctx.saved_tensors
        (g,) = gradients
        near = ((z - threshold).abs() < ctx.bandwidth / 2).to(g.dtype)
        return None, -(g * near).sum(0) / ctx.bandwidth, None
