"""The optimiser of a decomposition: subcomponents and gates apart, each with its own rate and clipping."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from microtome.core.schedules import learning_rate_factor

GATES = "gates."
"""Begins the names of what belongs to causal importance functions."""


class Optimiser:
    """AdamW (no weight decay) on named parameters ``[K, ...]``: ``ci_fns`` are the gates, the rest
    ``components``.

    Clipping is by the norm over a group's parameters, for each instance by itself.
    """

    def __init__(self, parameters: Mapping[str, Tensor], config: Any) -> None:
        self.config = config
        groups = {"components": dict[str, Tensor](), "ci_fns": dict[str, Tensor]()}
        for name, tensor in parameters.items():
            groups["ci_fns" if name.startswith(GATES) else "components"][name] = tensor
        self.groups = {name: list(members.values()) for name, members in groups.items() if members}
        self.adam = torch.optim.AdamW(
            [{"params": members, "name": name} for name, members in self.groups.items()],
            lr=config.lr,
            weight_decay=0.0,
            fused=True,
        )
        limits = (getattr(config, f"grad_clip_norm_{name}", None) for name in self.groups)
        self.limits = dict(zip(self.groups, limits, strict=True))

    @property
    def rates(self) -> dict[str, float]:
        """The learning rates as they are; ``lr`` alone where both groups have the same."""
        rates = {group["name"]: group["lr"] for group in self.adam.param_groups}
        if len(set(rates.values())) == 1:
            return {"lr": next(iter(rates.values()))}
        return {f"lr/{name}": rate for name, rate in rates.items()}

    def set_rates(self, step: int) -> None:
        """The learning rates of a step."""
        for group in self.adam.param_groups:
            group["lr"] = rate_at(self.config, group["name"], step)

    def step(self) -> None:
        """Clip the gradients and take the step."""
        for name, members in self.groups.items():
            for parameter in members:
                # The fused optimiser walks memory: a transposed gradient would go to the wrong weights.
                if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
                    parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
            limit = self.limits[name]
            if limit is not None:
                clip_gradients(members, limit)
        self.adam.step()

    def state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """What AdamW remembers of a parameter."""
        return {key: torch.as_tensor(value) for key, value in self.adam.state.get(parameter, {}).items()}

    def set_state(self, parameter: Tensor, state: Mapping[str, Tensor]) -> None:
        """Go back to what ``state_of`` gave."""
        self.adam.state[parameter] = {
            key: value.to(parameter.device, copy=True) for key, value in state.items()
        }


def rate_at(config: Any, group: str, step: int) -> float:
    """The learning rate of a group at a step."""
    own = getattr(config, "learning_rate", None)
    if own is not None:
        return own(group, step)
    factor = learning_rate_factor(
        config.lr_schedule, step, config.steps, config.lr_warmup_pct, config.lr_exponential_halflife
    )
    return config.lr * factor


def clip_gradients(parameters: list[Tensor], limit: float) -> None:
    """Scale each instance's gradients so that their joint norm is at most ``limit``."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not grads:
        return
    squares = torch.stack([grad.flatten(1).square().sum(1) for grad in grads]).sum(0)
    factor = (limit / (squares.sqrt() + 1e-6)).clamp(max=1.0)
    for grad in grads:
        grad.mul_(factor.view(-1, *[1] * (grad.ndim - 1)))
