"""Sigmoids between a causal importance function's output and the causal importance.

Source: the SPD paper (leaky hard sigmoids) and the SPD authors' later code (the others).
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from microtome.core.errors import bad_value

LEAK = 0.01
Sigmoid = Callable[[Tensor], Tensor]
SigmoidType = Literal["paper", "leaky_hard", "normal", "hard", "upper_leaky_hard", "swish_hard"]


def normal(gate: Tensor) -> Tensor:
    """``1 / (1 + exp(-g))``."""
    return torch.sigmoid(gate)


def hard(gate: Tensor) -> Tensor:
    """0 below 0, ``g``, 1 above 1."""
    return gate.clamp(0.0, 1.0)


def lower_leaky(gate: Tensor) -> Tensor:
    """``0.01 g`` below 0, ``g``, 1 above 1: the SPD paper's, for masks."""
    return torch.where(gate > 0, gate.clamp(max=1.0), LEAK * gate)


def upper_leaky(gate: Tensor) -> Tensor:
    """0 below 0, ``g``, ``1 + 0.01 (g - 1)`` above 1: for the minimality loss."""
    return torch.where(gate < 1, gate.clamp(min=0.0), 1 + LEAK * (gate - 1))


class _LeakyGradient(torch.autograd.Function):
    """``hard`` whose gradient below 0 is 0.01 where it would raise ``g``, and 0 elsewhere."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor) -> Tensor:
        ctx.save_for_backward(gate)
        return gate.clamp(0.0, 1.0)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gate,) = ctx.saved_tensors
        below = torch.where(upstream < 0, LEAK * upstream, 0.0)
        return torch.where(gate <= 0, below, torch.where(gate <= 1, upstream, 0.0))


def lower_leaky_gradient(gate: Tensor) -> Tensor:
    """``hard`` in value; its gradient below 0 is 0.01 of those that raise ``g``: later code, for masks."""
    return _LeakyGradient.apply(gate)  # pyright: ignore[reportReturnType]


def swish_hard(gate: Tensor, beta: float = 10.0) -> Tensor:
    """A hard sigmoid with both corners rounded by swish functions, of steepness ``beta``."""
    x = gate - 0.5

    def swish(value: Tensor) -> Tensor:
        return value * torch.sigmoid(beta * value)

    def mirrored(value: Tensor) -> Tensor:
        return value * torch.sigmoid(-beta * value)

    return 0.5 + mirrored(x - 0.5) - swish(x) + swish(x + 0.5) - mirrored(x)


_PAIRS: dict[SigmoidType, tuple[Sigmoid, Sigmoid]] = {
    "paper": (lower_leaky, upper_leaky),
    "leaky_hard": (lower_leaky_gradient, upper_leaky),
    "normal": (normal, normal),
    "hard": (hard, hard),
    "upper_leaky_hard": (upper_leaky, upper_leaky),
    "swish_hard": (swish_hard, swish_hard),
}


def sigmoid_pair(sigmoid_type: str) -> tuple[Sigmoid, Sigmoid]:
    """(for masks, for the minimality loss). ``paper``: the SPD paper's; the others: names of the later code.

    Raises ``MicrotomeError`` for another name.
    """
    if sigmoid_type not in _PAIRS:
        names = ", ".join(get_args(SigmoidType))
        raise bad_value("sigmoid_type", sigmoid_type, "unknown", f"use one of {names}")
    return _PAIRS[sigmoid_type]
