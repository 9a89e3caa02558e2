"""How a persistent source climbs: by the gradient's sign, or by Adam. The state is plain tensors."""

import torch
from torch import Tensor

from microtome.decomposition.loss_configs import AdamAscent, SignAscent

State = dict[str, Tensor]
# The step, from 0, and the share of the training that is done.
When = tuple[int, float]


def climb(
    config: SignAscent | AdamAscent, name: str, source: Tensor, grad: Tensor, state: State, when: When
) -> None:
    """Move ``source`` one step up ``grad``, in place; Adam's moments are ``state["first.<name>"]`` and so on.

    ``state["ascents"]`` is the number of this ascent, from 1. Kingma and Ba 2015, algorithm 1, upwards.
    """
    rate = rate_at(config, when)
    if isinstance(config, SignAscent):
        source.add_(grad.sign(), alpha=rate)
        return
    first, second = _moments(name, source, state)
    first.lerp_(grad, 1 - config.beta1)
    second.lerp_(grad.square(), 1 - config.beta2)
    n = int(state["ascents"])
    corrected = second / (1 - config.beta2**n)
    source.addcdiv_(first, corrected.sqrt_().add_(config.eps), value=rate / (1 - config.beta1**n))


def forget(name: str, fresh: Tensor, state: State) -> None:
    """Set the moments of the rows ``fresh`` (bool, broadcastable to the source) to zero."""
    for kind in ("first", "second"):
        if f"{kind}.{name}" in state:
            state[f"{kind}.{name}"].masked_fill_(fresh, 0.0)


def rate_at(config: SignAscent | AdamAscent, when: When) -> float:
    """The step size, or Adam's rate, at a step."""
    if config.lr_schedule is not None:
        number, fraction = when
        # A run's number of steps, from the share of them that is done; before the first, any.
        return config.lr_schedule.value_at(number, round(number / fraction) if fraction else 1 << 20)
    return config.step_size if isinstance(config, SignAscent) else config.lr


def _moments(name: str, source: Tensor, state: State) -> tuple[Tensor, Tensor]:
    for kind in ("first", "second"):
        if f"{kind}.{name}" not in state:
            state[f"{kind}.{name}"] = torch.zeros_like(source)
    return state[f"first.{name}"], state[f"second.{name}"]
