"""Sources: the numbers in [0, 1] that an adversary chooses, and the masks they stand for.

A site's mask is ``g + (1 - g) r`` with g its causal importances and r the source, so that no source can take
away what is causally important. With the delta component a source has one more entry, which weighs it.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from microtome.decomposition.mask_makers import LazyMasks
from microtome.decomposition.masks import Draws
from microtome.decomposition.routing import Routes
from microtome.decomposition.site_masks import DrawnMask, Masks, SiteMask
from microtome.decomposition.step import Step

# By site, one for every call of it: [K, B or 1, positions or 1, C], or C + 1 with the delta component.
Sources = dict[str, list[Tensor]]
Init = Literal["random", "ones", "zeroes"]
MaskScope = Literal["unique_per_datapoint", "shared_across_batch"]


def entries(step: Step, site: str) -> int:
    """How many numbers a source of ``site`` has."""
    return step.lower[site][0].shape[-1] + int(step.use_delta)


def fresh_sources(
    step: Step, sites: Sequence[str], init: Init, scope: MaskScope, draws: Draws | None = None
) -> Sources:
    """Sources to begin an ascent from: uniform in [0, 1), all ones or all zeros.

    Random ones are the same however the batch is cut over processes and micro-batches. ``draws``: where
    they come from, the step's own by default.
    """
    draws = step.draws if draws is None else draws
    out: Sources = {}
    for site in sites:
        out[site] = []
        for lower in step.lower[site]:
            shape, rows = [*lower.shape[:-1], entries(step, site)], step.rows
            if scope == "shared_across_batch":
                shape[1:-1], rows = [1] * (lower.ndim - 2), slice(0, 1)
            if init == "random":
                out[site].append(draws.uniform(draws.key(), shape, rows, lower))
            else:
                fill = torch.ones if init == "ones" else torch.zeros
                out[site].append(fill(shape, dtype=lower.dtype, device=lower.device))
    return out


def masks_of(step: Step, sources: Sources, routes: Routes) -> Masks:
    """The masks that ``sources`` stand for, of the sites in ``routes`` and where they are routed."""

    def make(site: str, call: int) -> SiteMask:
        source, lower = sources[site][call], step.lower[site][call]
        delta = source[..., -1] if step.use_delta else None
        source = source[..., : lower.shape[-1]]
        return DrawnMask(lower, source, delta, routes[site])

    return LazyMasks({site: len(step.lower[site]) for site in routes}, make)


def flat(sources: Sources) -> list[Tensor]:
    """The sources one after another."""
    return [source for calls in sources.values() for source in calls]


def like(sources: Sources, tensors: Sequence[Tensor]) -> Sources:
    """``tensors`` in the order of ``flat``, by site and call."""
    rest = iter(tensors)
    return {site: [next(rest) for _ in calls] for site, calls in sources.items()}


def changed(sources: Sources, change: Callable[[Tensor], Tensor]) -> Sources:
    """Every source changed alike."""
    return {site: [change(source) for source in calls] for site, calls in sources.items()}
