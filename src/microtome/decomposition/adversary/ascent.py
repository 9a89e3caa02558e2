"""Projected sign ascent: sources under which the reconstruction is worst.

Source: Madry et al. 2018 (projected gradient descent), as parameter decomposition's later code uses it.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.distributed import Processes, all_reduce_sum
from microtome.decomposition.adversary.attack import Errors
from microtome.decomposition.adversary.sources import Sources, changed, flat, like


def ascend(
    errors: Errors,
    start: Sources,
    step_size: float,
    n_steps: int,
    *,
    shared: bool,
    processes: Processes | None = None,
) -> Sources:
    """``ascend_over`` one batch: the worst sources alone."""
    return ascend_over([errors], start, step_size, n_steps, shared=shared, processes=processes)[0]


def ascend_over(
    batches: Iterable[Errors],
    start: Sources,
    step_size: float,
    n_steps: int,
    *,
    shared: bool,
    processes: Processes | None = None,
) -> tuple[Sources, Float[Tensor, "K B_or_1"]]:
    """The worst sources met on ``n_steps`` steps of ``step_size`` up the gradient's sign, clipped to [0, 1].

    ``shared``: one source serves every row of all ``batches`` (gone through once a step) and ``processes``:
    gradients are summed over them, and the worst sources of an instance are those with the largest summed
    error. Otherwise there is one batch whose rows have sources of their own, and the worst are chosen row by
    row. The start counts among those met, so no answer is milder than the start.

    Returns the sources and the errors they reached: summed, or by row. Only sources get gradients: what
    ``batches`` holds besides should need none.
    """
    processes = processes if processes is not None and shared else Processes()
    sources = best = changed(start, torch.Tensor.detach)
    worst: Tensor | None = None
    for number in range(n_steps + 1):
        climbing = number < n_steps
        reached, grads = _measured(batches, sources, shared=shared, climbing=climbing)
        reached = all_reduce_sum(reached, processes)
        best, worst = _worse(best, worst, sources, reached)
        if climbing:
            moved = [
                torch.add(source, all_reduce_sum(grad, processes).sign_(), alpha=step_size).clamp_(0, 1)
                for source, grad in zip(flat(sources), grads, strict=True)
            ]
            sources = like(sources, moved)
    assert worst is not None
    return best, worst


def _measured(
    batches: Iterable[Errors], sources: Sources, *, shared: bool, climbing: bool
) -> tuple[Tensor, list[Tensor]]:
    """Errors under ``sources``, summed over the batches, and (climbing) their gradient."""
    leaves = changed(sources, lambda s: s.detach().requires_grad_(climbing))
    reached: Tensor | None = None
    grads: list[Tensor] = []
    for errors in batches:
        with torch.set_grad_enabled(climbing):
            each = errors(leaves)
            if climbing:
                found = torch.autograd.grad(each.sum(), flat(leaves))
                grads = [a + b for a, b in zip(grads, found, strict=True)] if grads else list(found)
        mine = each.detach().sum(1, keepdim=True) if shared else each.detach()
        assert reached is None or shared, "rows with sources of their own make one batch"
        reached = mine if reached is None else reached + mine
    assert reached is not None, "no batch to ascend on"
    return reached, grads


def _worse(best: Sources, worst: Tensor | None, now: Sources, reached: Tensor) -> tuple[Sources, Tensor]:
    """What has the larger error, the best so far or the present: by instance or by row."""
    if worst is None:
        return now, reached
    better = reached > worst

    def choose(old: Tensor, new: Tensor) -> Tensor:
        return torch.where(better.reshape(*better.shape, *[1] * (new.ndim - 2)), new, old)

    chosen = [choose(*pair) for pair in zip(flat(best), flat(now), strict=True)]
    return like(best, chosen), torch.where(better, reached, worst)
