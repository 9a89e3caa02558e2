"""Training the induction-head toy."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from microtome.core.device import resolve_device
from microtome.core.runs import RunFolder
from microtome.core.seeds import generator
from microtome.data.induction import InductionSequences
from microtome.targets.induction import InductionTransformer
from microtome.targets.network import Target
from microtome.training import plots
from microtome.training.fit_toy import kept_instances, optimisation
from microtome.training.induction_config import InductionTrainConfig
from microtome.training.induction_measures import accuracy_where, induction_attention, previous_attention
from microtome.training.induction_plots import attention_patterns
from microtome.training.optimise import Report, check_final, optimise
from microtome.training.run import TrainingRun, training_run

_ROWS = 512  # sequences that a trained network is measured on


def induction_data(config: InductionTrainConfig, device: str | torch.device = "cpu") -> InductionSequences:
    """The sequences that the configuration trains on."""
    model = config.ih_model_config
    return InductionSequences(
        model.vocab_size, model.seq_len, config.pattern, config.period, config.prefix_window, device
    )


def next_token_losses(
    target: Target, data: InductionSequences, x: Int[Tensor, "K B T"]
) -> Float[Tensor, " K"]:
    """Cross entropy of the next token in nats: over all positions, or after a pair's last marker alone."""
    logits, labels = target(x), data.next_tokens(x)
    counted = slice(-1, None) if data.pattern == "pair" else slice(0, -1)
    each = nn.functional.cross_entropy(
        logits[:, :, counted].flatten(0, 2), labels[:, :, counted].flatten(), reduction="none"
    )
    return each.reshape(x.shape[0], -1).mean(-1)


def fit_induction(
    config: InductionTrainConfig, progress: Report | None = None
) -> tuple[InductionTransformer, Float[Tensor, " K"]]:
    """Train ``n_instances`` networks at once, without touching the disk.

    Returns the frozen target with the instances that ``keep`` names, and their losses on fresh sequences.
    Raises Diverged.
    """
    device = resolve_device(config.device)
    model = config.ih_model_config
    target = InductionTransformer(model).reset(config.seed).to(device)
    data = induction_data(config, device)
    draws = generator(config.seed, device, "data")
    optimise(
        target.parameters(),
        lambda _: next_token_losses(target, data, data.batch(config.batch_size, draws, model.n_instances)),
        optimisation(config, config.steps, config.lr, config.lr_schedule),
        progress,
    )
    with torch.no_grad():
        final = check_final(next_token_losses(target, data, _fresh(config, data, model.n_instances)))
    order = kept_instances(config, final)
    return target.select(order), final[order]


def train_induction(
    config: InductionTrainConfig,
    *,
    runs_root: str | Path = Path("runs"),
    out_dir: str | Path | None = None,
    command: Sequence[str] = (),
    show_progress: bool = True,
) -> RunFolder:
    """Train induction-head toys and write the run: ``ih.pth``, ``ih_train_config.yaml``, ``attention.png``.

    ``summary.json``: each instance's loss, its accuracy where what comes next has been seen and elsewhere,
    and how much each head of each layer looks at the previous token and where an induction head looks.
    Raises Diverged, and leaves nothing behind then.
    """
    model = config.ih_model_config
    name = (
        f"induction_v{model.vocab_size}_seq{model.seq_len}_d{model.d_model}_heads{model.n_heads}"
        f"_layers{model.n_layers}_seed{config.seed}"
    )
    with training_run(
        config, "induction", name, config.steps, runs_root, out_dir, command, show_progress
    ) as run:
        target, losses = fit_induction(config, run.report)
        target = target.to("cpu")
        run.folder.save_state_dict("ih.pth", target.state_dict())
        saved = model.model_copy(update={"n_instances": target.n_instances})
        config.model_copy(update={"ih_model_config": saved}).to_file(run.folder.path / "ih_train_config.yaml")
        _finish(run, target, config, losses)
    return run.folder


@torch.no_grad()
def _finish(
    run: TrainingRun, target: InductionTransformer, config: InductionTrainConfig, losses: Tensor
) -> None:
    data = induction_data(config)
    x = _fresh(config, data, target.n_instances)
    logits, patterns = target(x), target.attention(x)
    seen = data.predictable(x)
    accuracy = accuracy_where(logits, x, data)
    previous = torch.stack([previous_attention(pattern) for pattern in patterns], 1)
    induction = torch.stack([induction_attention(pattern, x) for pattern in patterns], 1)
    best = int(losses.argmin())
    figure = attention_patterns(
        [pattern[best, 0].numpy() for pattern in patterns],
        [
            list(zip(previous[best, layer].tolist(), induction[best, layer].tolist(), strict=True))
            for layer in range(len(patterns))
        ],
        int(seen[best, 0].long().argmax()) if config.pattern == "repeat" else None,
    )
    folder = run.folder
    run.image("attention", folder.save_figure("attention", figure, where=""))
    run.image("loss", folder.save_figure("loss", plots.loss_curves(folder.metrics())))
    folder.finish(
        {
            "final_loss": losses.tolist(),
            "induction_accuracy": float(accuracy[best]),
            "accuracy_seen": accuracy.tolist(),
            "accuracy_unseen": accuracy_where(logits, x, data, _unseen(data, x)).tolist(),
            "previous_token_attention": previous.tolist(),
            "induction_attention": induction.tolist(),
            "trained_instances": config.ih_model_config.n_instances,
            "steps": config.steps,
        }
    )


def _unseen(data: InductionSequences, x: Tensor) -> Tensor:
    """Positions with a next token that nothing before tells."""
    other = ~data.predictable(x)
    other[..., -1] = False
    return other


def _fresh(config: InductionTrainConfig, data: InductionSequences, n_instances: int) -> Tensor:
    """Sequences that nothing was trained on, the same for every instance."""
    draws = generator(config.seed, data.device, "final losses")
    return data.batch(_ROWS, draws).expand(n_instances, -1, -1)
