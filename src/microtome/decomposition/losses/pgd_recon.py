"""Reconstruction under the worst masks that sign ascent finds for this very batch."""

from collections.abc import Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.adversary.ascent import ascend
from microtome.decomposition.adversary.attack import attack_on
from microtome.decomposition.adversary.sources import fresh_sources, masks_of
from microtome.decomposition.loss_configs import PGDRecon
from microtome.decomposition.routing import route
from microtome.decomposition.step import Step


def pgd_recon(
    step: Step, config: PGDRecon, state: dict[str, Any] | None = None
) -> Iterator[Float[Tensor, " K"]]:
    """``max_r D(f(masks g + (1 - g) r), f)`` over sources r in [0, 1], as far as ``n_steps`` steps of
    ``step_size`` up the gradient's sign get; the worst met counts, the start included.

    The ascent sees causal importances and subcomponents as numbers; the loss at its end has gradients to
    both, and none to the sources. Layerwise and over subsets, the masked sites alone have an adversary.
    Sources shared across the batch are shared by all processes. Source: the later SPD code's PGD losses.
    """
    del state
    shared = config.mask_scope == "shared_across_batch"
    for share, routes in route(step, config.sites, config.routing):
        start = fresh_sources(step, list(routes), config.init, config.mask_scope)
        sources = ascend(
            attack_on(step, routes),
            start,
            config.step_size,
            config.n_steps,
            shared=shared,
            processes=step.processes,
        )
        yield share * step.recon(masks_of(step, sources, routes))
