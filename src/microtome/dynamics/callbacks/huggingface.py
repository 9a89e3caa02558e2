"""``Trainer(..., callbacks=[RecorderCallback(probe, "runs/mine")])``: records a Hugging Face training."""

# ruff: noqa: ARG002  (the signatures are theirs)

import math
from pathlib import Path
from typing import Any

from torch import nn

from microtome.core.errors import MicrotomeError
from microtome.dynamics.recorder import Recorder

try:
    from transformers import TrainerCallback
except ImportError:
    raise MicrotomeError(
        "transformers is not installed; pip install 'microtome[llm]' for this callback"
    ) from None


class RecorderCallback(TrainerCallback):
    """A ``Recorder`` that the Trainer drives. ``probe`` is a mapping such as a tokenizer gives, or a tensor.

    Takes every setting of ``Recorder``. Step n is the model after n updates, step 0 the one before training.
    What the Trainer logs (loss, learning rate, gradient norm, evaluations) becomes scalars. The recorder
    itself is ``recorder`` once training has begun.
    """

    def __init__(self, probe: Any, out: str | Path, **settings: Any) -> None:
        self.probe, self.out, self.settings = probe, out, settings
        self.recorder: Recorder | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        assert isinstance(model, nn.Module)
        self.recorder = Recorder(model, self.probe, self.out, **{"seed": args.seed, **self.settings})
        if state.global_step == 0:
            self.recorder.step(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.recorder is not None:
            self.recorder.step(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.recorder is not None:
            self.recorder.log(state.global_step, **_numbers(logs or {}))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.recorder is not None:
            self.recorder.close()


def _numbers(logs: dict[str, Any]) -> dict[str, float]:
    """The numbers among what is logged; some versions write them as text."""
    found = {}
    for name, value in logs.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        if math.isfinite(number):
            found[name] = number
    return found
