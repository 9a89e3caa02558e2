"""The recorder: two lines in a training loop give a run folder of measures, scalars and states."""

import atexit
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from microtome.core.config import Config
from microtome.core.device import say
from microtome.dynamics.looking import Looking, probe_tensors
from microtome.dynamics.record_config import RecordingConfig
from microtome.dynamics.recording import Recording
from microtome.dynamics.states import Keeper, State, watched
from microtome.dynamics.when import NEVER, Schedule, log2, log2_then, next_busy, schedule
from microtome.measures.dimensionality import known_measures, measure_spectra, spectrum

When = Schedule | Callable[[int], bool] | str | int

WATCHED = "participation_ratio"  # the measure that tells which states to keep

WINDOW = 64  # steps of training batches whose records are worked out together
MOST_WAITING_BYTES = 1 << 26
MOST_IDLE = 64  # steps that only leave their loss, before the next one that may write


class Recorder:
    """Measures a network on a fixed probe while it trains. Use it as a context manager.

        with Recorder(model, probe, "runs/mine", labels=labels) as recorder:
            for step in range(2000):
                ...
                recorder.step(step, loss=loss)

    ``probe`` is what the model takes: a tensor, a tuple of them, or a mapping of keyword arguments. With
    ``labels`` the loss and the accuracy on the probe are scalars too. ``on="batch"`` measures the training
    batch instead, without another forward pass: cheaper, and noisier.

    ``when`` says at which steps to measure (``log2_then(100)``, ``every(10)``, ``at([...])``, joined by
    ``|``). ``save="auto"`` keeps the states around whatever changes, and log-spaced ones; a schedule keeps
    those steps, None keeps none. ``captures`` keeps whole activations, ``attention`` attention patterns.

    Training goes on as if nobody had looked: no gradients, no random numbers drawn, modes and buffers put
    back. What goes wrong while training is told once, and recording stops; training does not. A folder with
    an unfinished recording of the same layers is carried on. Under ``torch.distributed`` rank 0 records.
    Raises ``MicrotomeError`` when it is made: for a probe that does not fit, for unknown layers or measures,
    for a folder that holds something else.
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Any,
        out: str | Path,
        *,
        layers: Literal["auto"] | Sequence[str] = "auto",
        when: When = log2_then(100),  # noqa: B008
        measures: Sequence[str] | None = None,
        save: Literal["auto"] | When | None = "auto",
        captures: bool | When = False,
        attention: bool = False,
        on: Literal["probe", "batch"] = "probe",
        labels: Tensor | None = None,
        config: Mapping[str, Any] | Config | None = None,
        seed: int | None = None,
        conv: Literal["mean", "flatten"] = "mean",
        task: Mapping[str, Any] | None = None,
        command: Sequence[str] = (),
        note: Callable[[str], None] = say,
    ) -> None:
        self.failure: str | None = None
        self.out, self._note = Path(out), note
        self.active = _is_main_process()
        if not self.active:
            return
        self.when = schedule(when)
        self.measures = known_measures(measures)
        self.captures = self.when if captures is True else NEVER if captures is False else schedule(captures)
        if attention and captures is False:
            self.captures = self.when
        self.save = save if save is None or save == "auto" else schedule(save)
        self._whole = captures is not False
        self._looking = Looking(model, probe, labels, layers, on, conv, attention, note)
        self._waiting: list[tuple[int, dict[str, Tensor], dict[str, Tensor]]] = []
        self._keeper: Keeper | None = None
        self._watched = self.measures.index(WATCHED) if WATCHED in self.measures else 0
        self._last: int | None = None
        self._last_saved: int | None = None
        self._stride = 1
        self._idle = range(0)
        self._losses: list[tuple[int, float | None]] = []  # of idle steps, not yet handed on
        self._task = dict(task) if task is not None else None
        facts = RecordingConfig(
            layers="auto" if isinstance(layers, str) else list(layers),
            when=str(self.when),
            measures=None if measures is None else self.measures,
            save=None if save is None else str(self.save),
            captures=str(self.captures),
            attention=attention,
            on=on,
            conv=conv,
            training={} if config is None or isinstance(config, Config) else dict(config),
        )
        self.recording = Recording(
            self.out,
            config if isinstance(config, Config) else facts,
            seed,
            str(self._looking.device),
            command,
        )
        try:
            self._start(facts)
        except BaseException:
            self.recording.release()
            raise
        atexit.register(self._leave)

    def _start(self, facts: RecordingConfig) -> None:
        self._facts = facts
        if self._looking.layers:
            self._describe()
        tensors = probe_tensors(self._looking.probe, self._looking.labels)
        if tensors:
            self.recording.save_probe(tensors)
        if self.recording.resumed:
            self._note(f"{self.out}: carries an unfinished recording on")
        self._looking.arm(True)

    def _describe(self) -> None:
        looking, facts = self._looking, self._facts
        self.recording.describe(
            {
                "layers": looking.layers,
                "measures": self.measures,
                "rows": looking.shapes(),
                "probe": looking.described(),
                "task": self._task,
                "when": facts.when,
                "save": facts.save,
                "captures": facts.captures,
                "attention": facts.attention,
                "on": facts.on,
                "conv": facts.conv,
                "model": type(looking.model).__name__,
                "parameters": sum(parameter.numel() for parameter in looking.model.parameters()),
            }
        )

    # -- while training goes on

    def step(self, step: int, *, loss: Any = None, **scalars: Any) -> None:
        """Tell the recorder that training step ``step`` is done, with its loss and whatever else.

        Numbers and one-element tensors; tensors are read later, so that a GPU need not be waited for. Steps
        that ``when`` does not name cost next to nothing.
        """
        if not self.active:
            return
        try:
            if step in self._idle and not scalars and (loss is None or getattr(loss, "is_cpu", False)):
                self._losses.append((step, None if loss is None else loss.item()))
                return
            self._step(int(step), scalars if loss is None else {"loss": loss, **scalars})
        except Exception as error:
            self._stop(error)

    def log(self, step: int, **scalars: Any) -> None:
        """Add numbers to a step, without measuring."""
        if not self.active:
            return
        try:
            self.recording.add_scalars(int(step), scalars)
        except Exception as error:
            self._stop(error)

    def _step(self, step: int, scalars: Mapping[str, Any]) -> None:
        if self._last is None:
            self.recording.begin(step)
        else:
            self._stride = max(1, step - (self._losses[-1][0] if self._losses else self._last))
        self._take_losses()
        self._last = step
        if scalars:
            self.recording.add_scalars(step, scalars)
        if self.when(step):
            self._measure(step)
        elif isinstance(self.save, Schedule) and self.save(step):
            self._save(step, "schedule")
        self._looking.arm(self.when(step + self._stride))
        # Looked up ahead: the code of a full step, cold by the time it runs, takes 1 % of a small step.
        even = self._stride == 1 and not isinstance(self.save, Schedule)
        self._idle = range(step + 1, next_busy(self.when, step, MOST_IDLE) if even else step + 1)
        self.recording.flush_if_due()

    def _take_losses(self) -> None:
        for step, loss in self._losses:
            self._last = max(step, self._last or 0)
            if loss is not None:
                self.recording.add_scalars(step, {"loss": loss})
        self._losses.clear()

    def _measure(self, step: int) -> None:
        capture = self.captures(step)
        look = self._looking.look(whole=capture and self._whole, attention=capture)
        if look is None:
            return
        if not self.recording.layers:
            self._describe()
        if look.scalars:
            self.recording.add_scalars(step, look.scalars)
        if look.captured:
            self.recording.save_capture(step, look.captured)
        self._waiting.append((step, look.rows, look.grams))
        # Records close together are worked out together, which costs a third less.
        held = sum(rows.nbytes for rows in look.rows.values()) * len(self._waiting)
        soon = self._looking.on == "batch" and held < MOST_WAITING_BYTES and not log2()(step)
        if not soon or step - self._waiting[0][0] >= WINDOW - self._stride:
            self._work_out(look.scalars)
        if isinstance(self.save, Schedule) and self.save(step):
            self._save(step, "schedule")

    def _work_out(self, scalars: Mapping[str, Any]) -> None:
        """Measures of the records that wait, written down and watched."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        layers = {name: place for place, name in enumerate(self._looking.layers)}
        values = np.full((len(waiting), len(layers), len(self.measures)), np.nan)
        heard = [(i, layers[name]) for i, (_, rows, _) in enumerate(waiting) for name in rows]
        flat = [x for _, rows, _ in waiting for x in rows.values()]
        grams = [matrix for _, _, several in waiting for matrix in several.values()]
        values[tuple(np.array(heard).T)] = measure_spectra(spectrum(flat, grams=grams), self.measures)
        steps = [step for step, _, _ in waiting]
        for step, record in zip(steps, values, strict=True):
            self.recording.add(step, record)
        if self.save == "auto":
            self._keep(steps, values, scalars)

    def _keep(self, steps: Sequence[int], values: np.ndarray, scalars: Mapping[str, Any]) -> None:
        series = watched(values[:, :, self._watched], scalars)
        if self._keeper is None:
            self._keeper = Keeper(series.shape[1], self._write_state)
        self._keeper.observe(steps, series, self._state)

    def _state(self) -> State:
        return self._looking.state()

    def _save(self, step: int, why: str) -> None:
        self._write_state(step, self._state(), why)

    def _write_state(self, step: int, state: State, why: str) -> None:
        self.recording.save_state(step, state, why)
        self._last_saved = step

    # -- the end

    def close(self) -> None:
        """Write what is left and the last state, and mark the recording finished."""
        if not self.active:
            return
        try:
            self._take_losses()
            self._work_out({})
            if self.save is not None and self._last is not None and self._last_saved != self._last:
                self._save(self._last, "last")
            summary = {"last_step": self._last, "layers": len(self._looking.layers)}
            self.recording.finish(summary)
        except Exception as error:
            self._stop(error)
        self._leave()

    def _leave(self) -> None:
        """Let go, whatever happened; an unfinished recording can be carried on."""
        if not self.active:
            return
        self.active = False
        atexit.unregister(self._leave)
        self._looking.detach()
        try:
            self._take_losses()
            self._work_out({})
            self.recording.flush()
        except Exception as error:
            self._tell(error)
        self.recording.release()

    def _stop(self, error: Exception) -> None:
        """One warning, then silence: a recorder must not stop a training."""
        self._tell(error)
        self.active = False
        atexit.unregister(self._leave)
        self._looking.detach()
        self.recording.release()

    def _tell(self, error: Exception) -> None:
        if self.failure is None:
            reason = " ".join(str(error).split()) or type(error).__name__
            self.failure = reason
            self._note(f"recorder stopped, training goes on: {reason}")

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._leave()


def _is_main_process() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank() != 0)
