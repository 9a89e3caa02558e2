"""How a network does on each feature by itself."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from microtome.measures.arrays import to_numpy

Network = Callable[[Float[Tensor, "B n_features"]], Float[Tensor, "B d_out"]]


def one_feature_inputs(
    n_features: int, values: Float[Tensor, " n_values"]
) -> Float[Tensor, "rows n_features"]:
    """Every feature alone at every value, ``n_features * n_values`` rows in all.

    Row ``i * n_values + v`` has ``x_i = values[v]`` and zeros elsewhere.
    """
    eye = torch.eye(n_features, dtype=values.dtype, device=values.device)
    return (eye[:, None, :] * values[None, :, None]).reshape(n_features * len(values), n_features)


def per_feature_loss(
    network: Network,
    labels: Network,
    n_features: int,
    generator: torch.Generator,
    n_samples: int = 128,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> Float[np.ndarray, " n_features"]:
    """Mean squared error (mean over outputs and draws) when only feature i is on, value U(value_range).

    ``labels`` is the true function or the target network. One batch holds all features. Source: APD
    paper, per-feature performance figure.
    """
    low, high = value_range
    draws = torch.rand(n_features, n_samples, generator=generator) * (high - low) + low
    inputs = torch.eye(n_features)[:, None, :] * draws[:, :, None]
    flat = inputs.reshape(n_features * n_samples, n_features)
    with torch.no_grad():
        error = (network(flat) - labels(flat)).square().mean(dim=-1)
    return to_numpy(error.reshape(n_features, n_samples).mean(dim=1))


def feature_responses(
    network: Network, n_features: int, value: float = 1.0
) -> Float[np.ndarray, "n_features d_out"]:
    """Output of the network for each one-hot input ``value * e_i`` (row i), in one batch."""
    with torch.no_grad():
        return to_numpy(network(value * torch.eye(n_features)))
