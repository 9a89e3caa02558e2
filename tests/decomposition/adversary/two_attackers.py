"""What each of the processes does that ``test_adversary_runs.py`` starts with torchrun."""

import sys
from pathlib import Path

import torch
from adversary_steps import trainer

from microtome.core.distributed import processes

LOSSES = [
    {"name": "pgd_recon", "coeff": 1.0, "n_steps": 3},
    {
        "name": "pgd_recon",
        "coeff": 1.0,
        "n_steps": 2,
        "mask_scope": "unique_per_datapoint",
        "sites": "subset",
    },
    {
        "name": "persistent_pgd_recon",
        "coeff": 0.5,
        "optimizer": {"type": "adam", "lr": 0.05},
        "n_warmup_steps": 1,
        "reset_prob": 0.2,
        "adv_fraction": 0.7,
    },
    {
        "name": "persistent_pgd_recon",
        "coeff": 0.5,
        "scope": {"type": "per_batch_per_position"},
        "sites": "layerwise",
    },
    {"name": "importance_minimality", "coeff": 0.1},
]


def attack(path: Path) -> None:
    """Three steps; rank 0 writes losses, gradients and what the adversaries are at the end."""
    torch.set_num_threads(1)
    with processes("cpu") as own:
        method, x = trainer(processes=own, losses=LOSSES)
        found = {f"{name} {i}": v for i in range(3) for name, v in method.compute(x, i).items()}
        grads = {f"gradient {n}": p.grad for n, p in method.parameters.items() if p.grad is not None}
        if own.main:
            torch.save(found | grads | method.state_tensors(), path)


if __name__ == "__main__":
    attack(Path(sys.argv[1]))
