"""What all losses of one step share: the target's pass, the subcomponents and their causal importances."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.distributed import Processes
from microtome.decomposition.losses.reconstruction import reconstruction_loss
from microtome.decomposition.masks import Draws
from microtome.decomposition.site_masks import MaskedNetwork, Masks
from microtome.decomposition.subcomponents import Factors
from microtome.targets.network import times

Calls = dict[str, list[Tensor]]
"""By site, an entry for every call."""


@dataclass
class Step:
    """One batch, or this process' and micro-batch's ``rows`` of one, on its way through every loss.

    ``output`` and ``inputs`` are the target's own, without gradients; ``gate`` (before the sigmoid),
    ``lower`` (causal importances for masks) and ``upper`` (for minimality losses) are ``[K, *B, C]``, an
    entry for every call of a site. In training ``lower`` and ``upper`` are leaves: a loss' gradients stop
    there.
    """

    network: MaskedNetwork
    x: Tensor
    output: Tensor
    inputs: Calls
    factors: Factors
    lower: Calls
    upper: Calls
    gate: Calls
    number: int
    """The step, from 0."""
    fraction: float
    """The share of the training that is done."""
    output_loss_type: Literal["mse", "kl"]
    use_delta: bool
    sampling: str
    draws: Draws
    processes: Processes
    rows: slice
    """Which rows of the whole batch ``x`` holds."""
    n_rows: int
    """Rows of the whole batch, over all processes and micro-batches."""
    n_mask_samples: int = 1
    whole_batch: "WholeBatch" = field(default_factory=lambda: WholeBatch())

    @cached_property
    def inner(self) -> Calls:
        """Inner activations ``x V`` of the target's own activations, ``[K, *B, C]``; no gradients."""
        with torch.no_grad():
            return {n: [times(x, self.factors[n][0]) for x in calls] for n, calls in self.inputs.items()}

    @property
    def n_instances(self) -> int:
        """K."""
        return self.x.shape[0]

    @property
    def share(self) -> float:
        """This step's rows as a share of the whole batch."""
        return self.x.shape[1] / self.n_rows

    def distance(self, output: Tensor) -> Float[Tensor, " K"]:
        """How far ``output`` is from the target's, mean over this step's rows (and positions)."""
        dtype = torch.promote_types(output.dtype, torch.float32)
        weight = torch.ones(output.shape[:2], dtype=dtype, device=output.device)
        return reconstruction_loss(output, self.output, weight, output.shape[1], self.output_loss_type)

    def recon(self, masks: Masks) -> Float[Tensor, " K"]:
        """``distance`` of the output under ``masks``."""
        return self.distance(self.network.run(self.x, self.factors, masks))

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Fresh uniform numbers in [0, 1), ``[K, rows, ...]``: see ``Draws``."""
        like = next(iter(self.lower.values()))[0]
        return self.draws.uniform(self.draws.key(), shape, self.rows, like)

    def zeros(self) -> Float[Tensor, " K"]:
        """A loss of nothing."""
        return torch.zeros(self.n_instances, device=self.x.device)


class WholeBatch:
    """Means over the whole batch, for losses that are no mean over rows (frequency terms).

    With one micro-batch in one process this step's mean is the whole batch's. ``combine`` adds up over
    processes. Before several micro-batches, ``collecting`` takes every one's means first.

    ``parts``: this process' micro-batches without gradients, made anew each time it is called, where there
    are several (``n_parts``); ``kept``: what a loss carries from one of them to the next.
    """

    def __init__(self, combine: Callable[[Tensor], Tensor] | None = None) -> None:
        self.combine, self.collecting, self.share = combine, False, 1.0
        self.loss = ""  # whose means are asked for: two losses may differ in nothing that the means see
        self._sums: dict[str, Tensor] = {}
        self.parts: Callable[[], Iterator[Step]] | None = None
        self.n_parts = 1
        self.kept: dict[tuple[str, int], Any] = {}

    def mean(self, name: str, own: Tensor) -> Tensor:
        """The whole batch's mean of what ``own`` is this step's mean of.

        Its gradients, added up over all steps by their shares of the batch, are the whole batch's.
        """
        name = f"{self.loss} {name}"
        if self.collecting:
            self._sums[name] = self._sums.get(name, 0.0) + self.share * own.detach()
            return own
        if name in self._sums:
            return self._sums[name] + (own - own.detach())
        if self.combine is not None:
            return self.combine(self.share * own.detach()) + (own - own.detach())
        return own

    def collected(self) -> None:
        """Every micro-batch has been seen: from now on ``mean`` gives the whole batch's."""
        self.collecting = False
        if self.combine is not None:
            self._sums = {name: self.combine(total) for name, total in self._sums.items()}
