"""One network a subcomponent on the site's input, its hidden layer never kept: in single precision on a CPU.

Equal to ``causal_importance/vector_mlp.py`` in value and in every gradient. Hidden activations
``[K, C, H, N]`` are made a few components at a time, so that they stay in the cache, and made again in the
backward pass.
"""

import ctypes
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.kernels.single_precision import pointer, single_precision_library

_CHUNK_ELEMENTS = 1 << 18


class _VectorGates(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor) -> Tensor:
        x = x.contiguous()
        weights = [w.contiguous() for w in (w_in, b_in, w_out, b_out)]
        ctx.save_for_backward(x, *weights)
        library = single_precision_library("gates", x)
        assert library is not None
        w_in, b_in, w_out, b_out = weights
        k, c, _, hidden = w_in.shape
        gate = x.new_empty(k, c, x.shape[2])
        for instance in range(k):
            for part in _parts(c, hidden, x.shape[2]):
                pre = _hidden(x[instance], w_in[instance, part], b_in[instance, part])
                library.hidden_forward(
                    *map(pointer, (pre, w_out[instance, part], b_out[instance, part])),
                    *_sizes(pre),
                    pointer(gate[instance, part]),
                )
        return gate

    @staticmethod
    def backward(ctx: Any, d_gate: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, w_in, b_in, w_out, b_out = ctx.saved_tensors
        d_gate = d_gate.contiguous()
        library = single_precision_library("gates", x)
        assert library is not None
        k, c, d, hidden = w_in.shape
        d_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        d_w_in, d_b_in, d_w_out, d_b_out = (torch.empty_like(t) for t in (w_in, b_in, w_out, b_out))
        for instance in range(k):
            for part in _parts(c, hidden, x.shape[2]):
                at = (instance, part)
                pre = _hidden(x[instance], w_in[at], b_in[at])
                library.hidden_backward(
                    *map(pointer, (pre, w_out[at], d_gate[at])),
                    *_sizes(pre),
                    *map(pointer, (d_w_out[at], d_b_in[at], d_b_out[at])),
                )
                both = x[instance] @ pre.view(-1, x.shape[2]).mT
                d_w_in[at] = both.view(d, -1, hidden).transpose(0, 1)
                if d_x is not None:
                    d_x[instance].addmm_(_flat(w_in[at]), pre.view(-1, x.shape[2]))
        return d_x, d_w_in, d_b_in, d_w_out, d_b_out


def _parts(n_components: int, hidden: int, n: int) -> list[slice]:
    step = max(1, _CHUNK_ELEMENTS // (hidden * max(n, 1)))
    return [slice(at, min(at + step, n_components)) for at in range(0, n_components, step)]


def _flat(w_in: Float[Tensor, "c d H"]) -> Float[Tensor, "d cH"]:
    return w_in.transpose(0, 1).reshape(w_in.shape[1], -1)


def _hidden(
    x: Float[Tensor, "d N"], w_in: Float[Tensor, "c d H"], b_in: Float[Tensor, "c H"]
) -> Float[Tensor, "c H N"]:
    return torch.addmm(b_in.reshape(-1, 1), _flat(w_in).mT, x).view(*b_in.shape, -1)


def _sizes(pre: Tensor) -> tuple[ctypes.c_long, ...]:
    return tuple(ctypes.c_long(size) for size in pre.shape)


def fused_vector_gates(
    x: Float[Tensor, "K d_in N"],
    w_in: Float[Tensor, "K C d_in H"],
    b_in: Float[Tensor, "K C H"],
    w_out: Float[Tensor, "K C H"],
    b_out: Float[Tensor, "K C"],
) -> Float[Tensor, "K C N"]:
    """``g_c = w_out_c . gelu(x W_c + b_c) + b_out_c``. Only where ``can_fuse`` says so."""
    return _VectorGates.apply(x, w_in, b_in, w_out, b_out)  # pyright: ignore[reportReturnType]


def can_fuse(x: Tensor) -> bool:
    """Whether the kernels work on ``x`` here: single precision on a CPU, and no automatic casting."""
    return single_precision_library("gates", x) is not None and not torch.is_autocast_enabled("cpu")
