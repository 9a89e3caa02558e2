"""One network for all subcomponents of a site, from its input: ``ci_fn_type: shared_mlp``."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.causal_importance.chunks import by_rows
from microtome.decomposition.causal_importance.mlp import Layer, widest


def shared_mlp(x: Float[Tensor, "K N d_in"], layers: Sequence[Layer]) -> Float[Tensor, "K N C"]:
    """``g = W_L gelu(... gelu(x W_0 + b_0) ...) + b_L``.

    ``layers``: weights ``[K, i, o]`` and biases ``[K, o]``, the first with i = d_in, the last with o = C.
    """

    def run(rows: Tensor) -> Tensor:
        for i, (weight, bias) in enumerate(layers):
            rows = torch.bmm(torch.nn.functional.gelu(rows) if i else rows, weight) + bias.unsqueeze(1)
        return rows

    return by_rows(run, x, 1, x.shape[0] * widest(layers))
