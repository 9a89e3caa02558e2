"""Gate MLPs as one differentiable operation.

Equal to the plain formulation in ``gates.py`` in value and in every gradient. In single precision on a CPU it
runs in C; elsewhere in PyTorch, a few components at a time, so that the hidden layer of the gates,
``[K, C, N, H]``, never exists as a whole.
"""

import ctypes
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.gates import GateWeights, gate_values
from microtome.decomposition.kernels.single_precision import pointer, single_precision_library

_CHUNK_ELEMENTS = {"cpu": 1 << 17, "cuda": 1 << 25}


def _sizes(inner: Tensor, hidden: int) -> tuple[ctypes.c_long, ...]:
    return tuple(ctypes.c_long(size) for size in (*inner.shape, hidden))


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inner: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor) -> Tensor:
        inner = inner.contiguous()
        weights = [w.contiguous() for w in (w_in, b_in, w_out, b_out)]
        ctx.save_for_backward(inner, *weights)
        return _forward(inner, GateWeights(*weights))

    @staticmethod
    def backward(ctx: Any, d_gate: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inner, w_in, b_in, w_out, b_out = ctx.saved_tensors
        d_gate = d_gate.contiguous()
        library = single_precision_library("gates", inner)
        if library is None:
            return _torch_backward(inner, GateWeights(w_in, b_in, w_out, b_out), d_gate)
        grads = tuple(torch.empty_like(t) for t in (inner, w_in, b_in, w_out, b_out))
        library.gate_backward(
            *map(pointer, (inner, w_in, b_in, w_out, d_gate)),
            *_sizes(inner, b_in.shape[-1]),
            *map(pointer, grads),
        )
        return grads


def _forward(inner: Tensor, weights: GateWeights) -> Tensor:
    library = single_precision_library("gates", inner)
    if library is None:
        parts = _chunks(inner, weights.hidden)
        return torch.cat([gate_values(inner[:, part], _part(weights, part)) for part in parts], dim=1)
    gate = torch.empty_like(inner)
    library.gate_forward(
        *map(pointer, (inner, weights.w_in, weights.b_in, weights.w_out, weights.b_out)),
        *_sizes(inner, weights.hidden),
        pointer(gate),
    )
    return gate


def _chunks(inner: Tensor, hidden: int) -> list[slice]:
    """Ranges of components whose hidden activations fit the cache (CPU) or a small part of memory (GPU)."""
    n_components = inner.shape[1]
    budget = _CHUNK_ELEMENTS.get(inner.device.type, 1 << 22)
    step = max(1, budget // max(1, inner.shape[0] * inner.shape[2] * max(hidden, 1)))
    return [slice(at, at + step) for at in range(0, n_components, step)]


def _part(weights: GateWeights, part: slice) -> GateWeights:
    return GateWeights(*(w[:, part] for w in (weights.w_in, weights.b_in, weights.w_out, weights.b_out)))


def _torch_backward(inner: Tensor, weights: GateWeights, d_gate: Tensor) -> tuple[Tensor, ...]:
    d_b_out = d_gate.sum(-1)
    if weights.hidden == 0:
        d_w_in = (d_gate * inner).sum(-1, keepdim=True)
        empty = torch.zeros_like(weights.b_in)
        return d_gate * weights.w_in, d_w_in, empty, empty, d_b_out
    pieces: list[tuple[Tensor, ...]] = []
    for part in _chunks(inner, weights.hidden):
        w = _part(weights, part)
        x, dg = inner[:, part].unsqueeze(-1), d_gate[:, part].unsqueeze(-1)
        z = x * w.w_in.unsqueeze(2) + w.b_in.unsqueeze(2)
        phi = 0.5 * (1 + torch.erf(z * 0.7071067811865476))
        slope = phi + z * torch.exp(-0.5 * z * z) * 0.3989422804014327
        d_w_out = (dg * z * phi).sum(2)
        dz = dg * w.w_out.unsqueeze(2) * slope
        pieces.append(((dz * w.w_in.unsqueeze(2)).sum(-1), (dz * x).sum(2), dz.sum(2), d_w_out))
    d_inner, d_w_in, d_b_in, d_w_out = (torch.cat(column, dim=1) for column in zip(*pieces, strict=True))
    return d_inner, d_w_in, d_b_in, d_w_out, d_b_out


def fused_gates(inner: Float[Tensor, "K C N"], gates: GateWeights) -> Float[Tensor, "K C N"]:
    """Gate outputs before the sigmoid: ``gate_values`` in little memory, differentiable."""
    return _Gate.apply(inner, gates.w_in, gates.b_in, gates.w_out, gates.b_out)  # pyright: ignore[reportReturnType]


def gate_outputs(inner: Float[Tensor, "K C N"], gates: GateWeights) -> Float[Tensor, "K C N"]:
    """Gate outputs before the sigmoid, without gradients."""
    weights = [w.detach().contiguous() for w in (gates.w_in, gates.b_in, gates.w_out, gates.b_out)]
    with torch.no_grad():
        return _forward(inner.detach().contiguous(), GateWeights(*weights))
