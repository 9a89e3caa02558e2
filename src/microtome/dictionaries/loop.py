"""The training loop: every dictionary learns from the same batches; can be stopped and carried on."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from microtome.core.distributed import Processes, all_reduce_sum
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.interrupts import stop_signals
from microtome.core.progress import progress
from microtome.core.runs import RunFolder
from microtome.core.tracking import NoTracker, Tracker
from microtome.dictionaries.buffer import ShuffledBatches, Source
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.train_config import DictionaryTraining
from microtome.dictionaries.trainer import DictionaryTrainer, StepReport

CHECKPOINT_SECONDS = 30.0
Place = Callable[[str], Mapping[str, Any]]  # site -> fields of its dictionary's configuration


class TrainingLoop:
    """One dictionary a site, all on one stream of activations. ``run=None`` leaves the disk alone."""

    def __init__(
        self,
        source: Source,
        config: DictionaryTraining,
        *,
        run: RunFolder | None = None,
        place: Place = lambda _: {},
        processes: Processes | None = None,
        device: torch.device | None = None,
        tracker: Tracker | None = None,
        show: bool = True,
        resume_hint: Callable[[], str] = lambda: "",
    ) -> None:
        self.config, self.processes = config, processes or Processes()
        self.run = run if self.processes.main else None
        self.folder = run
        self.tracker, self.show, self.resume_hint = tracker or NoTracker(), show, resume_hint
        if config.batch_size % self.processes.size:
            raise MicrotomeError(
                f"batch_size={config.batch_size}: cannot be shared by {self.processes.size} processes;"
                " give a multiple"
            )
        self.batches = ShuffledBatches(
            source,
            config.batch_size // self.processes.size,
            seed=config.seed,
            buffer=None if config.buffer is None else max(config.buffer // self.processes.size, 1),
            shuffle=config.shuffle,
        )
        self.trainers = {
            name: DictionaryTrainer(
                name,
                config.dictionary(x.shape[1], **place(name)),
                config,
                x,
                self.processes,
                device,
            )
            for name, x in self.batches.first_block().items()
        }
        self.step = 0
        self._reports: dict[str, StepReport] = {}
        self._saved_at = time.monotonic()

    def train(self) -> dict[str, Dictionary]:
        """Train to the last step and return the dictionaries, for activations as they are.

        Raises ``Diverged``, ``MicrotomeError`` when the stream ends too early, and ``KeyboardInterrupt``, all
        saved, when the user stops the run.
        """
        c = self.config
        if self.step == 0:
            self.save()
        show = self.show and self.processes.main
        with stop_signals() as stopped, progress("dictionary", c.steps, self.step, show) as bar:
            while self.step < c.steps:
                batch = self.batches.next()
                self._reports = {name: trainer.step(batch[name]) for name, trainer in self.trainers.items()}
                self.step += 1
                last = self.step == c.steps
                if self.step % c.print_freq == 0 or last or self.step == 1:
                    bar.update(self.step, self._log(batch))
                else:
                    bar.update(self.step)
                stop = self._anyone(stopped.is_set())
                if last or stop or self._save_is_due():
                    self.save()
                if stop and not last:
                    hint = self.resume_hint()
                    where = f", everything saved; carry on with `{hint}`" if hint else ""
                    raise KeyboardInterrupt(f"Stopped after step {self.step}{where}")
        return self.finished()

    def finished(self) -> dict[str, Dictionary]:
        """The dictionaries as they are now."""
        return {name: trainer.finished() for name, trainer in self.trainers.items()}

    def _anyone(self, stopped: bool) -> bool:
        if self.processes.size == 1:
            return stopped
        return bool(all_reduce_sum(torch.tensor(float(stopped)), self.processes) > 0)

    def _save_is_due(self) -> bool:
        if self.config.save_freq is not None:
            return self.step % self.config.save_freq == 0
        return self.processes.main and time.monotonic() - self._saved_at > CHECKPOINT_SECONDS

    def _log(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        rows: dict[str, float] = {}
        for name, report in self._reports.items():
            trainer = self.trainers[name]
            fvu = report.squared_error / max(self._variance(batch[name]), 1e-30)
            dead = report.dead / trainer.config.n_features
            rows |= {f"{name}/fvu": fvu, f"{name}/l0": report.l0, f"{name}/dead": dead}
        first = next(iter(self.trainers.values()))
        values = rows | {"lr": float(first.optimiser.param_groups[0]["lr"])}
        if self.run is not None:
            self.run.log(self.step, values)
            self.tracker.log(self.step, values)
        n = len(self.trainers)
        return {key: sum(v for k, v in rows.items() if k.endswith(key)) / n for key in ("fvu", "l0", "dead")}

    def _variance(self, x: Tensor) -> float:
        """``sum |x - mean|^2`` over the rows of all processes."""
        x = x.double()
        sums = torch.cat([x.sum(0), x.square().sum()[None], torch.tensor([float(len(x))])])
        sums = all_reduce_sum(sums, self.processes)
        return float(sums[-2] - sums[:-2].square().sum() / sums[-1])

    # -- state ---------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint: weights, optimisers, running numbers, and the place in the stream."""
        self._saved_at = time.monotonic()
        if self.run is None:
            return
        tensors = {
            f"{name}/{key}": value
            for name, trainer in self.trainers.items()
            for key, value in trainer.state().items()
        }
        self.run.save_checkpoint(self.step, tensors, {"stream": self.batches.state()})

    def restore(self, step: int, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
        """Go back to a checkpoint. Raises ``CannotLoad`` when it does not fit the configuration."""
        if step > self.config.steps:
            raise CannotLoad(
                f"steps={self.config.steps}: the run is at step {step} already; give at least that"
            )
        for name, trainer in self.trainers.items():
            own = {
                key.removeprefix(f"{name}/"): value
                for key, value in tensors.items()
                if key.startswith(f"{name}/")
            }
            trainer.restore(own)
        self.batches.restore(extra["stream"])
        self.step = step
        if self.run is not None:
            self.run.drop_metrics_after(step)
