"""Few-shot training runs: the folders that ``microtome train few-shot`` writes."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from microtome.core.device import resolve_device, set_threads
from microtome.core.progress import progress
from microtome.core.runs import RunFolder
from microtome.core.tensor_files import write_safetensors
from microtome.data.few_shot import label_of
from microtome.training import few_shot_plots as plots
from microtome.training.few_shot_config import FewShotTrainConfig
from microtome.training.few_shot_data import FewShotImages, few_shot_images, training_episodes
from microtome.training.few_shot_loop import fit_few_shot, training_classes
from microtome.training.few_shot_measures import accuracy_rows, held_out_episodes, measure_few_shot
from microtome.training.few_shot_network import check_outputs, network_architecture, new_network
from microtome.training.run import TrainingRun, training_run

MEAN, STD = 0.5, 0.5  # of pixels in [0, 1], as networks take them


def train_few_shot(
    config: FewShotTrainConfig,
    *,
    runs_root: str | Path = Path("runs"),
    out_dir: str | Path | None = None,
    command: Sequence[str] = (),
    show_progress: bool = True,
) -> RunFolder:
    """Train a network for few-shot learning, test it on held-out classes, and write the run.

    ``model.safetensors`` and ``initial.safetensors`` (its start values), ``network.json``, ``summary.json``
    with the accuracies after adaptation beside those of the untrained network, pictures. Raises
    ``MicrotomeError`` before anything is written when images or settings do not fit, ``Diverged``.
    """
    set_threads(config.threads, small=True)
    images = few_shot_images(config)
    _check(config, images)
    channels, size = images.train.pixels.shape[1], images.train.pixels.shape[-1]
    n_classes = training_classes(images, config)
    architecture = network_architecture(config, channels, size, n_classes)
    module = new_network(config, architecture)
    check_outputs(config.network, module, images.train.inputs(slice(0, 2), mean=MEAN, std=STD), n_classes)
    module.to(resolve_device(config.device))
    name = f"few-shot_{config.algorithm}_{config.network.split('(')[0]}_seed{config.seed}"
    with training_run(
        config, "few-shot", name, config.steps, runs_root, out_dir, command, show_progress
    ) as run:
        initial = copy.deepcopy(module).eval().requires_grad_(False)
        fit_few_shot(module, images, config, run.report)
        folder = run.folder
        for file, network in (("model", module), ("initial", initial)):
            write_safetensors(folder.path / f"{file}.safetensors", network.state_dict(), {})
        described = {"channels": channels, "size": size, "mean": MEAN, "std": STD}
        folder.save_json("network.json", {"architecture": architecture, **described})
        networks = {"trained": module, "untrained": initial}
        total = config.test_episodes * len(config.test_shots)
        with progress("adapting to new classes", total, enabled=show_progress) as bar:
            curves = measure_few_shot(networks, images, config, bar.update)
        rows = accuracy_rows(curves)
        named = {f"{each.network}_{each.head}_{each.shots}": each.values for each in curves}
        folder.save_arrays("accuracies", named)
        _draw(run, config, rows)
        folder.finish(_summary(config, images, rows, folder))
    return folder


def _check(config: FewShotTrainConfig, images: FewShotImages) -> None:
    """Draw one episode of each kind, so that too few images or classes are said before training."""
    draws = torch.Generator().manual_seed(0)
    if config.algorithm != "supervised":
        training_episodes(config, images, draws)
    for shots in config.test_shots:
        held_out_episodes(config, images, shots)


def _draw(run: TrainingRun, config: FewShotTrainConfig, rows: list[dict[str, Any]]) -> None:
    folder = run.folder
    what = "training images" if config.algorithm == "supervised" else "queries"
    curves = plots.training_curves(folder.metrics(), what)
    run.image("training", folder.save_figure("training", curves))
    run.image("adaptation", folder.save_figure("adaptation", plots.adaptation(rows, config.ways)))


def _summary(
    config: FewShotTrainConfig, images: FewShotImages, rows: list[dict[str, Any]], folder: RunFolder
) -> dict[str, Any]:
    return {
        "algorithm": config.algorithm,
        "ways": config.ways,
        "chance": 1 / config.ways,
        "best": {str(shots): _best(rows, shots) for shots in config.test_shots},
        "accuracies": rows,
        "training_loss": folder.metrics()[-1]["loss"],
        "training_classes": len(label_of(images.train, images.label).names),
        "held_out": list(label_of(images.test, config.split_by or images.label).names),
        "steps": config.steps,
    }


def _best(rows: list[dict[str, Any]], shots: int) -> dict[str, Any]:
    """The row with the most steps of the head that is the algorithm's own."""
    own = [row for row in rows if row["shots"] == shots and row["head"] == "own"]
    fresh = [row for row in rows if row["shots"] == shots and row["head"] == "fresh"]
    return max(own or fresh, key=lambda row: row["steps"])
