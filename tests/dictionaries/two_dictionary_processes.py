"""What each process does that ``test_training.py`` starts with torchrun, and what one alone does."""

import sys
from pathlib import Path

import torch

from microtome.core.distributed import Processes, processes
from microtome.dictionaries.buffer import TensorSource
from microtome.dictionaries.loop import TrainingLoop
from microtome.dictionaries.planted import PlantedData
from microtome.dictionaries.train_config import DictionaryTraining

STEPS, BATCH = 12, 128
ARCHITECTURES = ("batch_topk", "topk", "matryoshka", "gated", "jumprelu")


def settings(architecture: str) -> DictionaryTraining:
    return DictionaryTraining.from_mapping(
        {
            "architecture": architecture,
            "n_features": 96,
            "k": 3,
            "steps": STEPS,
            "batch_size": BATCH,
            "buffer": STEPS * BATCH,
            "lr": 3e-3,
            "dead_after": 500,
            "shuffle": False,
            "device": "cpu",
        }
    )


def train(config: DictionaryTraining, rank: int, size: int, group: Processes | None = None):
    data = PlantedData(n_features=48, d=24, active=3.0)
    x = torch.cat(data.stream(BATCH, STEPS))[rank::size]
    loop = TrainingLoop(TensorSource(x, chunk=len(x)), config, processes=group, show=False)
    loop.train()
    return {name: value.detach() for name, value in loop.finished()["activations"].named_parameters()}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with processes("cpu") as group:
        for architecture in ARCHITECTURES:
            found = train(settings(architecture), group.rank, group.size, group)
            torch.save(found, folder / f"{architecture}{group.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
