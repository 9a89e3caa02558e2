"""A decomposition ready to be asked questions: its inputs, its true labels, its random streams."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.seeds import generator
from microtome.data.loading import DataSource
from microtome.data.sparse_features import SparseFeatures
from microtome.decomposition.interpret.config import InterpretConfig
from microtome.decomposition.result import Decomposition
from microtome.targets.resid_mlp import ResidMLP
from microtome.targets.tms import TMS

Labels = Callable[[Tensor], Tensor]
Masks = dict[str, Tensor]
# Numbers held at once by one pass: keeps a pass of any network within about half a gigabyte.
MAX_NUMBERS = 32_000_000


@dataclass(frozen=True)
class Subject:
    """What is interpreted. ``data`` and ``labels`` are None when they are not known."""

    d: Decomposition
    config: InterpretConfig
    data: DataSource | None = None
    labels: Labels | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def kind(self) -> str:
        """``tms``, ``resid_mlp``, ``mlp`` or ``module``."""
        return str(self.d.target.spec()["kind"])

    @property
    def toy(self) -> TMS | ResidMLP | None:
        """The target when its inputs are features of which it computes known functions."""
        return self.d.target if isinstance(self.d.target, TMS | ResidMLP) else None

    @property
    def n_features(self) -> int:
        """Features of a toy model; 0 for other networks."""
        return 0 if self.toy is None else self.toy.config.n_features

    @property
    def value_range(self) -> tuple[float, float]:
        """The values that a feature takes."""
        if isinstance(self.data, SparseFeatures):
            return float(self.data.value_range[0]), float(self.data.value_range[1])
        return (0.0, 1.0) if isinstance(self.d.target, TMS) else (-1.0, 1.0)

    @property
    def rows_at_once(self) -> int:
        """Inputs that one pass takes, so that large networks fit in memory."""
        factors = self.d.factors.values()
        widest = max(
            left.shape[0] * left.shape[1] * max(left.shape[3], right.shape[3]) for left, right in factors
        )
        return max(16, min(8192, MAX_NUMBERS // max(widest, 1)))

    def draws(self, stream: str) -> torch.Generator:
        """The random stream of that name."""
        return generator(self.config.seed, self.device, f"interpret {stream}")

    def inputs(self, stream: str, n: int | None = None) -> Float[Tensor, "K B *d"]:
        """Inputs as in training, ``n_samples`` of them unless ``n`` says otherwise."""
        assert self.data is not None
        count = n or self.config.n_samples
        x = self.data.batch(count, self.draws(stream), n_instances=self.d.n_instances)
        return x.to(self.device)

    def one_hot(self, value: float = 1.0) -> Float[Tensor, "K n n"]:
        """Every feature alone at ``value``."""
        n = self.n_features
        return (value * torch.eye(n, device=self.device)).expand(self.d.n_instances, n, n)

    def target(self, x: Float[Tensor, "K B *d"]) -> Float[Tensor, "K B *d_out"]:
        """The target's output."""
        with torch.no_grad():
            return in_rows(self.d.target, self.rows_at_once, x)

    def decomposed(
        self, x: Float[Tensor, "K B *d"], masks: Masks | None = None
    ) -> Float[Tensor, "K B *d_out"]:
        """The output with components in place of the weights, all of them or as ``masks`` weigh them."""
        if masks is None:
            return in_rows(self.d.forward, self.rows_at_once, x)
        per_input = next(iter(masks.values())).shape[1] // x.shape[1]  # positions are flattened into rows
        starts = range(0, x.shape[1], self.rows_at_once)
        return torch.cat(
            [
                self.d.forward(
                    x[:, i : i + self.rows_at_once],
                    {n: m[:, i * per_input : (i + self.rows_at_once) * per_input] for n, m in masks.items()},
                )
                for i in starts
            ],
            dim=1,
        )


def in_rows(
    function: Callable[[Tensor], Tensor], rows: int, x: Float[Tensor, "K B *d"]
) -> Float[Tensor, "K B *d_out"]:
    """``function`` of ``x``, at most ``rows`` inputs at a time."""
    if x.shape[1] <= rows:
        return function(x)
    return torch.cat([function(part) for part in x.split(rows, dim=1)], dim=1)
