"""Sparse data made from a known dictionary, and how much of it a trained one found."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.seeds import generator
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.quality import QualityMeasure, warnings_about
from microtome.dictionaries.train import fit
from microtome.dictionaries.train_config import DictionaryTraining

FOUND = 0.9  # cosine from which on a direction counts as found


@dataclass(frozen=True)
class PlantedData:
    """Inputs ``sum_j a_j D_j + offset``: random directions, ``active`` of them on average in one input.

    Feature ``j`` acts with a probability proportional to ``(j + 1) ** -skew`` and then is uniform in
    ``[0.5, 1.5]``.
    """

    n_features: int = 1024
    d: int = 256
    active: float = 16.0
    skew: float = 0.5
    offset: float = 0.3
    seed: int = 0

    def directions(self) -> Float[Tensor, "F d"]:
        """The planted dictionary, rows of length 1."""
        draws = generator(self.seed, stream="planted directions")
        return torch.nn.functional.normalize(torch.randn(self.n_features, self.d, generator=draws), dim=1)

    def batch(self, n: int, draws: torch.Generator) -> Float[Tensor, "n d"]:
        """``n`` inputs."""
        p = torch.arange(1, self.n_features + 1, dtype=torch.float64) ** -self.skew
        p = (p * (self.active / p.sum())).clamp(max=0.9).float()
        acts = torch.rand(n, self.n_features, generator=draws) < p
        sizes = torch.rand(n, self.n_features, generator=draws) + 0.5
        return (acts * sizes) @ self.directions() + self.offset

    def stream(self, n: int, chunks: int) -> list[Float[Tensor, "n d"]]:
        """``chunks`` chunks of ``n`` inputs to train on."""
        draws = generator(self.seed, stream="planted inputs")
        return [self.batch(n, draws) for _ in range(chunks)]


def recovery(W_dec: Float[Tensor, "F d"], planted: Float[Tensor, "P d"]) -> dict[str, float]:
    """How well rows of a decoder match planted directions.

    ``mmcs``: mean over planted directions of the largest cosine with a row. ``found``: share of them with one
    of at least 0.9. ``mmcs_of_random_rows``: what as many random rows reach.
    """
    draws = generator(0, stream="random rows")
    random = torch.randn(W_dec.shape, generator=draws).to(W_dec.device)
    planted = torch.nn.functional.normalize(planted.to(W_dec.device), dim=1)

    def best(rows: Tensor) -> Tensor:
        return (planted @ torch.nn.functional.normalize(rows.float(), dim=1).T).amax(1)

    cosines = best(W_dec)
    return {
        "mmcs": float(cosines.mean()),
        "found": float((cosines >= FOUND).float().mean()),
        "mmcs_of_random_rows": float(best(random).mean()),
    }


def planted_test(
    data: PlantedData, config: DictionaryTraining, *, show_progress: bool = False
) -> tuple[Dictionary, dict[str, Any], list[str]]:
    """Train on planted data; the dictionary, its numbers on fresh data, and warnings."""
    chunk = max(config.batch_size, 4096)
    chunks = -(-config.steps * config.batch_size // chunk) + 1
    dictionary = fit(data.stream(chunk, min(chunks, 64)), config, show_progress=show_progress)["activations"]
    measure = QualityMeasure(dictionary)
    draws = generator(data.seed, stream="planted held-out inputs")
    measure.fit(data.batch(8192, draws))
    measure.add(data.batch(8192, draws))
    quality = measure.result()
    numbers = quality.as_dict() | recovery(dictionary.W_dec, data.directions())
    return dictionary, numbers, warnings_about("the dictionary", quality)
