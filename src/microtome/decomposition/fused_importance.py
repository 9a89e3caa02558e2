"""From gates to causal importances and minimality sums, as one differentiable operation.

Equal to ``causal_importance/sigmoids.py`` in value and in every gradient. In single precision on a CPU it
runs in C, elsewhere in PyTorch.
"""

import ctypes
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.causal_importance.sigmoids import LEAK, sigmoid_pair, upper_leaky
from microtome.decomposition.kernels.single_precision import pointer, single_precision_library

FusedSigmoid = Literal["paper", "leaky_hard"]
_CODES: dict[FusedSigmoid, int] = {"paper": 0, "leaky_hard": 1}
# Binomial sampling blurs the gate that masks read: 1.05 g - 0.05 u with u uniform (later SPD code).
JITTER = 0.05


class _Importance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gate: Tensor,
        row_weight: Tensor,
        jitter: Tensor | None,
        sigmoid: FusedSigmoid,
        p: float,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        gate, row_weight = gate.contiguous(), row_weight.contiguous()
        jitter = None if jitter is None else jitter.contiguous()
        ctx.save_for_backward(gate, row_weight, jitter)
        ctx.settings = sigmoid, p, eps
        library = single_precision_library("masks", gate)
        if library is None:
            powered = upper_leaky(gate).add_(eps).pow_(p)
            lower = sigmoid_pair(sigmoid)[0](_blurred(gate, jitter))
            return lower, torch.einsum("kcn,kn->kc", powered, row_weight)
        lower, sums = torch.empty_like(gate), torch.empty(gate.shape[:2], dtype=torch.float64)
        library.importance_forward(*_arguments(gate, jitter, row_weight), *_settings(gate, ctx.settings),
                                   pointer(lower), pointer(sums))  # fmt: skip
        return lower, sums.to(gate.dtype)

    @staticmethod
    def backward(ctx: Any, d_lower: Tensor, d_sums: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gate, row_weight, jitter = ctx.saved_tensors
        d_lower, d_sums = d_lower.contiguous(), d_sums.contiguous()
        library = single_precision_library("masks", gate)
        if library is None:
            d_gate = _torch_backward(gate, row_weight, jitter, d_lower, d_sums, *ctx.settings)
        else:
            d_gate = torch.empty_like(gate)
            library.importance_backward(
                *_arguments(gate, jitter, row_weight), pointer(d_lower), pointer(d_sums),
                *_settings(gate, ctx.settings), pointer(d_gate),
            )  # fmt: skip
        return d_gate, None, None, None, None, None


def _arguments(gate: Tensor, jitter: Tensor | None, row_weight: Tensor) -> tuple[Any, ...]:
    return pointer(gate), None if jitter is None else pointer(jitter), pointer(row_weight)


def _settings(gate: Tensor, settings: tuple[FusedSigmoid, float, float]) -> tuple[Any, ...]:
    sigmoid, p, eps = settings
    sizes = (ctypes.c_long(size) for size in gate.shape)
    return *sizes, ctypes.c_int(_CODES[sigmoid]), ctypes.c_float(p), ctypes.c_float(eps)


def _blurred(gate: Tensor, jitter: Tensor | None) -> Tensor:
    return gate if jitter is None else (1 + JITTER) * gate - JITTER * jitter


def _torch_backward(
    gate: Tensor,
    row_weight: Tensor,
    jitter: Tensor | None,
    d_lower: Tensor,
    d_sums: Tensor,
    sigmoid: FusedSigmoid,
    p: float,
    eps: float,
) -> Tensor:
    read = _blurred(gate, jitter)
    if sigmoid == "paper":
        d_read = d_lower * torch.where(read > 0, (read < 1).to(gate.dtype), LEAK)
    else:
        d_read = torch.where(read > 0, (read <= 1) * d_lower, LEAK * d_lower.clamp(max=0.0))
    if jitter is not None:
        d_read = d_read * (1 + JITTER)
    slope = torch.where(gate < 1, (gate > 0).to(gate.dtype), LEAK)
    # Where the slope is zero the power may be infinite (p < 1), hence where() and not a product.
    d_power = torch.where(slope > 0, p * (upper_leaky(gate) + eps).pow(p - 1) * slope, 0.0)
    return d_read + d_power * row_weight.unsqueeze(1) * d_sums.unsqueeze(-1)


def fused_importance(
    gate: Float[Tensor, "K C N"],
    row_weight: Float[Tensor, "K N"],
    p: float,
    eps: float = 1e-12,
    sigmoid: FusedSigmoid = "paper",
    jitter: Float[Tensor, "K C N"] | None = None,
) -> tuple[Float[Tensor, "K C N"], Float[Tensor, "K C"]]:
    """Causal importances for masks, and ``sum_n row_weight_n (upper + eps)^p`` of every component.

    ``jitter``: the uniform numbers of binomial sampling, which blur the gate that masks read.
    """
    return _Importance.apply(gate, row_weight, jitter, sigmoid, p, eps)  # pyright: ignore[reportReturnType]
