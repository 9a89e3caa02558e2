"""Stochastic masks as one differentiable operation, their random numbers drawn again in the backward pass.

Equal to the plain formulation in ``masks.py`` in value and in every gradient. In single precision on a CPU it
runs in C, elsewhere in PyTorch.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.kernels.single_precision import pointer, single_precision_library

Source = Tensor | int


def source_numbers(like: Tensor, key: int) -> Tensor:
    """The uniform numbers in [0, 1) that ``key`` stands for, in the shape of ``like``."""
    library = single_precision_library("masks", like)
    if library is None:
        draws = torch.Generator(like.device).manual_seed(key)
        return torch.rand(like.shape, generator=draws, dtype=like.dtype, device=like.device)
    out = torch.empty(like.shape)
    library.uniform_fill(pointer(out), ctypes.c_long(out.numel()), *_halves(key))
    return out


def _halves(key: int) -> tuple[ctypes.c_uint, ctypes.c_uint]:
    return ctypes.c_uint(key & 0xFFFFFFFF), ctypes.c_uint(key >> 32)


class _Mask(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inner: Tensor, ci: Tensor, source: Source, delta: Tensor | None, binary: bool
    ) -> Tensor:
        inner, ci = inner.contiguous(), ci.contiguous()
        ctx.key = source if isinstance(source, int) else None
        ctx.binary = binary
        given = () if isinstance(source, int) else (source.contiguous(),)
        delta = None if delta is None else delta.contiguous()
        ctx.save_for_backward(inner, ci, delta, *given)
        library = single_precision_library("masks", inner)
        if library is None:
            return inner * _mask(ci, _numbers(inner, given, ctx.key, binary), delta)
        masked = torch.empty_like(inner)
        library.mask_forward(
            pointer(inner), pointer(ci), *_arguments(inner, given, ctx.key, delta, binary), pointer(masked)
        )
        return masked

    @staticmethod
    def backward(ctx: Any, d_masked: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inner, ci, delta, *given = ctx.saved_tensors
        d_masked = d_masked.contiguous()
        library = single_precision_library("masks", inner)
        if library is None:
            numbers = _numbers(inner, given, ctx.key, ctx.binary)
            d_inner, d_ci = d_masked * _mask(ci, numbers, delta), d_masked * inner * (1 - numbers)
        else:
            d_inner, d_ci = torch.empty_like(inner), torch.empty_like(inner)
            library.mask_backward(
                pointer(d_masked), pointer(inner), pointer(ci),
                *_arguments(inner, given, ctx.key, delta, ctx.binary), pointer(d_inner), pointer(d_ci),
            )  # fmt: skip
        return d_inner, d_ci, None, None, None


def _mask(ci: Tensor, numbers: Tensor, delta: Tensor | None) -> Tensor:
    mask = torch.lerp(numbers, torch.ones_like(numbers), ci)
    return mask if delta is None else mask - delta.unsqueeze(1)


def _numbers(like: Tensor, given: Sequence[Tensor], key: int | None, binary: bool) -> Tensor:
    if given:
        numbers = given[0]
    else:
        assert key is not None
        numbers = source_numbers(like, key)
    return (numbers < 0.5).to(like.dtype) if binary else numbers


def _arguments(
    inner: Tensor, given: Sequence[Tensor], key: int | None, delta: Tensor | None, binary: bool
) -> tuple[Any, ...]:
    assert given or key is not None
    source = (pointer(given[0]), *_halves(0)) if given else (None, *_halves(key or 0))
    sizes = (ctypes.c_long(size) for size in inner.shape)
    return *source, None if delta is None else pointer(delta), ctypes.c_int(binary), *sizes


def masked_inner(
    inner: Float[Tensor, "K C N"],
    ci: Float[Tensor, "K C N"],
    source: Source,
    delta: Float[Tensor, "K N"] | None = None,
    binary: bool = False,
) -> Float[Tensor, "K C N"]:
    """Inner activations under the stochastic mask ``ci + (1 - ci) * u``, less ``delta`` where there is one.

    ``source``: the uniform numbers u ``[K, C, N]``, or a key that stands for them; ``binary`` makes them 1
    below one half and else 0 (binomial sampling). ``delta``: the weight r of what the components leave out of
    the target's own: ``(m - r) h U + r x W`` is ``m h U + r x (W - V U)``.
    """
    return _Mask.apply(inner, ci, source, delta, binary)  # pyright: ignore[reportReturnType]
