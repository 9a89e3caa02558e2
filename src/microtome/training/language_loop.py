"""The training loop of a language model: can be stopped, saved, and carried on bit for bit on a CPU."""

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from microtome.core.errors import CannotLoad, Diverged
from microtome.core.interrupts import stop_signals
from microtome.core.progress import progress
from microtome.core.runs import RunFolder
from microtome.core.schedules import learning_rate_factor
from microtome.core.seeds import generator
from microtome.core.tracking import Tracker
from microtome.targets.token_losses import sum_token_losses
from microtome.training.language_config import LanguageModelTrainConfig
from microtome.training.language_data import TokenData

CHECKPOINT_SECONDS = 30.0
BETAS = (0.9, 0.95)


class LanguageLoop:
    """AdamW on the mean token loss of random windows. ``run=None`` trains without touching the disk."""

    def __init__(
        self,
        model: Any,
        data: TokenData,
        config: LanguageModelTrainConfig,
        run: RunFolder | None,
        extra: Mapping[str, Any],
        tracker: Tracker | None = None,
    ) -> None:
        self.model, self.data, self.config, self.run = model, data, config, run
        self.extra, self.tracker = dict(extra), tracker
        self.device = model.get_input_embeddings().weight.device
        self.fused = self.device.type in ("cpu", "cuda")
        self.parameters = dict(model.named_parameters())
        matrices = [p for p in self.parameters.values() if p.ndim > 1]
        vectors = [p for p in self.parameters.values() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=config.lr,
            betas=BETAS,
            fused=self.fused,
        )
        self.draws = generator(config.seed, "cpu", "windows")
        self.step = 0
        # Of the steps since the last line of metrics; summed where it is, so that no step asks the device.
        self.loss_sum = torch.zeros((), device=self.device)
        self.since = 0
        self._saved_at = time.monotonic()

    def train(self, show: bool = True) -> None:
        """Run up to the configured number of steps.

        Raises ``Diverged`` when the loss stops being finite and ``KeyboardInterrupt`` after saving when the
        user stops the run.
        """
        c = self.config
        if self.step == 0:
            self.save()
        began, began_at = time.monotonic(), self.step
        with stop_signals() as stopped, progress("train language-model", c.steps, self.step, show) as bar:
            while self.step < c.steps:
                self.loss_sum += self._one_step()
                self.step += 1
                last = self.step == c.steps
                if self.step % c.print_freq == 0 or last:
                    spent = (time.monotonic() - began) / (self.step - began_at)
                    bar.update(self.step, self._log(spent))
                    began, began_at = time.monotonic(), self.step
                else:
                    bar.update(self.step)
                if last or stopped.is_set() or time.monotonic() - self._saved_at > CHECKPOINT_SECONDS:
                    self.save()
                if stopped.is_set() and not last:
                    self._stop()

    def _one_step(self) -> Tensor:
        c = self.config
        rate = c.lr * learning_rate_factor(c.lr_schedule, self.step, c.steps, c.lr_warmup_pct)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        ids = self.data.windows(c.batch_size, c.context_length, self.draws).to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        loss, n_tokens = sum_token_losses(self.model, ids, torch.ones_like(ids))
        loss = loss / n_tokens
        loss.backward()
        if c.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.parameters.values(), c.grad_clip)
        self.optimizer.step()
        return loss.detach()

    def _log(self, seconds: float) -> dict[str, float]:
        """One line of metrics: the mean training loss since the last one, and at times the held-out loss.

        ``seconds``: what a step took.
        """
        c, since = self.config, self.since
        loss = float(self.loss_sum) / (self.step - since)
        self.loss_sum, self.since = torch.zeros_like(self.loss_sum), self.step
        if not math.isfinite(loss):
            kept = f" (the last good checkpoint is kept in {self.run.path})" if self.run is not None else ""
            raise Diverged(
                f"the training loss is no finite number between steps {since} and {self.step}; lower lr{kept}"
            )
        values = {
            "loss": loss,
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "tokens_per_second": c.batch_size * c.context_length / max(seconds, 1e-9),
        }
        if self.step == c.steps or (c.eval_freq is not None and self.step % c.eval_freq == 0):
            values["held_out_loss"] = self.held_out_loss()
        if self.run is not None:
            self.run.log(self.step, values)
        if self.tracker is not None:
            self.tracker.log(self.step, values)
        return {name: values[name] for name in ("loss", "held_out_loss") if name in values}

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean loss in nats a token over the whole held-out text, read in windows one after the other.

        A window begins with the last token of the one before, so that every token but the first is predicted
        once.
        """
        row, length = self.data.held_out, self.config.context_length
        total, count = 0.0, 0
        starts = range(0, len(row) - 1, length - 1)
        whole = [row[start : start + length] for start in starts if start + length <= len(row)]
        rest = [row[start:] for start in starts if start + length > len(row)]
        batches = [torch.stack(whole[i : i + 64]) for i in range(0, len(whole), 64)]
        for ids in [*batches, *(window[None] for window in rest)]:
            ids = ids.to(self.device)
            loss, n_tokens = sum_token_losses(self.model, ids, torch.ones_like(ids))
            total, count = total + float(loss), count + n_tokens
        return total / count

    def _stop(self) -> None:
        where = ""
        if self.run is not None:
            where = (
                f", everything saved; carry on with `microtome train language-model --resume {self.run.path}`"
            )
        raise KeyboardInterrupt(f"Stopped after step {self.step}{where}")

    # -- state ---------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint. Raises ``Diverged`` instead when a weight is not finite."""
        self._saved_at = time.monotonic()
        if self.run is None:
            return
        for name, tensor in self.parameters.items():
            if not torch.isfinite(tensor).all():
                raise Diverged(f"{name}: not finite after step {self.step}; lower lr")
        self.run.save_checkpoint(self.step, self.state(), self.extra)

    def state(self) -> dict[str, Tensor]:
        """Parameters, optimiser and the random stream, by name."""
        tensors = {name: tensor.detach() for name, tensor in self.parameters.items()}
        for name, tensor in self.parameters.items():
            for key, value in self.optimizer.state.get(tensor, {}).items():
                tensors[f"optimizer/{name}/{key}"] = torch.as_tensor(value)
        tensors["random/windows"] = self.draws.get_state()
        tensors["metrics/loss_sum"], tensors["metrics/since"] = self.loss_sum, torch.tensor(self.since)
        return tensors

    def restore(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a saved state; later lines of the metrics are forgotten. Raises ``CannotLoad``."""
        if step > self.config.steps:
            raise CannotLoad(
                f"steps={self.config.steps}: the run is at step {step} already; give at least that"
            )
        self.step = step
        for name, parameter in self.parameters.items():
            saved = tensors.get(name)
            if saved is None or saved.shape != parameter.shape:
                raise CannotLoad(
                    f"{name}: the configuration asks for another shape than the checkpoint has; undo the"
                    " changes to config.yaml, or start a new run"
                )
            with torch.no_grad():
                parameter.copy_(saved)
            prefix = f"optimizer/{name}/"
            state = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
            if state:
                self.optimizer.state[parameter] = {
                    # Only the fused optimiser keeps its step counts beside the parameters.
                    key: value.to("cpu" if key == "step" and not self.fused else parameter.device, copy=True)
                    for key, value in state.items()
                }
        self.draws.set_state(tensors["random/windows"])
        self.loss_sum = tensors["metrics/loss_sum"].to(self.device, copy=True)
        self.since = int(tensors["metrics/since"])
        if self.run is not None:
            self.run.drop_metrics_after(step)
