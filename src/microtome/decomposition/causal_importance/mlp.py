"""One small network a subcomponent, from its own inner activation: ``ci_fn_type: mlp``."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.causal_importance.chunks import by_rows

Layer = tuple[Tensor, Tensor]
"""Weight ``[K, C, i, o]`` and bias ``[K, C, o]``."""


def scalar_mlp(inner: Float[Tensor, "K C N"], layers: Sequence[Layer]) -> Float[Tensor, "K C N"]:
    """``g_c = W_L . gelu(... gelu(h_c W_0 + b_0) ...) + b_L`` for every component's inner activation h_c.

    ``layers``: weights ``[K, C, i, o]`` and biases ``[K, C, o]``, the first with i = 1, the last with o = 1.
    """

    def run(rows: Tensor) -> Tensor:
        return component_networks(rows.unsqueeze(-1), layers).squeeze(-1)

    return by_rows(run, inner, 2, inner.shape[0] * inner.shape[1] * widest(layers))


def component_networks(x: Float[Tensor, "K C N i"], layers: Sequence[Layer]) -> Float[Tensor, "K C N o"]:
    """C networks side by side, gelu between their layers."""
    for i, (weight, bias) in enumerate(layers):
        x = torch.matmul(torch.nn.functional.gelu(x) if i else x, weight) + bias.unsqueeze(2)
    return x


def widest(layers: Sequence[Layer]) -> int:
    """Neurons of the widest layer."""
    return max(weight.shape[-1] for weight, _ in layers)
