"""Gradients of many values at once, in as few backward passes as memory allows."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

MOST_VALUES = 2**26  # numbers in the gradients of one backward pass: 256 MB in fp32


def component_gradients(
    outputs: Sequence[Tensor], components: Sequence[int], inputs: Sequence[Tensor], at_once: int
) -> Iterator[tuple[list[int], list[Tensor | None]]]:
    """Gradients of ``outputs [..., C]`` summed over all but their last axis, a few components at a time.

    Yields those components and the gradients ``[G, *input.shape]``.
    """
    depends = [one for one in outputs if one.requires_grad]
    if not depends or not inputs:
        return
    values = sum(one.numel() for one in inputs)
    size = max(1, min(at_once, MOST_VALUES // max(values, 1)))
    width = depends[0].shape[-1]
    for start in range(0, len(components), size):
        some = list(components[start : start + size])
        one_hot = torch.zeros(len(some), width, device=depends[0].device, dtype=depends[0].dtype)
        one_hot[torch.arange(len(some)), some] = 1.0
        weights = [
            one_hot.reshape(len(some), *[1] * (one.ndim - 1), width).expand(len(some), *one.shape)
            for one in depends
        ]
        yield (
            some,
            list(
                torch.autograd.grad(
                    depends, inputs, weights, retain_graph=True, allow_unused=True, is_grads_batched=True
                )
            ),
        )
