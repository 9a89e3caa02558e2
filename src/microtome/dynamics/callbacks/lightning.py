"""``Trainer(callbacks=[RecorderCallback(probe, "runs/mine")])``: records a Lightning training."""

# ruff: noqa: ARG002  (the signatures are theirs)

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from microtome.core.errors import MicrotomeError, bad_value
from microtome.dynamics.recorder import Recorder

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError:
        raise MicrotomeError(
            "lightning is not installed; pip install 'microtome[lightning]' for this callback"
        ) from None


class RecorderCallback(Callback):  # pyright: ignore[reportGeneralTypeIssues]
    """A ``Recorder`` that Lightning drives. ``part`` names the network inside the LightningModule.

    Without ``part`` the LightningModule's own ``forward`` runs on the probe. Takes every setting of
    ``Recorder``. Step n is the network after n optimiser steps, step 0 the one before training; the loss is
    what ``training_step`` returns. The recorder itself is ``recorder`` once training has begun.
    """

    def __init__(self, probe: Any, out: str | Path, *, part: str | None = None, **settings: Any) -> None:
        self.probe, self.out, self.part, self.settings = probe, out, part, settings
        self.recorder: Recorder | None = None
        self._done = -1

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.recorder = Recorder(self._network(pl_module), self.probe, self.out, **self.settings)
        self._done = trainer.global_step
        if self._done == 0:
            self.recorder.step(0)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.recorder is None or trainer.global_step == self._done:  # gradients are still gathered
            return
        self._done = trainer.global_step
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        self.recorder.step(self._done, loss=loss.detach().mean() if isinstance(loss, Tensor) else None)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.recorder is not None:
            self.recorder.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self.recorder is not None:
            self.recorder.__exit__(type(exception), exception, None)

    def _network(self, module: nn.Module) -> nn.Module:
        if self.part is None:
            return module
        try:
            return module.get_submodule(self.part)
        except AttributeError:
            raise bad_value(
                "part", self.part, "the LightningModule has no such module", "print its named_modules()"
            ) from None
