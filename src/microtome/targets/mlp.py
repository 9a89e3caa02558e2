"""A plain ReLU network, K of them side by side: the classifier of the handwritten digits."""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from microtome.targets.batched import BatchedLinear, BatchedTarget
from microtome.targets.config import MLPModelConfig
from microtome.targets.initialisation import linear_uniform
from microtome.targets.network import Site, SiteFunction


class MLP(BatchedTarget):
    """``x -> relu(x W_0 + b_0) -> .. -> x W_L + b_L``; all weights zero until ``reset`` or a load.

    Parameters ``layers.{i}.weight [K, d_in, d_out]`` and ``layers.{i}.bias [K, d_out]``.
    """

    def __init__(self, config: MLPModelConfig) -> None:
        super().__init__()
        self.config = config
        self.n_instances = config.n_instances
        sizes = config.sizes
        self.layers = nn.ModuleList(
            BatchedLinear(config.n_instances, d_in, d_out, bias=True) for d_in, d_out in pairwise(sizes)
        )

    @torch.no_grad()
    def reset(self, seed: int = 0) -> "MLP":
        """Draw ``nn.Linear``'s start values in place; returns self."""
        for i in range(len(self.layers)):
            layer = self.linear(f"layers.{i}")
            k, d_in, d_out = layer.weight.shape
            layer.weight.copy_(linear_uniform(k, (d_in, d_out), d_in, seed, f"layers.{i}.weight"))
            if layer.bias is not None:
                layer.bias.copy_(linear_uniform(k, (d_out,), d_in, seed, f"layers.{i}.bias"))
        return self

    def sites(self) -> dict[str, Site]:
        """``layers.{i}``, first to last, biases included."""
        names = [f"layers.{i}" for i in range(len(self.layers))]
        return {name: self.linear(name).site(name) for name in names}

    def forward(
        self, x: Float[Tensor, "K *B d_in"], site: SiteFunction | None = None
    ) -> Float[Tensor, "K *B d_out"]:
        """Logits."""
        sites = self.sites()
        last = len(sites) - 1
        for i, (name, layer) in enumerate(sites.items()):
            x = layer.apply(x) if site is None else site(name, x)
            if i < last:
                x = torch.relu(x)
        return x

    def empty(self, n_instances: int) -> "MLP":
        return MLP(self.config.model_copy(update={"n_instances": n_instances}))

    def spec(self) -> dict[str, Any]:
        return {"kind": "mlp", **self.config.as_dict(), "n_instances": self.n_instances}
