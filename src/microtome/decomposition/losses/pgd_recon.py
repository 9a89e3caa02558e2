"""Reconstruction under the worst masks that sign ascent finds for this very batch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.adversary.ascent import ascend_over
from microtome.decomposition.adversary.attack import Errors, attack_on
from microtome.decomposition.adversary.parts import Parts
from microtome.decomposition.adversary.sources import Sources, fresh_sources, masks_of
from microtome.decomposition.loss_configs import PGDRecon
from microtome.decomposition.masks import Draws
from microtome.decomposition.routing import Routes, route
from microtome.decomposition.step import Step


def pgd_recon(
    step: Step, config: PGDRecon, state: dict[str, Any] | None = None
) -> Iterator[Float[Tensor, " K"]]:
    """``max_r D(f(masks g + (1 - g) r), f)`` over sources r in [0, 1], as far as ``n_steps`` steps of
    ``step_size`` up the gradient's sign get; the worst met counts, the start included.

    The ascent sees causal importances and subcomponents as numbers; the loss at its end has gradients to
    both, and none to the sources. Layerwise and over subsets, the masked sites alone have an adversary.
    Sources shared across the batch are shared by all processes and micro-batches. A part for every pass;
    zero before ``start_frac`` of the training.
    Source: the later SPD code's PGD losses.
    """
    del state
    if step.fraction < config.start_frac:
        yield step.zeros()
        return
    parts = Parts(step)
    for number, one in enumerate(_passes(step, config)):
        sources = _worst_sources(parts, config, number, one)
        yield one.share * step.recon(masks_of(step, sources, one.routes))


@dataclass(frozen=True)
class _Pass:
    share: float
    routes: Routes
    key: int
    """Stands for the sources that the ascent begins from."""


def _passes(step: Step, config: PGDRecon) -> list[_Pass]:
    """The passes of the loss, with all that they draw."""
    found = route(step, config.sites, config.routing)
    return [_Pass(share, routes, step.draws.key()) for share, routes in found]


def _worst_sources(parts: Parts, config: PGDRecon, number: int, one: _Pass) -> Sources:
    """The worst sources of a pass; shared ones of a batch that is cut are found once for all its parts."""
    step, shared = parts.step, config.mask_scope == "shared_across_batch"
    kept, key = step.whole_batch.kept, (f"pgd_recon.{number}", parts.drawn)
    together = shared and len(parts) > 1
    if together and key in kept:
        return kept[key]
    sources, _ = ascend_over(
        _Attacks(parts, config, number) if together else [attack_on(step, one.routes)],
        fresh_sources(step, list(one.routes), config.init, config.mask_scope, Draws(one.key)),
        config.step_size,
        config.n_steps,
        shared=shared,
        processes=step.processes,
    )
    if together:
        kept[key] = sources
    return sources


class _Attacks(Iterable[Errors]):
    """The attacks on all parts of a batch, one at a time."""

    def __init__(self, parts: Parts, config: PGDRecon, number: int) -> None:
        self.parts, self.config, self.number = parts, config, number

    def __iter__(self) -> Iterator[Errors]:
        for part in self.parts:
            yield attack_on(part, _passes(part, self.config)[self.number].routes)
