"""Outer gradients of meta-learning: how the start values should move, seen from one episode."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from microtome.data.few_shot import Episode
from microtome.training.inner_loop import classification_loss, head_of, inner_loop


@dataclass(frozen=True)
class MetaStep:
    """Loss (nats) and accuracy on the queries after adaptation, and the gradient of each parameter."""

    loss: float
    accuracy: float
    gradients: dict[str, Tensor]


def meta_step(
    algorithm: str,
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    episode: Episode,
    *,
    steps: int,
    lr: float | Mapping[str, Tensor],
) -> MetaStep:
    """The outer gradient of ``parameters`` from one episode by ``maml|fomaml|anil|reptile``.

    ``steps`` and ``lr`` are the inner loop's.
    """
    if algorithm == "reptile":
        assert not isinstance(lr, Mapping)
        return reptile_step(module, parameters, episode, steps=steps, lr=lr)
    only = None
    if algorithm == "anil":
        head = head_of(module)[0]
        only = [name for name in parameters if name.startswith(f"{head}.")]
    adapted = inner_loop(
        module,
        parameters,
        episode.support_x,
        episode.support_y,
        steps=steps,
        lr=lr,
        second_order=algorithm != "fomaml",
        only=only,
    )
    output = functional_call(module, adapted, (episode.query_x,))
    loss = classification_loss(output, episode.query_y)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return MetaStep(float(loss.detach()), _accuracy(output, episode), _named(parameters, gradients))


def reptile_step(
    module: nn.Module, parameters: Mapping[str, Tensor], episode: Episode, *, steps: int, lr: float
) -> MetaStep:
    """Reptile (Nichol et al. 2018): ``(theta - phi) / (steps lr)`` with ``phi`` after steps on all images.

    Their difference is handed to the outer optimiser as if it were a gradient, as the paper allows; the
    division makes it the mean gradient along the way. Loss and accuracy are of the queries after steps.
    """
    x = torch.cat([episode.support_x, episode.query_x])
    y = torch.cat([episode.support_y, episode.query_y])
    adapted = inner_loop(module, parameters, x, y, steps=steps, lr=lr, second_order=False)
    with torch.no_grad():
        output = functional_call(module, adapted, (episode.query_x,))
        moved = {name: (parameters[name] - adapted[name]) / (steps * lr) for name in parameters}
    loss = float(classification_loss(output, episode.query_y))
    return MetaStep(loss, _accuracy(output, episode), moved)


def _named(parameters: Mapping[str, Tensor], gradients: tuple[Tensor | None, ...]) -> dict[str, Tensor]:
    return {
        name: gradient for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None
    }


def _accuracy(output: Tensor, episode: Episode) -> float:
    return float((output.detach().argmax(1) == episode.query_y).float().mean())
