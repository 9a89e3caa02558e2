"""Gates and masks as single differentiable operations.

Each equals the plain formulation in ``gates.py`` and ``masks.py`` in value and in every gradient. In single
precision on a CPU they run in C; elsewhere in PyTorch, a few components at a time, so that the hidden layer
of the gates, ``[K, C, N, H]``, never exists as a whole.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.gates import LEAK, GateWeights, gate_values, lower_leaky, upper_leaky
from microtome.decomposition.kernels.build import load_library

IMPORTANCE_EPS = 1e-12
_CHUNK_ELEMENTS = {"cpu": 1 << 17, "cuda": 1 << 25}


def _library(tensor: Tensor) -> ctypes.CDLL | None:
    if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
        return None
    return load_library("spd")


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _sizes(inner: Tensor, hidden: int) -> tuple[ctypes.c_long, ...]:
    return tuple(ctypes.c_long(size) for size in (*inner.shape, hidden))


class _Gate(torch.autograd.Function):
    """inner -> (lower-leaky causal importance, sum over components and weighted rows of upper^p)."""

    @staticmethod
    def forward(
        ctx: Any,
        inner: Tensor,
        row_weight: Tensor,
        w_in: Tensor,
        b_in: Tensor,
        w_out: Tensor,
        b_out: Tensor,
        p: float,
    ) -> tuple[Tensor, Tensor]:
        inner, row_weight = inner.contiguous(), row_weight.contiguous()
        weights = [w.contiguous() for w in (w_in, b_in, w_out, b_out)]
        library = _library(inner)
        if library is None:
            gate, lower, importance = _torch_forward(inner, row_weight, GateWeights(*weights), p)
        else:
            gate, lower = torch.empty_like(inner), torch.empty_like(inner)
            total = torch.empty(inner.shape[0], dtype=torch.float64)
            library.gate_forward(
                *map(_pointer, (inner, row_weight, *weights)),
                *_sizes(inner, b_in.shape[-1]),
                ctypes.c_float(p),
                ctypes.c_float(IMPORTANCE_EPS),
                *map(_pointer, (gate, lower, total)),
            )
            importance = total.to(inner.dtype)
        ctx.save_for_backward(inner, row_weight, *weights, gate)
        ctx.p = p
        return lower, importance

    @staticmethod
    def backward(ctx: Any, d_lower: Tensor, d_importance: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inner, row_weight, w_in, b_in, w_out, b_out, gate = ctx.saved_tensors
        d_lower, d_importance = d_lower.contiguous(), d_importance.contiguous()
        library = _library(inner)
        if library is None:
            weights = GateWeights(w_in, b_in, w_out, b_out)
            grads = _torch_backward(inner, row_weight, weights, gate, d_lower, d_importance, ctx.p)
        else:
            grads = tuple(torch.empty_like(t) for t in (inner, w_in, b_in, w_out, b_out))
            library.gate_backward(
                *map(_pointer, (inner, row_weight, w_in, b_in, w_out, gate, d_lower, d_importance)),
                *_sizes(inner, b_in.shape[-1]),
                ctypes.c_float(ctx.p),
                ctypes.c_float(IMPORTANCE_EPS),
                *map(_pointer, grads),
            )
        d_inner, *d_weights = grads
        return d_inner, None, *d_weights, None


def _chunks(inner: Tensor, hidden: int) -> list[slice]:
    """Ranges of components whose hidden activations fit the cache (CPU) or a small part of memory (GPU)."""
    n_components = inner.shape[1]
    budget = _CHUNK_ELEMENTS.get(inner.device.type, 1 << 22)
    step = max(1, budget // max(1, inner.shape[0] * inner.shape[2] * max(hidden, 1)))
    return [slice(at, at + step) for at in range(0, n_components, step)]


def _part(weights: GateWeights, part: slice) -> GateWeights:
    return GateWeights(*(w[:, part] for w in (weights.w_in, weights.b_in, weights.w_out, weights.b_out)))


def _torch_forward(
    inner: Tensor, row_weight: Tensor, weights: GateWeights, p: float
) -> tuple[Tensor, Tensor, Tensor]:
    parts = _chunks(inner, weights.hidden)
    gate = torch.cat([gate_values(inner[:, part], _part(weights, part)) for part in parts], dim=1)
    powered = upper_leaky(gate).add_(IMPORTANCE_EPS).pow_(p)
    return gate, lower_leaky(gate), torch.einsum("kcn,kn->k", powered, row_weight)


def _torch_backward(
    inner: Tensor,
    row_weight: Tensor,
    weights: GateWeights,
    gate: Tensor,
    d_lower: Tensor,
    d_importance: Tensor,
    p: float,
) -> tuple[Tensor, ...]:
    lower_slope = torch.where(gate > 0, (gate < 1).to(gate.dtype), LEAK)
    upper = upper_leaky(gate)
    upper_slope = torch.where(gate < 1, (gate > 0).to(gate.dtype), LEAK)
    # Where the slope is zero the power may be infinite (p < 1), hence where() and not a product.
    d_power = torch.where(upper_slope > 0, p * (upper + IMPORTANCE_EPS).pow(p - 1) * upper_slope, 0.0)
    d_gate = d_lower * lower_slope + d_power * row_weight.unsqueeze(1) * d_importance[:, None, None]
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


def gate_importance(
    inner: Float[Tensor, "K C N"], row_weight: Float[Tensor, "K N"], gates: GateWeights, p: float
) -> tuple[Float[Tensor, "K C N"], Float[Tensor, " K"]]:
    """Causal importances (lower leaky) and the importance sum ``sum_n row_weight_n sum_c upper^p``."""
    return _Gate.apply(inner, row_weight, gates.w_in, gates.b_in, gates.w_out, gates.b_out, p)  # pyright: ignore[reportReturnType]


def gate_outputs(inner: Float[Tensor, "K C N"], gates: GateWeights) -> Float[Tensor, "K C N"]:
    """Gate outputs before the sigmoid, without gradients: ``gate_values`` in little memory."""
    inner = inner.detach().contiguous()
    library = _library(inner)
    weights = [w.detach().contiguous() for w in (gates.w_in, gates.b_in, gates.w_out, gates.b_out)]
    if library is None:
        parts = _chunks(inner, gates.hidden)
        return torch.cat(
            [gate_values(inner[:, part], _part(GateWeights(*weights), part)) for part in parts], 1
        )
    gate, lower = torch.empty_like(inner), torch.empty_like(inner)
    no_weight = inner.new_zeros(inner.shape[0], inner.shape[2])
    total = torch.empty(inner.shape[0], dtype=torch.float64)
    library.gate_forward(
        *map(_pointer, (inner, no_weight, *weights)),
        *_sizes(inner, gates.hidden),
        ctypes.c_float(1.0),
        ctypes.c_float(IMPORTANCE_EPS),
        *map(_pointer, (gate, lower, total)),
    )
    return gate


Source = Tensor | int


def source_numbers(like: Tensor, key: int) -> Tensor:
    """The uniform numbers in [0, 1) that ``key`` stands for, in the shape of ``like``."""
    library = _library(like)
    if library is None:
        draws = torch.Generator(like.device).manual_seed(key)
        return torch.rand(like.shape, generator=draws, dtype=like.dtype, device=like.device)
    out = torch.empty_like(like)
    library.uniform_fill(_pointer(out), ctypes.c_long(out.numel()), *_halves(key))
    return out


def _halves(key: int) -> tuple[ctypes.c_uint, ctypes.c_uint]:
    return ctypes.c_uint(key & 0xFFFFFFFF), ctypes.c_uint(key >> 32)


class _Mask(torch.autograd.Function):
    """inner * (ci + (1 - ci) * source); a source given as a key is drawn again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, inner: Tensor, ci: Tensor, source: Source) -> Tensor:
        inner, ci = inner.contiguous(), ci.contiguous()
        ctx.key = source if isinstance(source, int) else None
        given = () if isinstance(source, int) else (source.contiguous(),)
        ctx.save_for_backward(inner, ci, *given)
        library = _library(inner)
        if library is None:
            numbers = _numbers(inner, given, ctx.key)
            return inner * torch.lerp(numbers, torch.ones_like(numbers), ci)
        masked = torch.empty_like(inner)
        library.mask_forward(
            _pointer(inner), _pointer(ci), *_source_arguments(given, ctx.key), _pointer(masked),
            ctypes.c_long(inner.numel()),
        )  # fmt: skip
        return masked

    @staticmethod
    def backward(ctx: Any, d_masked: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inner, ci, *given = ctx.saved_tensors
        d_masked = d_masked.contiguous()
        library = _library(inner)
        if library is None:
            numbers = _numbers(inner, given, ctx.key)
            mask = torch.lerp(numbers, torch.ones_like(numbers), ci)
            return d_masked * mask, d_masked * inner * (1 - numbers), None
        d_inner, d_ci = torch.empty_like(inner), torch.empty_like(inner)
        library.mask_backward(
            _pointer(d_masked), _pointer(inner), _pointer(ci), *_source_arguments(given, ctx.key),
            _pointer(d_inner), _pointer(d_ci), ctypes.c_long(inner.numel()),
        )  # fmt: skip
        return d_inner, d_ci, None


def _numbers(like: Tensor, given: Sequence[Tensor], key: int | None) -> Tensor:
    if given:
        return given[0]
    assert key is not None
    return source_numbers(like, key)


def _source_arguments(given: Sequence[Tensor], key: int | None) -> tuple[Any, ...]:
    if given:
        return (_pointer(given[0]), *_halves(0))
    assert key is not None
    return (None, *_halves(key))


def masked_inner(
    inner: Float[Tensor, "K C N"], ci: Float[Tensor, "K C N"], source: Source
) -> Float[Tensor, "K C N"]:
    """Inner activations under the stochastic mask ``ci + (1 - ci) * u``.

    ``source``: the uniform numbers u ``[K, C, N]``, or a key that stands for them.
    """
    return _Mask.apply(inner, ci, source)  # pyright: ignore[reportReturnType]
