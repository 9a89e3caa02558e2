"""Inner activations under a drawn mask, the subcomponents innermost, in one pass over memory each way."""

import ctypes
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from microtome.decomposition.kernels.single_precision import pointer, single_precision_library


class _Drawn(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inner: Tensor, lower: Tensor, source: Tensor, delta: Tensor | None, route: Tensor | None
    ) -> Tensor:
        tensors = [None if t is None else t.contiguous() for t in (inner, lower, source, delta, route)]
        ctx.save_for_backward(*tensors)
        out = torch.empty_like(tensors[0])  # pyright: ignore[reportArgumentType, reportCallIssue]
        library = single_precision_library("positions", out)
        assert library is not None
        library.drawn_forward(*map(_pointer, tensors), *_sizes(inner), pointer(out))
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inner, lower, source, delta, route = ctx.saved_tensors
        d_out = d_out.contiguous()  # held until the kernel is done: a pointer keeps no copy alive
        wanted = ctx.needs_input_grad
        d_inner, d_lower = torch.empty_like(inner), torch.empty_like(lower)
        d_source = torch.empty_like(source) if wanted[2] else None
        d_delta = torch.empty_like(delta) if wanted[3] else None
        library = single_precision_library("positions", inner)
        assert library is not None
        library.drawn_backward(
            pointer(d_out), *map(_pointer, (inner, lower, source, delta, route)), *_sizes(inner),
            *map(_pointer, (d_inner, d_lower, d_source, d_delta)),
        )  # fmt: skip
        return d_inner, d_lower, d_source, d_delta, None


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p | None:
    return None if tensor is None else pointer(tensor)


def _sizes(inner: Tensor) -> tuple[ctypes.c_long, ctypes.c_long]:
    width = inner.shape[-1]
    return ctypes.c_long(inner.numel() // width), ctypes.c_long(width)


def can_fuse(
    inner: Tensor, lower: Tensor, source: Tensor, delta: Tensor | None, route: Tensor | None
) -> bool:
    """Whether the kernel takes these: single precision on a CPU, nothing to be broadcast."""
    positions = inner.shape[:-1]
    same = all(t.shape == inner.shape and t.dtype == inner.dtype for t in (lower, source))
    whole = all(t is None or t.shape == positions for t in (delta, route))
    numbers = delta is None or delta.dtype == inner.dtype
    return same and whole and numbers and single_precision_library("positions", inner) is not None


def drawn_inner(
    inner: Float[Tensor, "K *B C"],
    lower: Float[Tensor, "K *B C"],
    source: Float[Tensor, "K *B C"],
    delta: Float[Tensor, "K *B"] | None,
    route: Bool[Tensor, "K *B"] | None,
) -> Float[Tensor, "K *B C"]:
    """``inner * (lower + (1 - lower) source - delta)``, 0 where not routed. Where ``can_fuse`` says so."""
    return _Drawn.apply(inner, lower, source, delta, route)  # pyright: ignore[reportReturnType]
