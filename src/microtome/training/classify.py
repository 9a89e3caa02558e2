"""Training small classifiers on real images: the handwritten digits."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.device import resolve_device
from microtome.core.runs import RunFolder
from microtome.core.seeds import generator
from microtome.data.images import ArrayData, digits
from microtome.targets.config import MLPModelConfig
from microtome.targets.mlp import MLP
from microtome.targets.network import Target
from microtome.training import plots
from microtome.training.config import DigitsTrainConfig
from microtome.training.fit_toy import kept_instances, optimisation
from microtome.training.optimise import Report, check_final, optimise
from microtome.training.run import training_run


def fit_digits(config: DigitsTrainConfig, progress: Report | None = None) -> tuple[MLP, Float[Tensor, " K"]]:
    """Train ``n_instances`` ReLU classifiers of the 8x8 digits at once, without touching the disk.

    Cross entropy on the training half. Returns the frozen target with the instances that ``keep`` names and
    their mean cross entropy over the training half. Raises Diverged.
    """
    device = resolve_device(config.device)
    k = config.n_instances
    target = MLP(MLPModelConfig(sizes=(64, *config.hidden_sizes, 10), n_instances=k)).reset(config.seed)
    target.to(device)
    train = digits().train
    train = ArrayData(train.x.to(device), None if train.y is None else train.y.to(device))
    draws = generator(config.seed, device, "data")
    optimise(
        target.parameters(),
        lambda _: cross_entropy(target, *train.labelled_batch(config.batch_size, draws, k)),
        optimisation(config, config.steps, config.lr, config.lr_schedule),
        progress,
    )
    assert train.y is not None
    with torch.no_grad():
        final = check_final(cross_entropy(target, train.all(k), train.y.expand(k, -1)))
    order = kept_instances(config, final)
    return target.select(order), final[order]


def cross_entropy(target: Target, x: Float[Tensor, "K B d"], y: Tensor) -> Float[Tensor, " K"]:
    """Mean cross entropy of each instance, in nats; ``y [K, B]`` are classes."""
    logits = target(x)
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
    return losses.reshape(y.shape).mean(-1)


@torch.no_grad()
def accuracy(target: Target, data: ArrayData) -> Float[Tensor, " K"]:
    """Share of the rows whose class each instance gets right, 0 to 1."""
    assert data.y is not None
    k = target.n_instances
    return (target(data.all(k)).argmax(-1) == data.y).float().mean(-1)


def train_digits(
    config: DigitsTrainConfig,
    *,
    runs_root: str | Path = Path("runs"),
    out_dir: str | Path | None = None,
    command: Sequence[str] = (),
    show_progress: bool = True,
) -> RunFolder:
    """Train digit classifiers and write the run: ``digits.pth``, ``digits_train_config.yaml``.

    ``summary.json``: each instance's final loss and its accuracy on the training and on the test images.
    Raises Diverged, and leaves nothing behind then.
    """
    sizes = "-".join(map(str, (64, *config.hidden_sizes, 10)))
    name = f"digits_mlp_{sizes}_n-instances{config.n_instances}_seed{config.seed}"
    with training_run(
        config, "digits", name, config.steps, runs_root, out_dir, command, show_progress
    ) as run:
        target, losses = fit_digits(config, run.report)
        target = target.to("cpu")
        folder, (train, test) = run.folder, digits()
        folder.save_state_dict("digits.pth", target.state_dict())
        saved = config.model_copy(update={"n_instances": target.n_instances})
        saved.to_file(folder.path / "digits_train_config.yaml")
        run.image("loss", folder.save_figure("loss", plots.loss_curves(folder.metrics())))
        folder.finish(
            {
                "final_loss": losses.tolist(),
                "train_accuracy": accuracy(target, train).tolist(),
                "test_accuracy": accuracy(target, test).tolist(),
                "trained_instances": config.n_instances,
                "steps": config.steps,
            }
        )
    return folder
