"""One small network a subcomponent, from the whole input of the site: ``ci_fn_type: vector_mlp``."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.causal_importance.chunks import by_rows
from microtome.decomposition.causal_importance.mlp import Layer, component_networks, widest


def vector_mlp(x: Float[Tensor, "K N d_in"], layers: Sequence[Layer]) -> Float[Tensor, "K N C"]:
    """``g_c = W_L . gelu(... gelu(x W_0 + b_0) ...) + b_L``, a network for every component c.

    ``layers``: weights ``[K, C, i, o]`` and biases ``[K, C, o]``, the first with i = d_in, the last o = 1.
    """
    k, c = layers[0][0].shape[:2]

    def run(rows: Tensor) -> Tensor:
        (weight, bias), *rest = layers
        hidden = torch.einsum("knd,kcdh->kcnh", rows, weight) + bias.unsqueeze(2)
        for layer in rest:
            hidden = component_networks(torch.nn.functional.gelu(hidden), [layer])
        return hidden.squeeze(-1).mT

    return by_rows(run, x, 1, k * c * widest(layers))
