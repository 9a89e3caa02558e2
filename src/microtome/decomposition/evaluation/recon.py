"""The output under each kind of mask, and what reaches each site on the way."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.evaluation import maskings
from microtome.decomposition.evaluation.output_errors import output_errors
from microtome.decomposition.evaluation.seen import Seen
from microtome.decomposition.evaluation.series import Series
from microtome.decomposition.losses.hidden_acts_recon import mean_square_error
from microtome.decomposition.site_masks import Masks
from microtome.decomposition.step import Step

MakeMasks = Callable[[Step], Masks]
# Of these what reaches the sites is measured too.
HIDDEN = ("ci", "stochastic")


class Recon:
    """``<measure>/<masking>`` of every batch: errors of the output, and of hidden activations where asked.

    A pass of the network a masking (and mask sample), read by all measures.
    """

    def __init__(
        self,
        wanted: Sequence[str] = tuple(maskings.MASKINGS),
        *,
        rounding_threshold: float = 0.5,
        n_mask_samples: int = 1,
        hidden: bool = True,
    ) -> None:
        self.hidden, self.n_mask_samples = hidden, n_mask_samples
        self.series: dict[str, Series] = {}
        makers: dict[str, MakeMasks] = {
            "unmasked": maskings.unmasked,
            "ci": maskings.by_importance,
            "rounded": partial(maskings.rounded, threshold=rounding_threshold),
            "stochastic": maskings.stochastic,
            "random": maskings.random,
            "other_inputs": maskings.other_inputs,
            "ablated": maskings.ablated,
        }
        self.makers = {name: make for name, make in makers.items() if name in wanted}

    @torch.no_grad()
    def update(self, seen: Seen) -> None:
        """One more batch."""
        step = seen.step
        if seen.labels is not None:
            own = output_errors(step.output, step.output, seen.labels, "mse")
            self._add("target", {name: value for name, value in own.items() if name != "mse"})
        for name, make in self.makers.items():
            if name == "other_inputs" and step.x.shape[1] < 2:  # every row would get its own
                continue
            n = self.n_mask_samples if name == "stochastic" else 1
            found = [self._under(seen, make(step), hidden=self.hidden and name in HIDDEN) for _ in range(n)]
            self._add(name, {key: torch.stack([one[key] for one in found]).mean(0) for key in found[0]})

    def _under(self, seen: Seen, masks: Masks, *, hidden: bool) -> dict[str, Tensor]:
        step = seen.step
        if not hidden:
            return under_masks(seen, masks)
        output, reached = step.network.run_recording(step.x, step.factors, masks)
        found = output_errors(output, step.output, seen.labels, step.output_loss_type)
        found["hidden_mse"] = mean_square_error(reached, step.inputs, step.zeros())
        return found | {f"hidden_error {site}": e for site, e in site_errors(reached, step.inputs).items()}

    def _add(self, masking: str, found: Mapping[str, Tensor]) -> None:
        for key, value in found.items():
            measure, _, site = key.partition(" ")
            name = f"{measure}/{masking}/{site}" if site else f"{measure}/{masking}"
            self.series.setdefault(name, Series()).add(value)


def under_masks(seen: Seen, masks: Masks) -> dict[str, Float[Tensor, " K"]]:
    """Errors of the output under ``masks``."""
    step = seen.step
    output = step.network.run(step.x, step.factors, masks)
    return output_errors(output, step.output, seen.labels, step.output_loss_type)


def site_errors(
    reached: Mapping[str, list[Tensor]], wanted: Mapping[str, list[Tensor]]
) -> dict[str, Float[Tensor, " K"]]:
    """By site ``|a' - a|^2 / |a|^2`` of what reaches it; sites that read tokens are left out."""
    found = {}
    for name, calls in wanted.items():
        if not calls[0].is_floating_point():
            continue
        pairs = list(zip(reached[name], calls, strict=True))
        error = torch.stack(
            [(own - theirs).flatten(1).double().square().sum(1) for own, theirs in pairs]
        ).sum(0)
        size = torch.stack([theirs.flatten(1).double().square().sum(1) for theirs in calls]).sum(0)
        found[name] = torch.where(size > 0, error / size, torch.zeros_like(error))
    return found
