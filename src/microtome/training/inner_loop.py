"""The inner loop of meta-learning: a few gradient steps on a few labelled images, as a pure function."""

import re
from collections.abc import Collection, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from microtome.core.errors import Diverged, MicrotomeError

Parameters = dict[str, Tensor]
SMALLEST_PROBABILITY = 1e-7


def inner_loop(
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    x: Float[Tensor, "B C H W"],
    y: Int[Tensor, " B"],
    *,
    steps: int,
    lr: float | Mapping[str, Tensor],
    second_order: bool,
    only: Collection[str] | None = None,
) -> Parameters:
    """``parameters`` after ``steps`` of gradient descent on the cross entropy of ``module`` on ``(x, y)``.

    ``theta <- theta - lr * grad`` (Finn et al. 2017, equation 1). ``lr`` may be one rate a parameter
    (those without one stay). ``second_order`` keeps the graph, so that the result can be differentiated
    through the steps; without it gradients count as constants (first-order MAML). ``only`` names the
    parameters that move (ANIL: the head). Parameters that the output does not depend on stay.
    """
    adapted = dict(parameters)
    moving = [name for name in (lr if isinstance(lr, Mapping) else adapted) if only is None or name in only]
    for _ in range(steps):
        loss = classification_loss(functional_call(module, adapted, (x,)), y)
        gradients = torch.autograd.grad(
            loss, [adapted[name] for name in moving], create_graph=second_order, allow_unused=True
        )
        for name, gradient in zip(moving, gradients, strict=True):
            if gradient is not None:
                rate = lr[name] if isinstance(lr, Mapping) else lr
                adapted[name] = adapted[name] - rate * gradient
    return adapted


def inner_rates(parameters: Mapping[str, Tensor], fixed: float) -> float | dict[str, Tensor]:
    """The inner loop's learning rate of every parameter.

    ``fixed`` unless the network learns rates as parameters: ``lr_conv.i`` of convolution i + 1 and its norm,
    ``lr_fc.i`` of fully connected layer i and its norm, ``lr_classifier``.
    """
    if "lr_classifier" not in parameters:
        return fixed
    rates = {}
    for name in parameters:
        layer = name.split(".")[0]
        if layer.startswith(("conv", "bn")):
            rates[name] = parameters[f"lr_conv.{int(re.sub(r'[a-z]+', '', layer)) - 1}"]
        elif layer in ("fc_layers", "layer_norms"):
            rates[name] = parameters[f"lr_fc.{name.split('.')[1]}"]
        elif layer == "classifier":
            rates[name] = parameters["lr_classifier"]
    return rates


def classification_loss(output: Float[Tensor, "B c"], y: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """Mean cross entropy in nats. ``output`` are logits, or probabilities (rows that sum to one)."""
    if are_probabilities(output):
        return nn.functional.nll_loss(output.clamp_min(SMALLEST_PROBABILITY).log(), y)
    return nn.functional.cross_entropy(output, y)


def are_probabilities(output: Float[Tensor, "B c"]) -> bool:
    """Whether a network ends in a softmax: entries from 0 to 1, rows that sum to one."""
    with torch.no_grad():
        return bool((output >= 0).all()) and bool(((output.sum(1) - 1).abs() < 1e-4).all())


def head_of(module: nn.Module) -> tuple[str, nn.Linear]:
    """Name and module of the last linear layer, which reads the classes out.

    Raises ``MicrotomeError`` when the network has none.
    """
    heads = [(name, each) for name, each in module.named_modules() if isinstance(each, nn.Linear)]
    if not heads:
        raise MicrotomeError(
            f"{type(module).__name__}: no linear layer to read classes out of; few-shot learning needs one"
        )
    return heads[-1]


def check_finite(parameters: Mapping[str, Tensor], lr: object) -> None:
    """Raises ``Diverged`` when gradient steps ended in numbers that are not finite."""
    if not all(bool(torch.isfinite(value).all()) for value in parameters.values()):
        raise Diverged(f"adaptation with learning rate {lr} ended in numbers that are not finite; lower it")
