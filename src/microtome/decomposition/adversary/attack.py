"""What an adversary attacks: the reconstruction error of every row, with everything but its sources fixed."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.adversary.sources import Sources, masks_of
from microtome.decomposition.losses.reconstruction import reconstruction_loss
from microtome.decomposition.routing import Routes
from microtome.decomposition.site_masks import MaskedSites, Masks, SiteMask, masked_output
from microtome.decomposition.step import Calls, Step

# Sources -> the error of each row of one batch, [K, B].
Errors = Callable[[Sources], Float[Tensor, "K B"]]


def row_errors(step: Step, output: Tensor) -> Float[Tensor, "K B"]:
    """``step.distance`` before its mean over rows."""
    k, b = output.shape[:2]
    found, wanted = (t.reshape(k * b, 1, *t.shape[2:]) for t in (output, step.output))
    weight = torch.ones(
        k * b, 1, dtype=torch.promote_types(output.dtype, torch.float32), device=output.device
    )
    return reconstruction_loss(found, wanted, weight, 1, step.output_loss_type).reshape(k, b)


def attack_on(step: Step, routes: Routes) -> Errors:
    """Sources to the errors of the step's rows, with gradients to the sources alone."""
    fixed = FixedStep(step)
    return lambda sources: fixed.errors(masks_of(fixed.step, sources, routes))


class FixedStep:
    """A step as an ascent sees it: subcomponents and causal importances are numbers, not to be trained.

    Where a site reads what the target's own activations are (nothing before it is masked), its inner
    activations are the step's, computed once for all ascents.
    """

    def __init__(self, step: Step) -> None:
        def cut(calls: Calls) -> Calls:
            return {site: [call.detach() for call in each] for site, each in calls.items()}

        factors = {site: (v.detach(), u.detach()) for site, (v, u) in step.factors.items()}
        self.step = replace(step, factors=factors, lower=cut(step.lower))
        self.inner = step.inner
        self.untouched: set[tuple[str, int]] = set()

    def errors(self, masks: Masks) -> Float[Tensor, "K B"]:
        """The error of each row under ``masks``."""
        step = self.step
        sites = _Untouched(self, masks)
        return row_errors(step, step.network.target(step.x, sites))


class _Untouched(MaskedSites):
    """One pass, noting which calls of sites the target's own activations reach."""

    def __init__(self, fixed: FixedStep, masks: Masks) -> None:
        super().__init__(fixed.step.network.all_sites, fixed.step.factors, masks)
        self.fixed = fixed
        # While all masks so far have gradients, whatever they changed has them too, and nothing else has.
        self.tells = True

    def masked(self, name: str, call: int, x: Tensor, mask: SiteMask) -> Tensor:
        if self.tells and not x.requires_grad:
            self.fixed.untouched.add((name, call))
        untouched = (name, call) in self.fixed.untouched
        self.tells = self.tells and torch.is_grad_enabled() and mask.requires_grad
        inner = self.fixed.inner[name][call] if untouched else None
        return masked_output(self.sites[name], x, self.factors[name], mask, inner)
