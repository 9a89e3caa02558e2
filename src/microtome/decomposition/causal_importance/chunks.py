"""Running a function a few rows at a time, so that its hidden layer never exists as a whole."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Elements of the hidden layer. On a CPU about what a cache holds, and with gradients what a graph may keep;
# on other devices a small part of their memory.
WITHOUT_GRADIENTS = {"cpu": 1 << 20}
WITH_GRADIENTS = {"cpu": 1 << 24}
ELSEWHERE = 1 << 26


def by_rows(function: Callable[[Tensor], Tensor], x: Tensor, dim: int, hidden: int) -> Tensor:
    """``function(x)``, computed along ``dim`` (of ``x`` and of the result) in parts.

    ``hidden``: elements of the largest intermediate result for one row. With gradients, what is more than a
    graph may keep is computed again in the backward pass.
    """
    graph = torch.is_grad_enabled()
    budget = (WITH_GRADIENTS if graph else WITHOUT_GRADIENTS).get(x.device.type, ELSEWHERE)
    if x.shape[dim] * hidden <= budget:
        return function(x)
    parts = x.split(max(1, budget // max(1, hidden)), dim)
    if graph:
        done = [checkpoint(function, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
        return torch.cat(done, dim)  # pyright: ignore[reportArgumentType]
    return torch.cat([function(part) for part in parts], dim)
