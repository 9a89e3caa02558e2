"""What may differ between instances that APD trains side by side: how many are on, and the coefficients."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.apd_config import APDConfig

LOSSES = ("param_match", "out_recon", "topk_recon", "act_recon", "schatten", "lp_sparsity")
# Fields of the configuration that may differ; the closed forms take the other coefficients as one number.
VARIED_FIELDS = ("topk", "schatten_coeff", "lp_sparsity_coeff")


@dataclass(frozen=True)
class Variation:
    """``topk`` and the coefficient of every configured loss, each one for all or one an instance."""

    topk: float | tuple[float, ...] | None
    coefficients: dict[str, float | Float[Tensor, " K"]]

    @classmethod
    def of(
        cls, configs: Sequence[APDConfig], repeats: int = 1, device: torch.device | None = None
    ) -> "Variation":
        """Of configurations that agree on the rest, each for ``repeats`` instances in a row."""
        first = configs[0]
        coefficients: dict[str, float | Tensor] = {}
        for name in LOSSES:
            field = f"{name}_coeff"
            value = getattr(first, field)
            if value is not None:
                values = [getattr(config, field) for config in configs]
                every = torch.tensor(values, device=device).repeat_interleave(repeats)
                coefficients[name] = value if len(set(values)) == 1 else every
        topk = tuple(config.topk for config in configs for _ in range(repeats) if config.topk is not None)
        return cls(first.topk if len(set(topk)) <= 1 else topk, coefficients)

    @property
    def schatten(self) -> Float[Tensor, "*K 1 1"] | float:
        """The coefficient of ``schatten`` beside arrays ``[K, C, m]``."""
        value = self.coefficients["schatten"]
        return value.view(-1, 1, 1) if isinstance(value, Tensor) else value
