"""Start values, drawn for each instance from a random stream of its own.

Instance k starts from the same weights whether it is trained alone or beside others.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.seeds import generator

Initialisation = Literal["xavier", "linear"]


def xavier_normal(
    n_instances: int, d_in: int, d_out: int, seed: int, stream: str, gain: float = 1.0
) -> Float[Tensor, "K d_in d_out"]:
    """Normal with standard deviation ``gain * sqrt(2 / (d_in + d_out))`` (Glorot and Bengio 2010)."""
    return _normal(n_instances, (d_in, d_out), seed, stream) * (gain * (2 / (d_in + d_out)) ** 0.5)


def fan_in_normal(
    n_instances: int, d_in: int, d_out: int, seed: int, stream: str
) -> Float[Tensor, "K d_in d_out"]:
    """Normal with standard deviation ``1 / sqrt(d_in)``."""
    return _normal(n_instances, (d_in, d_out), seed, stream) / d_in**0.5


def unit_rows(
    n_instances: int, n_rows: int, width: int, seed: int, stream: str
) -> Float[Tensor, "K n_rows width"]:
    """Random directions: normal rows scaled to length one."""
    return torch.nn.functional.normalize(_normal(n_instances, (n_rows, width), seed, stream), dim=-1)


def linear_uniform(
    n_instances: int, shape: tuple[int, ...], fan_in: int, seed: int, stream: str
) -> Float[Tensor, "K ..."]:
    """``nn.Linear``'s start values: uniform in ``+-1/sqrt(fan_in)``."""
    draws = [
        torch.rand(shape, generator=generator(seed, stream=f"{stream} {instance}"))
        for instance in range(n_instances)
    ]
    return (2 * torch.stack(draws) - 1) / fan_in**0.5


def _normal(n_instances: int, shape: tuple[int, ...], seed: int, stream: str) -> Tensor:
    draws = [
        torch.randn(shape, generator=generator(seed, stream=f"{stream} {instance}"))
        for instance in range(n_instances)
    ]
    return torch.stack(draws)
