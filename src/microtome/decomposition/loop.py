"""The training loop of every decomposition method: schedule, optimiser, reports, checkpoints, resume."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from microtome.core.distributed import Processes, anyone, copy_from_main
from microtome.core.errors import Diverged
from microtome.core.interrupts import stop_signals
from microtome.core.progress import progress
from microtome.core.runs import RunFolder
from microtome.core.seeds import generator
from microtome.core.tracking import NoTracker, Tracker
from microtome.data.loading import DataSource
from microtome.decomposition.finite_watch import FiniteWatch
from microtome.decomposition.loop_state import restore, state_of
from microtome.decomposition.optimiser import Optimiser
from microtome.decomposition.stored_target import PREFIX, is_large, save_target
from microtome.decomposition.warm_up import faithfulness_warm_up

CHECKPOINT_SECONDS = 30.0
MOST_SHOWN = 12  # numbers on the progress line; a language model has an L0 for each of many sites
PASSED_ON = 5.0  # seconds in which torchrun may pass on a Ctrl-C that its processes have heard already


@runtime_checkable
class Method(Protocol):
    """What the loop needs of a decomposition method.

    One that remembers more than parameters from step to step has ``state_tensors`` and
    ``load_state_tensors`` too; so has a data source that is a stream.
    """

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
    """The fields of a configuration that the loop reads. Some have others: warm-up, clipping, evaluation."""

    @property
    def seed(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def lr(self) -> float: ...
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
    """What the caller adds to the loop. None may change the training streams.

    Under several processes only the main one calls them, so that they must not exchange anything.
    ``evaluate`` gets the step and whether slow metrics are due, every ``eval_freq`` steps.
    """

    report: Callable[[int], Mapping[str, Tensor]] = lambda _: {}
    evaluate: Callable[[int, bool], Mapping[str, Any]] | None = None
    picture: Callable[[int], None] = lambda _: None
    saved: Callable[[int], None] = lambda _: None
    tracker: Tracker = field(default_factory=NoTracker)
    show: bool = True
    title: str = "decompose"


class Loop:
    """One run of a method: can be started, stopped, saved and carried on bit for bit on a CPU.

    ``run=None`` trains without touching the disk. Every one of several ``processes`` runs the loop on the
    same batches; the method sees to it that each computes its share, and only the main one writes.
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
        processes: Processes | None = None,
    ) -> None:
        self.method, self.data, self.config, self.folder = method, data, config, run
        self.processes = processes or Processes()
        self.run = run if self.processes.main else None
        self.extra, self.fixed = dict(extra or {}), dict(fixed or {})
        self.hooks = hooks or Hooks()
        self.optimiser = Optimiser(method.parameters, config)
        device = next(iter(method.parameters.values())).device
        self.data_generator = generator(config.seed, device, "data")
        self.step = 0
        self.warmed_up = not getattr(config, "faithfulness_warmup_steps", 0)
        self._watch = FiniteWatch()
        self._saved_at = time.monotonic()

    def train(self) -> None:
        """Run up to the configured number of steps.

        Raises ``Diverged`` when a loss stops being finite (the last good checkpoint stays) and
        ``KeyboardInterrupt`` after saving when the user stops the run.
        """
        c, total, main = self.config, self.config.steps, self.processes.main
        if self.step == 0:
            self._begin()
        # Other hardware may have drawn or warmed up a little differently, and would drift apart from here.
        copy_from_main(self.method.parameters.values(), self.processes)
        patience = PASSED_ON if self.processes.size > 1 else 0.0
        show = self.hooks.show and main
        with stop_signals(patience) as stopped, progress(self.hooks.title, total, self.step, show) as bar:
            while self.step < total:
                losses = self._one_step()
                self._watch.see(losses, self.step)
                self.step += 1
                last = self.step == total
                row = self._row(losses, told=self.step % c.print_freq == 0 or last or self.step == 1)
                bar.update(self.step, row or None)
                asked = c.save_freq is not None and self.step % c.save_freq == 0
                stop, due = anyone([stopped.is_set(), main and self._save_is_due()], self.processes)
                if last or asked or stop or due:
                    self._check()
                    if (last or asked) and main:  # before the checkpoint: a kill in between is made good
                        self.hooks.saved(self.step)
                    self.save()
                if stop:
                    self._stop()
                if c.image_freq and self.step % c.image_freq == 0 and not last and main:
                    self.hooks.picture(self.step)

    def _begin(self) -> None:
        """What comes before the first step, saved first so that a kill during it costs nothing."""
        self.save()
        if not self.warmed_up:
            faithfulness_warm_up(self.method, self.config)
            self.warmed_up = True
            self._check()
            self.save()
        if not self.processes.main:
            return
        if self.config.image_on_first_step:
            self.hooks.picture(0)
        if self.run is not None and self.run.metrics():  # of a start that was killed
            self.run.drop_metrics_after(-1)
        self._write(self._evaluation())

    def _one_step(self) -> dict[str, Tensor]:
        c = self.config
        self.optimiser.set_rates(self.step)
        x = self.data.batch(c.batch_size, self.data_generator, n_instances=self.method.n_instances)
        self.method.before_step()
        losses = self.method.compute(x, self.step)
        self.method.after_backward()
        self.optimiser.step()
        return losses

    # -- reports -------------------------------------------------------------------------------------------

    def _row(self, losses: Mapping[str, Tensor], told: bool) -> dict[str, float]:
        """Write this step's row of metrics if one is due; the losses' means for the progress line."""
        if told:
            self._watch.check(self._kept())
        if not self.processes.main:
            return {}
        rows: dict[str, Any] = {}
        shown: dict[str, float] = {}
        if told:
            values = {**losses, **self.hooks.report(self.step)}
            rows = {name: value.tolist() for name, value in values.items()} | self.optimiser.rates
            few = values if len(values) <= MOST_SHOWN else losses
            shown = {name: float(value.mean()) for name, value in few.items()}
        self._write(rows | self._evaluation())
        return shown

    def _evaluation(self) -> dict[str, Any]:
        """What the evaluation of this step gives; nothing where none is due."""
        frequency = getattr(self.config, "eval_freq", None)
        if self.hooks.evaluate is None or frequency is None or self.step % frequency:
            return {}
        slow = getattr(self.config, "slow_eval_freq", None)
        is_slow = slow is not None and self.step % slow == 0
        if self.step == 0:
            is_slow = slow is not None and getattr(self.config, "slow_eval_on_first_step", False)
        return dict(self.hooks.evaluate(self.step, is_slow))

    def _write(self, rows: Mapping[str, Any]) -> None:
        if not rows:
            return
        if self.run is not None:
            self.run.log(self.step, rows)
        self.hooks.tracker.log(self.step, rows)

    # -- stopping ------------------------------------------------------------------------------------------

    def _kept(self) -> str:
        """Where the last good state is. Carrying on from it would diverge again, bit for bit."""
        return f" (the last good checkpoint is kept in {self.folder.path})" if self.folder is not None else ""

    def _save_is_due(self) -> bool:
        return time.monotonic() - self._saved_at > CHECKPOINT_SECONDS

    def _check(self) -> None:
        """A finite loss may still have had a gradient that is not: such weights are never saved."""
        self._watch.check(self._kept())
        for name, tensor in self.method.parameters.items():
            if not torch.isfinite(tensor).all():
                raise Diverged(f"{name}: not finite after step {self.step}; use a smaller lr{self._kept()}")

    def _stop(self) -> None:
        where = f"; carry on with `{resume_words(self.folder, self.processes)}`" if self.folder else ""
        raise KeyboardInterrupt(f"Stopped after step {self.step}, everything saved{where}")

    # -- state ---------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint that holds everything the run needs to go on anywhere."""
        if self.folder is not None:
            self._write_checkpoint()
        # When it was done: one that takes long must not be due again at once.
        self._saved_at = time.monotonic()

    def _write_checkpoint(self) -> None:
        state, extra = self.state(), self.extra  # in every process: a method may gather what it remembers
        if self.run is None:
            return
        if is_large(self.fixed):
            save_target(self.run, self.fixed, self.extra.get("target", {}))
            extra = {name: value for name, value in extra.items() if name != "target"}
        else:
            state |= {PREFIX + name: tensor.detach() for name, tensor in self.fixed.items()}
        self.run.save_checkpoint(self.step, state, extra)

    def state(self) -> dict[str, Tensor]:
        """Parameters, optimiser, random streams and what else goes on from step to step, by name."""
        return state_of(self)

    def restore(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a saved state; later lines of the metrics are forgotten.

        Raises ``CannotLoad`` where the configuration was edited so that the state does not fit it.
        """
        restore(self, step, tensors)
        self.step = step
        if self.run is not None:
            self.run.drop_metrics_after(step)


def resume_words(run: RunFolder, processes: Processes) -> str:
    """The command that carries a run on, with as many processes."""
    words = f"decompose --resume {run.path}"
    if processes.size == 1:
        return f"microtome {words}"
    return f"torchrun --nproc-per-node {processes.size} -m microtome {words}"
