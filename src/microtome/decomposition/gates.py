"""Gates: one small function per subcomponent, from its inner activation to its causal importance.

Inner activations and gates are ``[K, C, N]`` with the batch innermost, which is how the kernels read them.
Source: the SPD paper (Bushnaq, Braun, Sharkey 2025), section on causal importance functions.
"""

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.causal_importance.chunks import by_rows
from microtome.decomposition.causal_importance.linear import linear
from microtome.decomposition.causal_importance.sigmoids import LEAK, lower_leaky, upper_leaky

__all__ = ["LEAK", "GateWeights", "gate_values", "init_gates", "lower_leaky", "upper_leaky"]


@dataclass(frozen=True)
class GateWeights:
    """Gate MLPs ``g = w_out . gelu(h * w_in + b_in) + b_out``; for H = 0 linear, ``g = h * w_in + b_out``.

    H = 0 is stored as ``w_in`` of width 1 and empty ``b_in``, ``w_out``.
    """

    w_in: Float[Tensor, "K C Hin"]
    b_in: Float[Tensor, "K C H"]
    w_out: Float[Tensor, "K C H"]
    b_out: Float[Tensor, "K C"]

    @property
    def hidden(self) -> int:
        """Hidden neurons of each gate."""
        return self.b_in.shape[-1]

    def named(self, site: str) -> dict[str, Tensor]:
        """The parameters under the names that checkpoints use."""
        return {f"gates.{site}.{field.name}": getattr(self, field.name) for field in fields(self)}


def init_gates(
    n_instances: int, n_components: int, hidden: int, generators: list[torch.Generator]
) -> GateWeights:
    """Kaiming-style weights (fan in 1 with relu gain, fan out ``hidden``), zero biases.

    One generator an instance, so that seed k is the same run alone or beside others.
    """

    def normal(*shape: int, std: float) -> Tensor:
        draws = [torch.randn(shape, generator=g, device=g.device) for g in generators]
        return torch.stack(draws) * std

    device = generators[0].device
    b_out = torch.zeros(n_instances, n_components, device=device)
    if hidden == 0:
        empty = torch.zeros(n_instances, n_components, 0, device=device)
        return GateWeights(normal(n_components, 1, std=1.0), empty, empty.clone(), b_out)
    return GateWeights(
        w_in=normal(n_components, hidden, std=math.sqrt(2.0)),
        b_in=torch.zeros(n_instances, n_components, hidden, device=device),
        w_out=normal(n_components, hidden, std=1.0 / math.sqrt(hidden)),
        b_out=b_out,
    )


def gate_values(inner: Float[Tensor, "K C N"], gates: GateWeights) -> Float[Tensor, "K C N"]:
    """Gate outputs before the sigmoid: the plain formulation, a part of ``[K, C, N, H]`` at a time."""
    if gates.hidden == 0:
        return linear(inner, gates.w_in.squeeze(-1), gates.b_out)

    def run(rows: Tensor) -> Tensor:
        hidden = torch.nn.functional.gelu(
            rows.unsqueeze(-1) * gates.w_in.unsqueeze(2) + gates.b_in.unsqueeze(2)
        )
        return (hidden * gates.w_out.unsqueeze(2)).sum(-1) + gates.b_out.unsqueeze(-1)

    return by_rows(run, inner, 2, inner.shape[0] * inner.shape[1] * gates.hidden)
