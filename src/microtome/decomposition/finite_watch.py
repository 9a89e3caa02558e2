"""When a loss first stopped being finite, without waiting for the device at every step."""

from collections.abc import Mapping

import torch
from torch import Tensor

from microtome.core.errors import Diverged


class FiniteWatch:
    """Remembers which loss was not finite first, and when."""

    def __init__(self) -> None:
        self.first: Tensor | None = None
        self.names: list[str] = []

    def see(self, losses: Mapping[str, Tensor], step: int) -> None:
        """Take in a step's losses, each ``[K]``."""
        self.names = list(losses)
        finite = torch.stack(list(losses.values())).isfinite().all(1)
        now = torch.where(finite, torch.inf, float(step))
        self.first = now if self.first is None else torch.minimum(self.first, now)

    def check(self, kept: str) -> None:
        """Raise ``Diverged`` if any was not; ``kept`` tells where the last good state is."""
        if self.first is None or bool(self.first.isinf().all()):
            return
        step = int(self.first.min())
        bad = [
            n for n, at in zip(self.names, self.first.tolist(), strict=True) if at == step and n != "total"
        ]
        what = ", ".join(bad or ["total"])
        raise Diverged(f"{what}: not finite at step {step}; use a smaller lr or look at the inputs{kept}")
