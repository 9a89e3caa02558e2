"""What an adversary attacks: the reconstruction error of every row, with everything but its sources fixed."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.adversary.ascent import Errors
from microtome.decomposition.adversary.sources import Sources, masks_of
from microtome.decomposition.losses.reconstruction import reconstruction_loss
from microtome.decomposition.routing import Routes
from microtome.decomposition.step import Calls, Step


def row_errors(step: Step, output: Tensor) -> Float[Tensor, "K B"]:
    """``step.distance`` before its mean over rows."""
    k, b = output.shape[:2]
    found, wanted = (t.reshape(k * b, 1, *t.shape[2:]) for t in (output, step.output))
    weight = torch.ones(k * b, 1, dtype=torch.float32, device=output.device)
    return reconstruction_loss(found, wanted, weight, 1, step.output_loss_type).reshape(k, b)


def without_gradients(step: Step) -> Step:
    """The step as an ascent sees it: factors and causal importances are numbers, not to be trained."""

    def cut(calls: Calls) -> Calls:
        return {site: [call.detach() for call in each] for site, each in calls.items()}

    factors = {site: (v.detach(), u.detach()) for site, (v, u) in step.factors.items()}
    return replace(step, factors=factors, inner=cut(step.inner), lower=cut(step.lower))


def attack_on(step: Step, routes: Routes) -> Errors:
    """Sources to the errors of the step's rows, with gradients to the sources alone."""
    fixed = without_gradients(step)

    def errors(sources: Sources) -> Float[Tensor, "K B"]:
        return row_errors(fixed, fixed.network.run(fixed.x, fixed.factors, masks_of(fixed, sources, routes)))

    return errors
