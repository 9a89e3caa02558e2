"""Sources that live on from step to step, with the state of the optimiser that moves them.

Everything is in one flat ``State`` of tensors (``source.<site>.<call>``, Adam's ``first.`` and ``second.``
moments, ``ascents``), the same in every process: what a checkpoint has to keep, and all that it has to.
Source: the persistent adversary of parameter decomposition's later code (Goodfire 2025).
"""

import torch
from jaxtyping import Bool
from torch import Tensor

from microtome.core.distributed import all_reduce_sum
from microtome.core.errors import bad_value
from microtome.decomposition.adversary.optimisers import State, climb, forget
from microtome.decomposition.adversary.sources import Sources, entries
from microtome.decomposition.loss_configs import (
    BroadcastAcrossBatch,
    PersistentPGDRecon,
    RepeatAcrossBatch,
    SingleSource,
)
from microtome.decomposition.step import Step

_TINIEST = 1e-7  # no uniform number is 0 when it becomes a normal one


class PersistentSources:
    """The adversary of one loss, as ``state`` has it; made at the first step.

    Stored sources are ``[K, rows, positions, entries]`` with 1 for what the scope shares. With the sigmoid
    parameterisation they are what the sigmoid is taken of, normal at first; else uniform, clipped to [0, 1].
    """

    def __init__(self, step: Step, config: PersistentPGDRecon, state: State) -> None:
        self.config, self.state = config, state
        # Drawn whether needed or not: every part of a batch asks for keys in the same order.
        self._keys = {name: step.draws.key() for name in self._names(step)}
        self._reset_key = step.draws.key()
        for name, key in self._keys.items():
            if f"source.{name}" not in state:
                state[f"source.{name}"] = self._fresh(step, name, key)
        state.setdefault("ascents", torch.zeros((), dtype=torch.int64))

    @staticmethod
    def _names(step: Step) -> list[str]:
        return [f"{site}.{call}" for site, calls in step.lower.items() for call in range(len(calls))]

    def stored(self) -> dict[str, Tensor]:
        """The tensors that ascents move, by ``<site>.<call>``."""
        return {name: self.state[f"source.{name}"] for name in self._keys}

    def sources(self, step: Step, stored: dict[str, Tensor]) -> Sources:
        """What ``stored`` stands for at the step's rows: numbers in [0, 1], broadcastable to its masks."""
        out: Sources = {}
        for site, calls in step.lower.items():
            out[site] = []
            for call, lower in enumerate(calls):
                source = self._at_rows(stored[f"{site}.{call}"], step.rows, lower)
                out[site].append(source.sigmoid() if self.config.use_sigmoid_parameterization else source)
        return out

    def ascend(self, step: Step, gradients: dict[str, Tensor]) -> None:
        """One step of the optimiser up ``gradients``, summed over the processes."""
        self.state["ascents"] += 1
        for name, source in self.stored().items():
            gradient = all_reduce_sum(gradients[name], step.processes)
            climb(self.config.optimizer, name, source, gradient, self.state, (step.number, step.fraction))
            if not self.config.use_sigmoid_parameterization:
                source.clamp_(0, 1)

    def reset_some(self, step: Step) -> None:
        """Begin rows of sources afresh, each with probability ``reset_prob``, their moments at zero."""
        if self.config.reset_prob == 0:
            return
        rows: dict[int, Bool[Tensor, "K rows"]] = {}
        for name, source in self.stored().items():
            n = source.shape[1]
            if n not in rows:
                shape = (source.shape[0], n)
                numbers = step.draws.uniform(self._reset_key, shape, slice(0, n), source)
                rows[n] = numbers < self.config.reset_prob
            chosen = rows[n].reshape(*rows[n].shape, *[1] * (source.ndim - 2))
            source.copy_(torch.where(chosen, self._fresh(step, name, self._keys[name]), source))
            forget(name, chosen, self.state)

    def _fresh(self, step: Step, name: str, key: int) -> Tensor:
        site, call = name.rsplit(".", 1)
        lower = step.lower[site][int(call)].detach()
        shape = [lower.shape[0], self._rows(step), *lower.shape[2:-1], entries(step, site)]
        if isinstance(self.config.scope, SingleSource):
            shape[2:-1] = [1] * (lower.ndim - 3)
        numbers = step.draws.uniform(key, tuple(shape), slice(0, shape[1]), lower).to(torch.float32)
        if self.config.use_sigmoid_parameterization:
            return torch.special.ndtri(numbers.clamp(_TINIEST, 1 - _TINIEST))
        return numbers.contiguous()

    def _rows(self, step: Step) -> int:
        scope = self.config.scope
        if isinstance(scope, SingleSource | BroadcastAcrossBatch):
            return 1
        if isinstance(scope, RepeatAcrossBatch):
            if step.n_rows % scope.n_sources:
                raise bad_value(
                    "scope.n_sources",
                    scope.n_sources,
                    f"does not divide the batch's {step.n_rows} rows",
                    "choose a divisor of batch_size",
                )
            return scope.n_sources
        return step.n_rows

    def _at_rows(self, source: Tensor, rows: slice, lower: Tensor) -> Tensor:
        if source.ndim > 3 and source.shape[2] not in (1, lower.shape[2]):
            raise bad_value(
                "scope",
                self.config.scope.type,
                f"sources for {source.shape[2]} positions meet an input of {lower.shape[2]}",
                "keep the inputs' length, or take single_source",
            )
        n = source.shape[1]
        if n == 1:
            return source
        if n == rows.stop - rows.start and rows.start == 0:
            return source
        return source[:, torch.arange(rows.start, rows.stop, device=source.device) % n]
