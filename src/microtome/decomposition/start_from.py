"""Starting a decomposition from another one's subcomponents and gates."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from microtome.core.errors import CannotLoad
from microtome.decomposition.result import load


def start_from(path: str | Path, parameters: Mapping[str, Tensor]) -> None:
    """Fill ``parameters`` (all ``[K, ...]``) with those of the run or model file at ``path``.

    A run of one instance starts every instance alike. Raises ``CannotLoad`` for one that does not fit.
    """
    found = load(path).parameters
    for name, tensor in parameters.items():
        given = found.get(name)
        if given is None or given.shape[1:] != tensor.shape[1:] or given.shape[0] not in (1, len(tensor)):
            shape = "none" if given is None else list(given.shape)
            raise CannotLoad(
                f"init_spd_checkpoint={path}: {name} should have shape {list(tensor.shape)}, it has {shape};"
                " use the same sites, C and causal importance functions"
            )
        with torch.no_grad():
            tensor.copy_(given)
