"""Both forms of causal importances out of gates, in one pass over memory each way."""

import ctypes
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.causal_importance.sigmoids import sigmoid_pair
from microtome.decomposition.kernels.single_precision import pointer, single_precision_library

_FUSED = ("paper", "leaky_hard")


class _Sigmoids(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, paper: bool) -> tuple[Tensor, Tensor]:
        gate = gate.contiguous()
        ctx.save_for_backward(gate)
        ctx.paper = paper
        lower, upper = torch.empty_like(gate), torch.empty_like(gate)
        library = single_precision_library("positions", gate)
        assert library is not None
        library.sigmoids_forward(
            pointer(gate), ctypes.c_long(gate.numel()), ctypes.c_int(paper), pointer(lower), pointer(upper)
        )
        return lower, upper

    @staticmethod
    def backward(ctx: Any, d_lower: Tensor, d_upper: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gate,) = ctx.saved_tensors
        d_lower, d_upper = d_lower.contiguous(), d_upper.contiguous()
        d_gate = torch.empty_like(gate)
        library = single_precision_library("positions", gate)
        assert library is not None
        library.sigmoids_backward(
            *map(pointer, (gate, d_lower, d_upper)),
            ctypes.c_long(gate.numel()),
            ctypes.c_int(ctx.paper),
            pointer(d_gate),
        )
        return d_gate, None


def both_sigmoids(
    gate: Float[Tensor, "*any"], sigmoid_type: str
) -> tuple[Float[Tensor, "*any"], Float[Tensor, "*any"]]:
    """Causal importances for masks and for minimality losses: ``sigmoid_pair(sigmoid_type)`` of ``gate``."""
    if sigmoid_type in _FUSED and single_precision_library("positions", gate) is not None:
        return _Sigmoids.apply(gate, sigmoid_type == "paper")  # pyright: ignore[reportReturnType]
    lower, upper = sigmoid_pair(sigmoid_type)
    return lower(gate), upper(gate)
