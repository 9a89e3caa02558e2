"""Synthetic inputs of the toy models: few features on at a time, each with a uniform value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.errors import bad_value
from microtome.data.generation import EXACT_COUNTS, DataGenerationType, check_generation


@dataclass(frozen=True)
class SparseFeatures:
    """Inputs ``[K, B, n_features]``; features that are on are uniform in ``value_range``, the others zero.

    ``at_least_zero_active``: each feature is on with ``feature_probability``, independently.
    ``exactly_<k>_active``: k distinct features are on. ``synced_inputs``: groups of features of which all
    are on, with fresh values, as soon as one is.
    """

    n_instances: int = 1
    n_features: int = 5
    feature_probability: float | int = 0.05
    data_generation_type: DataGenerationType = "at_least_zero_active"
    value_range: tuple[float | int, float | int] = (0.0, 1.0)
    synced_inputs: Sequence[Sequence[int]] | None = None
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        p = self.feature_probability
        if not 0 <= p <= 1:
            raise bad_value("feature_probability", p, "not a probability", "use a number from 0 to 1")
        low, high = self.value_range
        if not low < high:
            raise bad_value("value_range", self.value_range, "empty", "use (low, high) with low < high")
        check_generation(self.data_generation_type, self.n_features, self.synced_inputs)

    def batch(
        self, batch_size: int, generator: torch.Generator | None = None, n_instances: int | None = None
    ) -> Float[Tensor, "K B n_features"]:
        """``batch_size`` fresh inputs for each of ``n_instances`` (default: the data's own) instances."""
        shape = (n_instances or self.n_instances, batch_size, self.n_features)
        count = EXACT_COUNTS.get(self.data_generation_type)
        if count is not None:
            return self._exactly(shape, count, generator)
        x = self._independent(shape, generator)
        return x if self.synced_inputs is None else self._sync(x, self.synced_inputs, generator)

    def nonzero_batch(
        self, batch_size: int, generator: torch.Generator | None = None, n_instances: int | None = None
    ) -> Float[Tensor, "K B n_features"]:
        """As ``batch``, conditioned on at least one feature being on; for pictures, not for training."""
        if self.feature_probability == 0 and self.data_generation_type not in EXACT_COUNTS:
            raise bad_value("feature_probability", 0.0, "every input is zero", "use a larger probability")
        k = n_instances or self.n_instances
        kept = torch.zeros(0, self.n_features, device=self.device)
        while len(kept) < k * batch_size:
            rows = self.batch(max(k * batch_size, 1024), generator, 1)[0]
            kept = torch.cat([kept, rows[(rows != 0).any(-1)]])
        return kept[: k * batch_size].reshape(k, batch_size, self.n_features)

    def spec(self) -> dict[str, Any]:
        """JSON-able description from which ``data.loading.data_from_spec`` makes the same source."""
        groups = self.synced_inputs
        return {
            "kind": "sparse_features",
            "n_instances": self.n_instances,
            "n_features": self.n_features,
            "feature_probability": self.feature_probability,
            "data_generation_type": self.data_generation_type,
            "value_range": list(self.value_range),
            "synced_inputs": None if groups is None else [list(group) for group in groups],
        }

    def _uniform(self, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
        return torch.rand(shape, generator=generator, device=self.device)

    def _independent(self, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
        # One draw u decides both: the feature is on when u < p, and then u / p is uniform in [0, 1).
        p, (low, high) = self.feature_probability, self.value_range
        x = self._uniform(shape, generator)
        if p == 0:
            return x.zero_()
        off = x >= p
        return x.mul_((high - low) / p).add_(low).masked_fill_(off, 0.0)

    def _exactly(self, shape: tuple[int, int, int], count: int, generator: torch.Generator | None) -> Tensor:
        low, high = self.value_range
        if count == 1:
            on = torch.randint(shape[-1], (*shape[:2], 1), generator=generator, device=self.device)
        else:
            on = self._uniform(shape, generator).topk(count, dim=-1).indices
        values = self._uniform(on.shape, generator).mul_(high - low).add_(low)
        return torch.zeros(shape, device=self.device).scatter_(-1, on, values)

    def _sync(self, x: Tensor, groups: Sequence[Sequence[int]], generator: torch.Generator | None) -> Tensor:
        low, high = self.value_range
        for group in groups:
            columns = torch.as_tensor(list(group), device=x.device)
            fires = (x[..., columns] != 0).any(-1, keepdim=True)
            fresh = self._uniform((*x.shape[:-1], len(group)), generator).mul_(high - low).add_(low)
            x[..., columns] = fresh * fires
        return x
