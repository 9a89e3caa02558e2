"""Where the training of a dictionary starts."""

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.distributed import Processes, all_reduce_sum
from microtome.dictionaries.config import DictionaryConfig
from microtome.dictionaries.dictionary import Dictionary


def input_factor(x: Float[Tensor, "N d"], processes: Processes) -> float:
    """The factor that gives inputs the mean length sqrt(d); 1 where all are 0."""
    sums = torch.tensor([float(x.norm(dim=1).double().sum()), len(x)], dtype=torch.float64, device=x.device)
    total, count = all_reduce_sum(sums, processes).tolist()
    return x.shape[1] ** 0.5 / (total / count) if total > 0 else 1.0


def centre(x: Float[Tensor, "N d"], kind: str, processes: Processes) -> Float[Tensor, " d"]:
    """The mean of the inputs, their geometric median (ten steps of Weiszfeld's method), or 0."""
    if kind == "zero":
        return torch.zeros(x.shape[1], device=x.device)
    ones = torch.ones(len(x), device=x.device)
    point = _weighted_mean(x, ones, processes)
    if kind == "geometric_median":
        for _ in range(10):
            point = _weighted_mean(x, 1 / (x - point).norm(dim=1).clamp_min(1e-6), processes)
    return point


def _weighted_mean(x: Tensor, weights: Tensor, processes: Processes) -> Tensor:
    sums = torch.cat([(weights.double() @ x.double()), weights.double().sum()[None]])
    sums = all_reduce_sum(sums, processes)
    return (sums[:-1] / sums[-1]).float()


def random_directions(config: DictionaryConfig, draws: torch.Generator) -> Float[Tensor, "F d"]:
    """Rows of length 1, uniform on the sphere."""
    rows = torch.randn(config.n_features, config.d_in, generator=draws)
    return torch.nn.functional.normalize(rows, dim=1)


def quantile_threshold(
    dictionary: Dictionary, x: Float[Tensor, "N d"], k: int, processes: Processes
) -> float:
    """The projection above which ``2 k`` features act on an input on average, by bisection."""
    z = dictionary.project(x).relu()
    first = torch.stack([z.max().double(), torch.tensor(2.0 * k * len(x), dtype=torch.float64)])
    (high, wanted), low = all_reduce_sum(first, processes).tolist(), 0.0
    for _ in range(40):
        middle = (low + high) / 2
        above = all_reduce_sum((z > middle).sum(), processes)
        low, high = (middle, high) if above > wanted else (low, middle)
    return max(high, 1e-3)
