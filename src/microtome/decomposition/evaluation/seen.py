"""One batch of an evaluation, as every metric reads it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.core.distributed import Processes
from microtome.decomposition.apd_config import APDConfig
from microtome.decomposition.apd_plain import attributions
from microtome.decomposition.attribution.topk import exact_counts, topk_mask
from microtome.decomposition.full_spd import evaluation_step
from microtome.decomposition.masks import Draws
from microtome.decomposition.result import Decomposition
from microtome.decomposition.step import Step

ALL_SITES = "all sites"


@dataclass(frozen=True)
class Seen:
    """A batch with the target's pass and what matters for each input, made once for all metrics.

    ``rank``: consecutive entries of the step's masks that are one component (APD's; 1 for SPD).
    ``spanning``: a component has a part at every site.
    """

    step: Step
    labels: Int[Tensor, "K *B"] | None = None
    rank: int = 1
    spanning: bool = False

    def lower(self) -> dict[str, Float[Tensor, "K N C"]]:
        """Lower-leaky causal importances by site; rows, positions and calls flattened into one axis.

        APD's components span all sites: 1 where one is among the top-k, else 0.
        """
        if self.spanning:
            calls = next(iter(self.step.lower.values()))
            return {ALL_SITES: _rows(calls)[..., :: self.rank]}
        return {name: _rows(calls) for name, calls in self.step.lower.items()}


def see(d: Decomposition, x: Tensor, labels: Tensor | None, draws: Draws) -> Seen:
    """The target's pass and the causal importances of a batch; for APD the top-k components instead."""
    if d.method == "spd":
        return Seen(evaluation_step(d, x, draws), labels)
    return _see_apd(d, x, labels, draws)


def _see_apd(d: Decomposition, x: Tensor, labels: Tensor | None, draws: Draws) -> Seen:
    """APD's components of rank m as m subcomponents that are on and off together."""
    config = d.config
    assert isinstance(config, APDConfig)
    rank = next(iter(d.factors.values()))[0].shape[-1]
    with torch.no_grad():
        output, inputs = d.masked_network.record(x)
        if config.topk is None:
            c = next(iter(d.factors.values()))[0].shape[1]
            chosen = x.new_ones(*x.shape[:2], c)
        else:
            scores = attributions(d.target, d.factors, x, config)
            counts = exact_counts(x) if config.exact_topk else None
            chosen = topk_mask(scores, config.topk, config.batch_topk, config.distil_from_target, counts)
        lower = {name: [chosen.to(x.dtype).repeat_interleave(rank, -1)] for name in d.sites}
        factors = {
            name: (left.transpose(1, 2).flatten(2), right.flatten(1, 2))
            for name, (left, right) in d.factors.items()
        }
    step = Step(
        network=d.masked_network,
        x=x,
        output=output,
        inputs=inputs,
        factors=factors,
        lower=lower,
        upper=lower,
        gate=lower,
        number=config.steps,
        fraction=1.0,
        output_loss_type="mse",
        use_delta=False,
        sampling="continuous",
        draws=draws,
        processes=Processes(),
        rows=slice(0, x.shape[1]),
        n_rows=x.shape[1],
    )
    return Seen(step, labels, rank, spanning=True)


def _rows(calls: Sequence[Tensor]) -> Tensor:
    flat = [call.flatten(1, -2) for call in calls]
    return flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)
