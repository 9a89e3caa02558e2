"""Untrained layers of causal importance functions."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.causal_importance.functions import Kind


def initial_layers(
    kind: Kind, width: int, n_components: int, hidden: Sequence[int], generators: Sequence[torch.Generator]
) -> dict[str, Float[Tensor, "K *shape"]]:
    """Weights normal with variance 2 / fan-in before a gelu and 1 / fan-in in the last layer; biases 0.

    By the names of ``CausalImportanceFunction``: ``<kind>.<i>.W`` and ``.b``. One generator an instance.
    """
    shared = kind == "shared_mlp"
    sizes = [width, *hidden, n_components if shared else 1]
    layers: dict[str, Tensor] = {}
    for i, (fan_in, out) in enumerate(pairwise(sizes)):
        gain = 1.0 if i == len(hidden) else math.sqrt(2.0)
        shape = (fan_in, out) if shared else (n_components, fan_in, out)
        draws = [torch.randn(shape, generator=g, device=g.device) for g in generators]
        layers[f"{kind}.{i}.W"] = torch.stack(draws) * (gain / math.sqrt(fan_in))
        bias = (out,) if shared else (n_components, out)
        layers[f"{kind}.{i}.b"] = torch.zeros(len(generators), *bias, device=generators[0].device)
    return layers
