"""Running a function a few rows at a time, so that its hidden layer never exists as a whole."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Elements of the hidden layer: about what a cache holds, and how much a graph may keep.
WITHOUT_GRADIENTS = 1 << 20
WITH_GRADIENTS = 1 << 24


def by_rows(function: Callable[[Tensor], Tensor], x: Tensor, dim: int, hidden: int) -> Tensor:
    """``function(x)``, computed along ``dim`` (of ``x`` and of the result) in parts.

    ``hidden``: elements of the largest intermediate result for one row. With gradients, what is beyond 16
    million elements is computed again in the backward pass.
    """
    graph = torch.is_grad_enabled()
    budget = WITH_GRADIENTS if graph else WITHOUT_GRADIENTS
    if x.shape[dim] * hidden <= budget:
        return function(x)
    parts = x.split(max(1, budget // max(1, hidden)), dim)
    if graph:
        done = [checkpoint(function, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
        return torch.cat(done, dim)  # pyright: ignore[reportArgumentType]
    return torch.cat([function(part) for part in parts], dim)
