"""Which function computes which configured loss.

A loss is a generator of parts ``[K]`` that add up to it, each with a graph of its own: whoever trains runs
each part's backward pass before asking for the next, so that one pass' activations are all that is in
memory. It may be run without gradients. A part is a mean over the rows of its ``Step``; shares of the batch
are weighed by whoever cut it. A loss must not leave the grad mode changed at a ``yield``.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from microtome.decomposition import loss_configs as configs
from microtome.decomposition.losses.ci_masked_recon import ci_masked_recon
from microtome.decomposition.losses.faithfulness import faithfulness
from microtome.decomposition.losses.frequency import frequency
from microtome.decomposition.losses.hidden_acts_recon import hidden_acts_recon
from microtome.decomposition.losses.importance_minimality import importance_minimality
from microtome.decomposition.losses.schatten import schatten_of_step
from microtome.decomposition.losses.smooth_l0 import smooth_l0
from microtome.decomposition.losses.stochastic_recon import stochastic_recon
from microtome.decomposition.losses.unmasked_recon import unmasked_recon

if TYPE_CHECKING:
    from microtome.decomposition.step import Step

LossFunction = Callable[["Step", Any, "dict[str, Any] | None"], Iterator[Tensor]]

_FUNCTIONS: dict[type[configs.LossConfig], LossFunction] = {
    configs.Faithfulness: faithfulness,
    configs.ImportanceMinimality: importance_minimality,
    configs.SmoothL0: smooth_l0,
    configs.Frequency: frequency,
    configs.Schatten: schatten_of_step,
    configs.UnmaskedRecon: unmasked_recon,
    configs.CIMaskedRecon: ci_masked_recon,
    configs.StochasticRecon: stochastic_recon,
    configs.HiddenActsRecon: hidden_acts_recon,
}

_WITHOUT_BATCH = (configs.Faithfulness,)


def loss_function(config: configs.LossConfig) -> LossFunction:
    """The function ``(step, config, state) -> parts [K]`` of a configured loss.

    ``state``: a dictionary of tensors that lives from step to step and is saved with the run, for losses
    that remember (persistent adversaries); None where there is nothing to remember.
    """
    if isinstance(config, configs.PGDRecon):
        from microtome.decomposition.losses.pgd_recon import pgd_recon

        return pgd_recon
    if isinstance(config, configs.PersistentPGDRecon):
        from microtome.decomposition.losses.persistent_pgd_recon import persistent_pgd_recon

        return persistent_pgd_recon
    return _FUNCTIONS[type(config)]


def needs_batch(config: configs.LossConfig) -> bool:
    """Whether the loss depends on the inputs; if not, one micro-batch of a step is enough."""
    return not isinstance(config, _WITHOUT_BATCH)


def needs_whole_batch(config: configs.LossConfig) -> bool:
    """Whether the loss is no mean over rows, so that micro-batches need the whole batch's means first."""
    if isinstance(config, configs.Frequency):
        return True
    return isinstance(config, configs.ImportanceMinimality) and bool(config.beta)
