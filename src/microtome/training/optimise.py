"""The one training loop: K networks, one program, AdamW."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from microtome.core.errors import Diverged
from microtome.core.schedules import learning_rate_factor

Report = Callable[[int, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Optimisation:
    """Steps, learning rate and its schedule."""

    steps: int
    lr: float
    lr_schedule: str = "constant"
    lr_warmup_pct: float = 0.0
    lr_exponential_halflife: float | None = None
    weight_decay: float = 0.01
    report_every: int = 100

    def lr_at(self, step: int) -> float:
        """Learning rate of step ``step``."""
        factor = learning_rate_factor(
            self.lr_schedule, step, self.steps, self.lr_warmup_pct, self.lr_exponential_halflife
        )
        return self.lr * factor


def optimise(
    parameters: Iterable[nn.Parameter],
    losses_at: Callable[[int], Float[Tensor, " K"]],
    settings: Optimisation,
    report: Report | None = None,
) -> None:
    """Minimise the K losses of ``losses_at(step)`` with AdamW, in place.

    The losses are summed for the backward pass; Adam works entry by entry, so that each instance moves as
    if it were alone. ``report(step, {"loss", "losses", "lr"})`` is called every ``report_every`` steps and at
    the end, with ``loss`` the mean over instances. Raises Diverged at the first loss that is not finite
    (on an accelerator: at the first report after it).
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    on_cpu = all(parameter.device.type == "cpu" for parameter in trained)
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in trained)
    optimiser = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)
    for step in range(settings.steps):
        lr = settings.lr_at(step)
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.zero_grad(set_to_none=True)
        losses = losses_at(step)
        losses.sum().backward()
        reporting = step % settings.report_every == 0 or step + 1 == settings.steps
        if on_cpu or reporting:
            _check_finite(losses.detach(), step, lr)
        optimiser.step()
        if reporting and report is not None:
            values = losses.detach().tolist()
            report(step, {"loss": sum(values) / len(values), "losses": values, "lr": lr})


def check_final(losses: Float[Tensor, " K"]) -> Float[Tensor, " K"]:
    """The final losses. Raises Diverged when the last step made one of them not finite."""
    if not bool(torch.isfinite(losses).all()):
        raise Diverged(f"the final training losses {losses.tolist()} are no finite numbers; lower lr")
    return losses


def _check_finite(losses: Tensor, step: int, lr: float) -> None:
    if bool(torch.isfinite(losses.sum())):
        return
    instance = int((~torch.isfinite(losses)).to(torch.int).argmax())
    raise Diverged(
        f"the training loss of instance {instance} is no finite number at step {step} "
        f"(learning rate {lr:.3g}); lower lr"
    )
