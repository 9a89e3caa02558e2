"""Reconstruction under adversarial masks that live on from step to step."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from microtome.decomposition.adversary.attack import FixedStep
from microtome.decomposition.adversary.parts import Parts
from microtome.decomposition.adversary.persistent import PersistentSources
from microtome.decomposition.adversary.sources import masks_of
from microtome.decomposition.adversary.witness import Noted, witnessed
from microtome.decomposition.loss_configs import PersistentPGDRecon
from microtome.decomposition.mask_makers import LazyMasks, stochastic_masks
from microtome.decomposition.routing import Routes, route
from microtome.decomposition.site_masks import Masks, SiteMask
from microtome.decomposition.step import Step

Gradients = dict[str, Tensor]


def persistent_pgd_recon(
    step: Step, config: PersistentPGDRecon, state: dict[str, Any] | None = None
) -> Iterator[Float[Tensor, " K"]]:
    """``D(f(masks g + (1 - g) r), f)`` with sources r that each step moves up the gradient once.

    ``n_warmup_steps`` ascents on the batch come before the loss; the one after it takes its gradient from
    the backward pass that the loss gets anyway. A row is adversarial with probability ``adv_fraction``: all
    its sites have the sources' masks; the other rows' masks are stochastic, routed as configured.

    ``state`` holds the sources and their optimiser, and is changed: a copy of it leaves it alone. Without
    one, fresh sources make their warm-up ascents and are forgotten. Before ``start_frac`` the loss is zero.
    Source: the later SPD code's persistent PGD losses, and the merged form of its successor.
    """
    if step.fraction < config.start_frac:
        yield step.zeros()
        return
    own: dict[str, Tensor] = {} if state is None else state
    parts = Parts(step)
    loss = _PersistentLoss(step, config, own)
    key = ("persistent_pgd_recon", parts.drawn)
    sums = step.whole_batch.kept.setdefault(key, _Sums())
    if sums.n_parts == 0:
        for _ in range(config.n_warmup_steps):
            loss.adversary.ascend(step, _measured(parts, loss, own))
    yield from loss.parts()
    if state is None:
        return
    sums.add(loss.gradients())
    if sums.n_parts == len(parts):
        del step.whole_batch.kept[key]
        loss.adversary.ascend(step, sums.gradients)
        loss.adversary.reset_some(step)


class _Sums:
    """The gradients of the micro-batches that are done."""

    def __init__(self) -> None:
        self.gradients: Gradients = {}
        self.n_parts = 0

    def add(self, more: Gradients) -> None:
        self.gradients = {n: self.gradients[n] + g for n, g in more.items()} if self.n_parts else dict(more)
        self.n_parts += 1


def _measured(parts: Parts, loss: "_PersistentLoss", state: dict[str, Tensor]) -> Gradients:
    """The gradient of the whole batch, by passes of its own."""
    if len(parts) == 1:
        return loss.measured()
    sums = _Sums()
    for part in parts:
        sums.add(_PersistentLoss(part, loss.config, state).measured())
    return sums.gradients


class _PersistentLoss:
    """The passes of one step: what is drawn stays drawn from the warm-up to the end."""

    def __init__(self, step: Step, config: PersistentPGDRecon, state: dict[str, Tensor]) -> None:
        self.step, self.config = step, config
        self.adversary = PersistentSources(step, config, state)
        self.rows: Bool[Tensor, "K B"] | None = None
        if config.adv_fraction < 1:
            self.rows = step.uniform(step.x.shape[:2]) < config.adv_fraction
        self.passes = list(route(step, config.sites, config.routing))
        self.noted: list[tuple[Noted, dict[str, Noted]]] = []

    def parts(self) -> Iterator[Float[Tensor, " K"]]:
        """The loss of every pass; where it is trained on, the sources' gradients are noted meanwhile."""
        for share, routes in self.passes:
            weight, by_name = Noted(), {name: Noted() for name in self._names(routes)}
            stored = {name: t.clone() for name, t in self.adversary.stored().items()}
            if torch.is_grad_enabled():
                for name, noted in by_name.items():
                    stored[name] = _watched(self.step, name, stored[name], noted)
            loss = share * self.step.recon(self._masks(stored, routes))
            self.noted.append((weight, by_name))
            yield witnessed(loss, loss, weight) if loss.requires_grad else loss

    def gradients(self) -> Gradients:
        """The loss' gradient to the stored sources: as noted, or measured where nobody asked for it."""
        total = self._nothing()
        for (share, routes), (weight, by_name) in zip(self.passes, self.noted, strict=True):
            known = {name: noted.gradient for name, noted in by_name.items() if noted.gradient is not None}
            if len(known) < len(by_name) or weight.gradient is None or (weight.gradient == 0).any():
                _add(total, self._measured_pass(share, routes))
                continue
            # Whoever trains weighs the loss, by instance; the adversary climbs the loss itself.
            factor = self.step.share / weight.gradient
            scaled = {n: g * factor.reshape(-1, *[1] * (g.ndim - 1)) for n, g in known.items()}
            _add(total, scaled)
        return total

    def measured(self) -> Gradients:
        """The same gradient by passes of its own: all else is fixed."""
        total = self._nothing()
        for share, routes in self.passes:
            _add(total, self._measured_pass(share, routes))
        return total

    @torch.enable_grad()
    def _measured_pass(self, share: float, routes: Routes) -> Gradients:
        fixed = FixedStep(self.step)
        stored = {n: t.detach().requires_grad_() for n, t in self.adversary.stored().items()}
        sources = self.adversary.sources(fixed.step, stored)
        # Stochastic rows say nothing about the sources: they may as well be run as adversarial ones.
        errors = fixed.errors(masks_of(fixed.step, sources, self._adversarial_routes(routes)))
        if self.rows is not None:
            errors = errors * self.rows
        names = self._names(routes)
        loss = share * self.step.share * errors.mean(1).sum()
        found = torch.autograd.grad(loss, [stored[name] for name in names])
        return dict(zip(names, found, strict=True))

    def _masks(self, stored: dict[str, Tensor], routes: Routes) -> Masks:
        adversarial = masks_of(
            self.step, self.adversary.sources(self.step, stored), self._adversarial_routes(routes)
        )
        if self.rows is None:
            return adversarial
        stochastic = stochastic_masks(self.step, routes)
        rows = self.rows

        def make(site: str, call: int) -> SiteMask:
            return _chosen(rows, adversarial[site][call], stochastic[site][call])

        return LazyMasks({site: len(self.step.lower[site]) for site in routes}, make)

    def _adversarial_routes(self, routes: Routes) -> Routes:
        return routes if self.rows is None else dict.fromkeys(routes)

    def _names(self, routes: Routes) -> list[str]:
        return [f"{site}.{call}" for site in routes for call in range(len(self.step.lower[site]))]

    def _nothing(self) -> Gradients:
        return {name: torch.zeros_like(source) for name, source in self.adversary.stored().items()}


def _watched(step: Step, name: str, source: Tensor, noted: Noted) -> Tensor:
    site, call = name.rsplit(".", 1)
    lower = step.lower[site][int(call)]
    return witnessed(source, lower, noted) if lower.requires_grad else source


def _chosen(rows: Bool[Tensor, "K B"], adversarial: SiteMask, stochastic: SiteMask) -> SiteMask:
    """The adversarial mask in ``rows``, the stochastic one in the others."""

    def where(own: Tensor, other: Tensor) -> Tensor:
        ndim = max(own.ndim, other.ndim)
        return torch.where(rows.reshape(*rows.shape, *[1] * (ndim - 2)), own, other)

    delta, route = None, None
    if adversarial.delta is not None and stochastic.delta is not None:
        delta = where(adversarial.delta, stochastic.delta)
    if stochastic.route is not None:
        route = where(torch.ones_like(stochastic.route), stochastic.route)
    return SiteMask(where(adversarial.components, stochastic.components), delta, route)


def _add(total: Gradients, more: Gradients) -> None:
    for name, gradient in more.items():
        total[name] += gradient
