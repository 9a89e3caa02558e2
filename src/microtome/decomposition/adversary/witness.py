"""Gradients of what is no leaf of the caller's backward pass, noted as that pass goes by."""

from typing import Any

import torch
from torch import Tensor


class Noted:
    """The gradient that backward passes brought so far; None before the first."""

    def __init__(self) -> None:
        self.gradient: Tensor | None = None

    def add(self, gradient: Tensor) -> None:
        """Sum up one pass' gradient."""
        self.gradient = gradient.detach() if self.gradient is None else self.gradient + gradient.detach()


class _Witness(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, anchor: Tensor, noted: Noted) -> Tensor:  # noqa: ARG004
        ctx.noted = noted
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.noted.add(gradient)
        return gradient if ctx.needs_input_grad[0] else None, None, None


def witnessed(tensor: Tensor, anchor: Tensor, noted: Noted) -> Tensor:
    """``tensor`` itself; a backward pass towards ``anchor`` notes the gradient that comes by.

    The caller asks for gradients of ``anchor`` (a tensor that requires them) and never hears of ``tensor``:
    so an adversary's sources get their gradient from the very pass that trains everything else.
    """
    return _Witness.apply(tensor, anchor, noted)  # pyright: ignore[reportReturnType]
