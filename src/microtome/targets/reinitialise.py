"""Fresh weights for a network whose code is not at hand."""

import copy

import torch
from torch import nn

from microtome.core.seeds import generator
from microtome.targets.module_sources import seeded


def reinitialised(module: nn.Module, seed: int) -> tuple[nn.Module, bool]:
    """A copy with fresh weights, and whether every part could be asked for its own initialisation.

    Parts with ``reset_parameters`` get what that gives. The others' matrices and kernels are drawn anew from
    a normal distribution of the same mean and deviation, their vectors (biases, gains) shuffled.
    """
    fresh = copy.deepcopy(module)
    random = generator(seed, stream="reinitialise")
    as_made = True
    seen: set[int] = set()
    with torch.no_grad(), seeded(seed):
        for part in fresh.modules():
            own = [value for value in part.parameters(recurse=False) if id(value) not in seen]
            seen |= {id(value) for value in own}
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
            elif own:
                as_made = False
                for value in own:
                    value.copy_(_redrawn(value, random))
    return fresh, as_made


def _redrawn(value: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    flat = value.detach().cpu().flatten()
    if value.dim() < 2:
        return flat[torch.randperm(len(flat), generator=random)].reshape(value.shape)
    mean, deviation = float(flat.mean()), float(flat.std(correction=0))
    drawn = torch.empty_like(flat).normal_(generator=random) * deviation + mean
    return drawn.reshape(value.shape)
