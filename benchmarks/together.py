"""Trials of a sweep as one batched program, against the same trials one after the other in one process.

    python benchmarks/together.py [RECIPE ...] [--trials 4] [--steps 100]

Whole runs: training, measuring and writing, without pictures, on untrained targets. The trials differ in
seed and in the minimality coefficient (SPD) or top-k (APD). CPU seconds on one thread.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from microtome.cli.recipes import find_config
from microtome.core.config import read_yaml
from microtome.core.device import tune_allocator
from microtome.decomposition.config import DecompositionConfig, config_from_mapping
from microtome.decomposition.decompose import run_config
from microtome.decomposition.together import run_together
from microtome.training.config import ResidMLPTrainConfig, TMSTrainConfig
from microtome.training.toy import train_resid_mlp, train_tms

TARGETS = {
    "tms_5-2": "train_tms_5-2",
    "tms_5-2_apd": "train_tms_5-2",
    "tms_40-10": "train_tms_40-10",
    "tms_40-10_apd": "train_tms_40-10",
    "resid_mlp1": "train_resid_mlp1",
}


def target_of(recipe: str, folder: Path) -> Path:
    """The recipe's target after one training step: its quality does not change what a step costs."""
    values = read_yaml(find_config(TARGETS[recipe])) | {"steps": 1}
    if "resid_mlp" in recipe:
        return (
            train_resid_mlp(
                ResidMLPTrainConfig.from_mapping(values), out_dir=folder, show_progress=False
            ).path
            / "resid_mlp.pth"
        )
    return (
        train_tms(TMSTrainConfig.from_mapping(values), out_dir=folder, show_progress=False).path / "tms.pth"
    )


def trials(recipe: str, target: Path, count: int, steps: int) -> list[DecompositionConfig]:
    """Configurations that share shapes."""
    base: dict[str, Any] = read_yaml(find_config(recipe)) | {"steps": steps, "pictures": False, "n_seeds": 1}
    configs = []
    for i in range(count):
        if base.get("method") == "apd":
            task = base["task_config"] | {"pretrained_model_path": str(target)}
            more = {"topk": base["topk"] * (1 + 0.1 * i), "task_config": task, "n_instances": 1}
        else:
            coefficient = float(base["importance_minimality_coeff"]) * (1 + 0.1 * i)
            more = {"importance_minimality_coeff": coefficient, "pretrained_model_path": str(target)}
            more["instances"] = [0]
        configs.append(config_from_mapping(base | more | {"seed": i, "threads": 1}))
    return configs


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", default=list(TARGETS), metavar="RECIPE")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tune_allocator()
    print(f"{'recipe':<16}{'trials':>8}{'together':>10}{'one by one':>12}{'ratio':>7}   (CPU seconds)")
    for recipe in arguments.recipes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            configs = trials(recipe, target_of(recipe, folder / "target"), arguments.trials, arguments.steps)
            paths = [folder / f"alone-{i}" for i in range(len(configs))]

            def alone(configs: list[DecompositionConfig] = configs, paths: list[Path] = paths) -> None:
                for config, path in zip(configs, paths, strict=True):
                    run_config(config, out_dir=path, progress=False)

            apart = cpu_seconds(alone)
            joined = [folder / f"together-{i}" for i in range(len(configs))]
            shared = cpu_seconds(
                lambda configs=configs, joined=joined: run_together(configs, joined, progress=False)
            )
        row = f"{recipe:<16}{len(configs):>8}{shared:>10.1f}{apart:>12.1f}{apart / shared:>7.1f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
