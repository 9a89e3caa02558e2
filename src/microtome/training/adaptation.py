"""Fitting a trained network to new classes from a few images, and how well that goes."""

import copy
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from microtome.core.errors import bad_value
from microtome.data.few_shot import Episode, Episodes
from microtome.data.labelled_images import LabelledImages
from microtome.targets.image_network import ImageNetwork
from microtome.training.inner_loop import check_finite, classification_loss, head_of, inner_rates

Head = Literal["own", "fresh", "centroid"]


def adapt(
    module: nn.Module,
    x: Float[Tensor, "B C H W"],
    y: Int[Tensor, " B"],
    *,
    steps: int,
    lr: float,
    n_classes: int,
    head: Head = "own",
) -> nn.Module:
    """A copy of ``module`` after ``steps`` gradient steps on ``(x, y)``, evaluated and frozen.

    ``own`` starts from the network's own last linear layer, ``fresh`` from one of zeros, ``centroid`` from
    the directions of the classes' mean features, so that its answer is the class nearest in cosine (no steps
    needed). With its own head a network that learned rates for its layers (conv2lr, ...) takes those and not
    ``lr``. The module itself stays as it is. Raises ``MicrotomeError`` when its own layer has not
    ``n_classes`` outputs, ``Diverged``.
    """
    adapted = with_head(module, x, y, n_classes, head)
    _descend(adapted, x, y, steps, lr, head)
    return adapted.requires_grad_(False)


def with_head(
    module: nn.Module, x: Float[Tensor, "B C H W"], y: Int[Tensor, " B"], n_classes: int, head: Head
) -> nn.Module:
    """A copy of ``module`` in evaluation mode whose last linear layer is ``head``'s."""
    adapted = copy.deepcopy(module).eval().requires_grad_(False)
    name, own = head_of(adapted)
    if head == "own":
        if own.out_features != n_classes:
            raise bad_value(
                "head", head, f"{name} has {own.out_features} outputs for {n_classes} classes", "use fresh"
            )
        return adapted
    layer = nn.Linear(own.in_features, n_classes, device=own.weight.device, dtype=own.weight.dtype)
    with torch.no_grad():
        layer.bias.zero_()
        if head == "fresh":
            layer.weight.zero_()
        else:
            layer.weight.copy_(_centroid_directions(features(adapted, x), y, n_classes))
    adapted.set_submodule(name, layer.requires_grad_(False))
    return adapted


@torch.no_grad()
def features(module: nn.Module, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B d"]:
    """What the last linear layer of ``module`` reads."""
    _, head = head_of(module)
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        module(x)
    finally:
        handle.remove()
    return seen[-1]


def _centroid_directions(
    rows: Float[Tensor, "B d"], y: Int[Tensor, " B"], n_classes: int
) -> Float[Tensor, "n_classes d"]:
    members = nn.functional.one_hot(y, n_classes).to(rows)
    means = (members.T @ rows) / members.sum(0)[:, None]
    return nn.functional.normalize(means)


def _descend(module: nn.Module, x: Tensor, y: Tensor, steps: int, lr: float, head: Head) -> None:
    """Gradient descent in place: what ``inner_loop`` computes, without its graph."""
    if steps == 0:
        return
    named = dict(module.named_parameters())
    rates = inner_rates(named, lr) if head == "own" else lr
    moving = (
        {name: float(rates[name]) for name in rates} if isinstance(rates, dict) else dict.fromkeys(named, lr)
    )
    parameters = [named[name].requires_grad_() for name in moving]
    for _ in range(steps):
        loss = classification_loss(module(x), y)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        with torch.no_grad():
            for each, rate, gradient in zip(parameters, moving.values(), gradients, strict=True):
                if gradient is not None:
                    each.sub_(gradient, alpha=rate)
    check_finite(named, lr)


def few_shot_accuracy(
    network: ImageNetwork,
    images: LabelledImages,
    label: str,
    *,
    ways: int,
    shots: int,
    episodes: int,
    steps: int,
    lr: float,
    head: Head = "own",
    generator: torch.Generator,
    queries: int = 15,
    rotations: bool = False,
    within: str | None = None,
) -> Float[np.ndarray, " episodes"]:
    """Share of an episode's queries that the network gets right after adapting to its support, for each.

    All queries of an episode go through the network as one batch, as MAML does. The same generator state
    gives the same episodes, so that networks can be compared episode by episode.
    """
    source = Episodes(
        images,
        label,
        ways=ways,
        shots=shots,
        queries=queries,
        rotations=rotations,
        within=within,
        mean=network.mean,
        std=network.std,
        generator=generator,
    )
    drawn = (source.draw() for _ in range(episodes))
    rows = [adaptation_curve(network.module, each, [steps], lr, head) for each in drawn]
    return np.array(rows, dtype=float).reshape(episodes)


def adaptation_curve(
    module: nn.Module, episode: Episode, steps: Sequence[int], lr: float, head: Head
) -> list[float]:
    """Accuracy on the queries after each of the numbers of ``steps`` (rising), along one adaptation."""
    device = next(module.parameters()).device
    x, y = episode.support_x.to(device), episode.support_y.to(device)
    adapted = with_head(module, x, y, int(y.max()) + 1, head)
    accuracies, done = [], 0
    for count in steps:
        _descend(adapted, x, y, count - done, lr, head)
        done = count
        with torch.no_grad():
            answers = adapted(episode.query_x.to(device)).argmax(1)
        accuracies.append(float((answers == episode.query_y.to(device)).float().mean()))
    return accuracies
