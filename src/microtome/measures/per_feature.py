"""Inputs with one feature on."""

import torch
from jaxtyping import Float
from torch import Tensor


def one_feature_inputs(
    n_features: int, values: Float[Tensor, " n_values"]
) -> Float[Tensor, "rows n_features"]:
    """Every feature alone at every value, ``n_features * n_values`` rows in all.

    Row ``i * n_values + v`` has ``x_i = values[v]`` and zeros elsewhere.
    """
    eye = torch.eye(n_features, dtype=values.dtype, device=values.device)
    return (eye[:, None, :] * values[None, :, None]).reshape(n_features * len(values), n_features)
