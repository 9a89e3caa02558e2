"""The outer loop of few-shot training, and the loop of plain classification."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from microtome.core.errors import Diverged
from microtome.core.schedules import learning_rate_factor
from microtome.core.seeds import generator, stream_seed
from microtome.data.few_shot import Episode, label_of
from microtome.training.few_shot_config import FewShotTrainConfig
from microtome.training.few_shot_data import FewShotImages, training_episodes
from microtome.training.inner_loop import classification_loss, inner_rates
from microtome.training.meta_gradients import meta_step

Report = Callable[[int, Mapping[str, Any]], None]
Step = Callable[[], tuple[float, float]]  # fills .grad; loss and accuracy


def fit_few_shot(
    module: nn.Module, images: FewShotImages, config: FewShotTrainConfig, report: Report | None = None
) -> None:
    """Train ``module`` in place with Adam, by the algorithm of ``config``, and leave it frozen, evaluated.

    ``report(step, {"loss", "accuracy", "lr"})`` every ``print_freq`` steps and at the end, with means since
    the last one: of the queries after adaptation, or of the training images for ``supervised``. Raises
    ``Diverged`` at the first loss that is not finite.
    """
    # Convolutions of a CPU take half the time so.
    module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    module.train().requires_grad_()
    # Dropout draws from the global state.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(config.seed, "dropout"))
        if config.algorithm == "supervised":
            step = supervised_steps(module, images, config)
        else:
            step = meta_steps(module, images, config)
        _optimise(module, step, config, report)
    module.eval().requires_grad_(False)


def meta_steps(module: nn.Module, images: FewShotImages, config: FewShotTrainConfig) -> Step:
    """Each call sets the mean outer gradient of ``tasks`` episodes."""
    episodes = training_episodes(config, images, generator(config.seed, stream="episodes"))
    parameters = dict(module.named_parameters())
    device = next(module.parameters()).device

    def step() -> tuple[float, float]:
        losses, accuracies = 0.0, 0.0
        for _ in range(config.tasks):
            # One task at a time: batching them is a grouped convolution, several times slower on a CPU.
            found = meta_step(
                config.algorithm,
                module,
                parameters,
                _moved(episodes.draw(), device),
                steps=config.inner_steps,
                lr=inner_rates(parameters, config.inner_lr),
            )
            losses, accuracies = losses + found.loss, accuracies + found.accuracy
            for name, gradient in found.gradients.items():
                _add(parameters[name], gradient / config.tasks)
        return losses / config.tasks, accuracies / config.tasks

    return step


def _moved(episode: Episode, device: torch.device) -> Episode:
    return Episode(
        episode.support_x.to(device, memory_format=torch.channels_last),
        episode.support_y.to(device),
        episode.query_x.to(device, memory_format=torch.channels_last),
        episode.query_y.to(device),
    )


def _add(parameter: Tensor, gradient: Tensor) -> None:
    parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad.add_(gradient)


def supervised_steps(module: nn.Module, images: FewShotImages, config: FewShotTrainConfig) -> Step:
    """Each call sets the gradient of the cross entropy of ``batch_size`` random training images.

    With ``rotations`` quarter turns are classes of their own, class ``c`` turned ``r`` times number ``r n +
    c``.
    """
    draws = generator(config.seed, stream="batches")
    labels = label_of(images.train, images.label)
    classes = torch.as_tensor(labels.values, dtype=torch.int64)
    device = next(module.parameters()).device

    def step() -> tuple[float, float]:
        rows = torch.randint(len(classes), (config.batch_size,), generator=draws)
        x, y = images.train.inputs(rows), classes[rows]
        if config.rotations:
            turns = torch.randint(4, (config.batch_size,), generator=draws)
            for turn in (1, 2, 3):
                x[turns == turn] = torch.rot90(x[turns == turn], turn, (2, 3))
            y = y + turns * len(labels.names)
        y = y.to(device)
        output = module(x.to(device, memory_format=torch.channels_last))
        loss = classification_loss(output, y)
        loss.backward()
        return float(loss.detach()), float((output.detach().argmax(1) == y).float().mean())

    return step


def training_classes(images: FewShotImages, config: FewShotTrainConfig) -> int:
    """Outputs that the network needs: the classes of an episode, or all there are for ``supervised``."""
    if config.algorithm != "supervised":
        return config.ways
    return len(label_of(images.train, images.label).names) * (4 if config.rotations else 1)


def _optimise(module: nn.Module, step: Step, config: FewShotTrainConfig, report: Report | None) -> None:
    trained = [each for each in module.parameters() if each.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=config.lr)
    sums, counted = [0.0, 0.0], 0
    for number in range(config.steps):
        lr = config.lr * learning_rate_factor(config.lr_schedule, number, config.steps)
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.zero_grad(set_to_none=True)
        loss, accuracy = step()
        if not math.isfinite(loss):
            raise Diverged(
                f"the training loss is no finite number at step {number}; lower lr or inner_lr"
                f" (now {lr:.3g} and {config.inner_lr:.3g})"
            )
        optimiser.step()
        sums, counted = [sums[0] + loss, sums[1] + accuracy], counted + 1
        last = number + 1 == config.steps
        if report is not None and (last or (number + 1) % config.print_freq == 0 or number == 0):
            report(number, {"loss": sums[0] / counted, "accuracy": sums[1] / counted, "lr": lr})
            sums, counted = [0.0, 0.0], 0
