"""KL divergence over large vocabularies: a few rows at a time, the gradient made along with the value.

Logits of language models are the largest tensors there are. The plain formula keeps five more of their size
until the backward pass; this keeps one, the gradient.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# Elements of a part: about what a cache holds, and a small part of a GPU's memory.
_PART = {"cpu": 1 << 17}
_ELSEWHERE = 1 << 26


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, target: Tensor) -> Tensor:
        rows, wanted = output.reshape(-1, output.shape[-1]), target.reshape(-1, target.shape[-1])
        kind = torch.promote_types(torch.promote_types(output.dtype, target.dtype), torch.float32)
        value = torch.empty(len(rows), dtype=kind, device=rows.device)
        grad = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        step = max(1, _PART.get(rows.device.type, _ELSEWHERE) // max(1, rows.shape[1]))
        for at in range(0, len(rows), step):
            part = slice(at, at + step)
            log_q, log_p = (logits[part].to(kind).log_softmax(-1) for logits in (rows, wanted))
            p = log_p.exp()
            torch.sum(log_p.sub_(log_q).mul_(p), dim=-1, out=value[part])
            if grad is not None:
                grad[part] = log_q.exp_().sub_(p)
        if grad is not None:
            ctx.save_for_backward(grad)
        ctx.shape = output.shape
        return value.reshape(output.shape[:-1])

    @staticmethod
    def backward(ctx: Any, d_value: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = ctx.saved_tensors
        # In place: a second backward pass over the same graph is refused by autograd, and never wrong.
        return grad.mul_(d_value.reshape(-1, 1)).reshape(ctx.shape), None


def kl_divergence(output: Float[Tensor, "*B V"], target: Float[Tensor, "*B V"]) -> Float[Tensor, "*B"]:
    """``KL(softmax(target) || softmax(output))`` of every position, in nats; gradients reach ``output`` only.

    The graph can be gone through once.
    """
    return _Divergence.apply(output, target.detach())  # pyright: ignore[reportReturnType]
