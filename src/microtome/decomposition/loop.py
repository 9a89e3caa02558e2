"""The training loop of every decomposition method: schedule, optimiser, reports, checkpoints, resume."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from microtome.core.errors import CannotLoad, Diverged
from microtome.core.interrupts import stop_signals
from microtome.core.progress import progress
from microtome.core.runs import RunFolder
from microtome.core.schedules import learning_rate_factor
from microtome.core.seeds import generator
from microtome.core.tracking import NoTracker, Tracker
from microtome.data.loading import DataSource

CHECKPOINT_SECONDS = 30.0


@runtime_checkable
class Method(Protocol):
    """What the loop needs of a decomposition method."""

    n_instances: int
    parameters: dict[str, Tensor]
    generator: torch.Generator

    def compute(self, x: Tensor, step: int) -> dict[str, Tensor]:
        """One step's losses, each ``[K]`` and detached, ``total`` among them; fills every gradient."""
        ...

    def before_step(self) -> None:
        """Called before the losses are computed."""
        ...

    def after_backward(self) -> None:
        """Called between the gradients and the optimiser's step."""
        ...


@runtime_checkable
class LoopConfig(Protocol):
    """The fields of a configuration that the loop reads."""

    @property
    def seed(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def lr_schedule(self) -> str: ...
    @property
    def lr_warmup_pct(self) -> float: ...
    @property
    def lr_exponential_halflife(self) -> float | None: ...
    @property
    def print_freq(self) -> int: ...
    @property
    def save_freq(self) -> int | None: ...
    @property
    def image_freq(self) -> int | None: ...
    @property
    def image_on_first_step(self) -> bool: ...


@dataclass
class Hooks:
    """What the caller adds to the loop. Neither may change the training streams."""

    report: Callable[[int], Mapping[str, Tensor]] = lambda _: {}
    picture: Callable[[int], None] = lambda _: None
    saved: Callable[[int], None] = lambda _: None
    tracker: Tracker = field(default_factory=NoTracker)
    show: bool = True
    title: str = "decompose"


class Loop:
    """One run of a method: can be started, stopped, saved and carried on bit for bit on a CPU.

    ``run=None`` trains without touching the disk.
    """

    def __init__(
        self,
        method: Method,
        data: DataSource,
        config: LoopConfig,
        run: RunFolder | None,
        *,
        extra: Mapping[str, Any] | None = None,
        fixed: Mapping[str, Tensor] | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        self.method, self.data, self.config, self.run = method, data, config, run
        self.extra, self.fixed = dict(extra or {}), dict(fixed or {})
        self.hooks = hooks or Hooks()
        self.names = list(method.parameters)
        leaves = list(method.parameters.values())
        self.optimizer = torch.optim.AdamW(leaves, lr=config.lr, weight_decay=0.0, fused=True)
        self.data_generator = generator(config.seed, leaves[0].device, "data")
        self.step = 0
        self._saved_at = time.monotonic()

    def train(self) -> None:
        """Run up to the configured number of steps.

        Raises ``Diverged`` when a loss stops being finite (the last good checkpoint stays) and
        ``KeyboardInterrupt`` after saving when the user stops the run.
        """
        c, total = self.config, self.config.steps
        if self.step == 0:
            self.save()
            if c.image_on_first_step:
                self.hooks.picture(0)
        watch = _FiniteWatch()
        with stop_signals() as stopped, progress(self.hooks.title, total, self.step, self.hooks.show) as bar:
            while self.step < total:
                losses = self._one_step()
                watch.see(losses, self.step)
                self.step += 1
                last = self.step == total
                if self.step % c.print_freq == 0 or last or self.step == 1:
                    watch.check(self._kept())
                    bar.update(self.step, self._log(losses))
                else:
                    bar.update(self.step)
                asked = c.save_freq is not None and self.step % c.save_freq == 0
                if last or asked or stopped.is_set() or self._save_is_due():
                    watch.check(self._kept())
                    self._check_parameters()
                    if last or asked:  # before the checkpoint: what a kill leaves out is written on resume
                        self.hooks.saved(self.step)
                    self.save()
                if stopped.is_set():
                    self._stop()
                if c.image_freq and self.step % c.image_freq == 0 and not last:
                    self.hooks.picture(self.step)

    def _one_step(self) -> dict[str, Tensor]:
        c = self.config
        rate = c.lr * learning_rate_factor(
            c.lr_schedule, self.step, c.steps, c.lr_warmup_pct, c.lr_exponential_halflife
        )
        self.optimizer.param_groups[0]["lr"] = rate
        x = self.data.batch(c.batch_size, self.data_generator, n_instances=self.method.n_instances)
        self.method.before_step()
        losses = self.method.compute(x, self.step)
        self.method.after_backward()
        for parameter in self.method.parameters.values():
            # The fused optimiser walks memory: a transposed gradient would go to the wrong weights.
            if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
        self.optimizer.step()
        return losses

    def _log(self, losses: Mapping[str, Tensor]) -> dict[str, float]:
        values = {**losses, **self.hooks.report(self.step)}
        rows = {name: value.tolist() for name, value in values.items()}
        rows["lr"] = self.optimizer.param_groups[0]["lr"]
        if self.run is not None:
            self.run.log(self.step, rows)
        self.hooks.tracker.log(self.step, rows)
        return {name: float(value.mean()) for name, value in values.items()}

    def _resume_hint(self) -> str:
        return f"microtome decompose --resume {self.run.path}" if self.run is not None else ""

    def _kept(self) -> str:
        """Where the last good state is. Carrying on from it would diverge again, bit for bit."""
        return f" (the last good checkpoint is kept in {self.run.path})" if self.run is not None else ""

    def _save_is_due(self) -> bool:
        return time.monotonic() - self._saved_at > CHECKPOINT_SECONDS

    def _check_parameters(self) -> None:
        """A finite loss may still have had a gradient that is not: such weights are never saved."""
        for name, tensor in self.method.parameters.items():
            if not torch.isfinite(tensor).all():
                raise Diverged(f"{name}: not finite after step {self.step}; use a smaller lr{self._kept()}")

    def _stop(self) -> None:
        where = f"; carry on with `{self._resume_hint()}`" if self.run is not None else ""
        raise KeyboardInterrupt(f"Stopped after step {self.step}, everything saved{where}")

    # -- state ---------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint that holds everything the run needs to go on anywhere."""
        self._saved_at = time.monotonic()
        if self.run is not None:
            self.run.save_checkpoint(self.step, self.state(), self.extra)

    def state(self) -> dict[str, Tensor]:
        """Parameters, optimiser, random streams, and the fixed tensors (the target), by name."""
        tensors = {name: tensor.detach() for name, tensor in self.method.parameters.items()}
        tensors.update({f"target/{name}": tensor.detach() for name, tensor in self.fixed.items()})
        for name, tensor in self.method.parameters.items():
            for key, value in self.optimizer.state.get(tensor, {}).items():
                tensors[f"optimizer/{name}/{key}"] = torch.as_tensor(value)
        tensors["random/data"] = self.data_generator.get_state()
        tensors["random/method"] = self.method.generator.get_state()
        # A copy of each: safetensors refuses tensors that share storage, as tied weights may.
        return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}

    def restore(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a saved state; later lines of the metrics are forgotten.

        Raises ``CannotLoad`` where the configuration was edited so that the state does not fit it.
        """
        if step > self.config.steps:
            raise CannotLoad(
                f"steps={self.config.steps}: the run is at step {step} already; give at least that"
            )
        for name, tensor in self.method.parameters.items():
            saved = tensors.get(name)
            if saved is None or saved.shape != tensor.shape:
                shape = "none" if saved is None else list(saved.shape)
                raise CannotLoad(
                    f"{name}: the configuration asks for shape {list(tensor.shape)}, the checkpoint has"
                    f" {shape}; undo the changes to config.yaml, or start a new run"
                )
        self.step = step
        for name, tensor in self.method.parameters.items():
            with torch.no_grad():
                tensor.copy_(tensors[name])
            prefix = f"optimizer/{name}/"
            state = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
            if state:
                self.optimizer.state[tensor] = {
                    key: value.to(tensor.device, copy=True) for key, value in state.items()
                }
        self.data_generator.set_state(tensors["random/data"])
        self.method.generator.set_state(tensors["random/method"])
        if self.run is not None:
            self.run.drop_metrics_after(step)


class _FiniteWatch:
    """Remembers when each loss first stopped being finite, without waiting for the device at every step."""

    def __init__(self) -> None:
        self.first: Tensor | None = None
        self.names: list[str] = []

    def see(self, losses: Mapping[str, Tensor], step: int) -> None:
        self.names = list(losses)
        finite = torch.stack(list(losses.values())).isfinite().all(1)
        now = torch.where(finite, torch.inf, float(step))
        self.first = now if self.first is None else torch.minimum(self.first, now)

    def check(self, kept: str) -> None:
        if self.first is None or bool(self.first.isinf().all()):
            return
        step = int(self.first.min())
        bad = [
            n for n, at in zip(self.names, self.first.tolist(), strict=True) if at == step and n != "total"
        ]
        what = ", ".join(bad or ["total"])
        raise Diverged(f"{what}: not finite at step {step}; use a smaller lr or look at the inputs{kept}")
