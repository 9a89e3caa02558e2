"""A site that multiplies its active (sample, component) pairs only; backward adds to given buffers."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.pairs import Pairs


class _MaskedSite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, pairs: Pairs, a_t: Tensor, b: Tensor, grad_a_t: Tensor, grad_b: Tensor
    ) -> Tensor:
        flat = pairs.k * pairs.c
        a_t, b = a_t.detach().view(flat, *a_t.shape[2:]), b.detach().view(flat, *b.shape[2:])
        rows = pairs.gather(values)
        inner = torch.bmm(rows, a_t.transpose(1, 2))
        ctx.save_for_backward(rows, inner, a_t, b)
        ctx.pairs, ctx.buffers = pairs, (grad_a_t, grad_b)
        return pairs.scatter(torch.bmm(inner, b))

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        rows, inner, a_t, b = ctx.saved_tensors
        grad_a_t, grad_b = (buffer.view(-1, *buffer.shape[2:]) for buffer in ctx.buffers)
        grad_out = ctx.pairs.gather(outputs[0])
        grad_inner = torch.bmm(grad_out, b.transpose(1, 2))
        grad_b.baddbmm_(inner.transpose(1, 2), grad_out)
        grad_a_t.baddbmm_(grad_inner.transpose(1, 2), rows)
        grad_in = ctx.pairs.scatter(torch.bmm(grad_inner, a_t)) if ctx.needs_input_grad[0] else None
        return grad_in, None, None, None, None, None


def masked_site(
    values: Float[Tensor, "K N d_in"],
    pairs: Pairs,
    a_t: Float[Tensor, "K C m d_in"],
    b: Float[Tensor, "K C m d_out"],
    grad_a_t: Float[Tensor, "K C m d_in"],
    grad_b: Float[Tensor, "K C m d_out"],
) -> Float[Tensor, "K N d_out"]:
    """``sum_{c on} values A_c B_c``; backward adds the gradients by A^T and B to the two buffers."""
    return _MaskedSite.apply(values, pairs, a_t, b, grad_a_t, grad_b)  # pyright: ignore[reportReturnType]
