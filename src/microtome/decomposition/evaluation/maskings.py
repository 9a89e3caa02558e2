"""The kinds of masks that a decomposition's output is measured under.

They differ in what they leave out: a sound decomposition loses nothing by what it calls unimportant.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from microtome.decomposition.mask_makers import stochastic_masks
from microtome.decomposition.site_masks import Masks, SiteMask
from microtome.decomposition.step import Step

# Name -> what it is, in the words of reports.
MASKINGS = {
    "target": "the target itself",
    "unmasked": "all components on",
    "ci": "causal importances as masks",
    "rounded": "causal importances rounded to on and off",
    "stochastic": "masks drawn between the causal importance and 1",
    "random": "masks drawn between 0 and 1",
    "other_inputs": "causal importances of another input",
    "ablated": "all components off",
}
Weights = Callable[[Tensor], Tensor]


def masks(step: Step, weights: Weights) -> Masks:
    """Every call of every site masked by ``weights`` of its (lower-leaky) causal importances."""
    return {name: [SiteMask(weights(ci)) for ci in calls] for name, calls in step.lower.items()}


def unmasked(step: Step) -> Masks:
    """All components on."""
    return masks(step, torch.ones_like)


def by_importance(step: Step) -> Masks:
    """Causal importances as masks."""
    return masks(step, lambda ci: ci)


def rounded(step: Step, threshold: float) -> Masks:
    """1 where the causal importance is above ``threshold``, else 0."""
    return masks(step, lambda ci: (ci > threshold).to(ci.dtype))


def stochastic(step: Step) -> Masks:
    """Masks between the causal importance and 1, as in training, delta component included."""
    return stochastic_masks(step, dict.fromkeys(step.network.sites))


def random(step: Step) -> Masks:
    """Masks uniform in [0, 1), whatever the causal importance."""
    return masks(step, lambda ci: step.uniform(ci.shape))


def other_inputs(step: Step) -> Masks:
    """Each row's masks are the causal importances of the row before it; positions stay in place."""
    return masks(step, lambda ci: ci.roll(1, dims=1))


def ablated(step: Step) -> Masks:
    """All components off; biases stay."""
    return masks(step, torch.zeros_like)
