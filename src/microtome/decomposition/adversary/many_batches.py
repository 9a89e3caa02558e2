"""One adversary for many batches: how bad masks can be that know the data, and no single input."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.distributed import all_reduce_sum
from microtome.decomposition.adversary.ascent import ascend_over
from microtome.decomposition.adversary.attack import Errors, attack_on
from microtome.decomposition.adversary.sources import Init, fresh_sources
from microtome.decomposition.loss_configs import SitesMasked, StaticProbability, UniformKSubset
from microtome.decomposition.masks import Draws
from microtome.decomposition.routing import Routes, route
from microtome.decomposition.step import Step


@torch.no_grad()
def pgd_over_batches(
    batches: Iterable[Step],
    *,
    sites: SitesMasked = "all",
    routing: UniformKSubset | StaticProbability | None = None,
    init: Init = "random",
    step_size: float = 0.1,
    n_steps: int = 20,
) -> Float[Tensor, " K"]:
    """Mean reconstruction error under the worst sources that all rows of all ``batches`` share.

    Each step of the ascent adds up the gradients of every batch, gone through again for it: a list of
    steps is held in memory, an object that makes them anew keeps one at a time. What a batch draws (subsets)
    is the same every time. Processes, where there are several, bring batches of their own, as many each.
    Source: PGDMultiBatchReconLoss of the later SPD code. There is at least one batch.
    """
    first = next(iter(batches))
    total = torch.zeros(first.n_instances, device=first.x.device)
    for number, (share, routes) in enumerate(_passes(first, sites, routing)):
        attacks = _Attacks(batches, lambda step, number=number: _passes(step, sites, routing)[number][1])
        start = fresh_sources(first, list(routes), init, "shared_across_batch", Draws(first.draws.seed))
        _, worst = ascend_over(attacks, start, step_size, n_steps, shared=True, processes=first.processes)
        rows = all_reduce_sum(torch.tensor(float(attacks.rows), device=total.device), first.processes)
        total = total + share * worst.squeeze(1) / rows
    return total


def _passes(
    step: Step, sites: SitesMasked, routing: UniformKSubset | StaticProbability | None
) -> list[tuple[float, Routes]]:
    again = replace(step, draws=Draws(step.draws.seed))
    return list(route(again, sites, routing))


class _Attacks(Iterable[Errors]):
    """The attacks on all batches, one at a time, and how many rows they have."""

    def __init__(self, batches: Iterable[Step], routes: Callable[[Step], Routes]) -> None:
        self.batches, self.routes, self.rows = batches, routes, 0

    def __iter__(self) -> Iterator[Errors]:
        self.rows = 0
        for step in self.batches:
            self.rows += step.x.shape[1]
            yield attack_on(step, self.routes(step))
