"""The residual MLP that computes more functions than it has neurons (compressed computation)."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from microtome.targets.batched import BatchedLinear, BatchedTarget
from microtome.targets.config import ResidMLPModelConfig
from microtome.targets.initialisation import (
    Initialisation,
    fan_in_normal,
    linear_uniform,
    unit_rows,
    xavier_normal,
)
from microtome.targets.network import Site, SiteFunction

Embedding = Literal["trained", "random", "identity"]


class ResidMLPLayer(nn.Module):
    """``act(r W_in + b_in) W_out + b_out``: what one layer adds to the residual stream."""

    def __init__(self, config: ResidMLPModelConfig) -> None:
        super().__init__()
        k = config.n_instances
        self.mlp_in = BatchedLinear(k, config.d_embed, config.d_mlp, config.in_bias)
        self.mlp_out = BatchedLinear(k, config.d_mlp, config.d_embed, config.out_bias)


class ResidMLP(BatchedTarget):
    """K residual MLPs; all weights zero until ``reset`` or a load.

    ``W_E [K or 1, n_features, d_embed]`` and ``W_U [K or 1, d_embed, n_features]`` are buffers when
    ``fixed_embedding``, and have a leading 1 when ``shared_embedding`` (one embedding for all instances).
    ``layers[i].mlp_in.weight [K, d_embed, d_mlp]``, ``layers[i].mlp_out.weight [K, d_mlp, d_embed]``.
    """

    W_E: Tensor
    W_U: Tensor
    layers: nn.ModuleList

    def __init__(
        self, config: ResidMLPModelConfig, fixed_embedding: bool = False, shared_embedding: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.n_instances = config.n_instances
        self.fixed_embedding = fixed_embedding
        self.shared_embedding = shared_embedding
        k = 1 if shared_embedding else config.n_instances
        self._embedding("W_E", torch.zeros(k, config.n_features, config.d_embed))
        self._embedding("W_U", torch.zeros(k, config.d_embed, config.n_features))
        self.layers = nn.ModuleList(ResidMLPLayer(config) for _ in range(config.n_layers))
        self.act_fn = nn.functional.gelu if config.act_fn_name == "gelu" else torch.relu

    def _embedding(self, name: str, value: Tensor) -> None:
        if self.fixed_embedding:
            self.register_buffer(name, value)
        else:
            self.register_parameter(name, nn.Parameter(value))

    @torch.no_grad()
    def reset(
        self, seed: int = 0, initialisation: Initialisation = "xavier", embedding: Embedding = "trained"
    ) -> "ResidMLP":
        """Draw start values in place; returns self.

        ``embedding``: ``random`` has rows of length one and ``W_U = W_E^T``; ``identity`` has both the
        identity; ``trained`` starts from normal entries scaled by the square root of the number of inputs.
        """
        c, k = self.config, self.W_E.shape[0]
        if embedding == "trained":
            self.W_E.copy_(fan_in_normal(k, c.n_features, c.d_embed, seed, "W_E"))
            self.W_U.copy_(fan_in_normal(k, c.d_embed, c.n_features, seed, "W_U"))
        else:
            identity = torch.eye(c.n_features, c.d_embed).expand(k, -1, -1)
            random = unit_rows(k, c.n_features, c.d_embed, seed, "W_E")
            chosen = identity if embedding == "identity" else random
            self.W_E.copy_(chosen)
            self.W_U.copy_(chosen.transpose(1, 2))
        for i, layer in enumerate(self.layers):
            for part in ("mlp_in", "mlp_out"):
                self._reset_linear(getattr(layer, part), seed, f"layers.{i}.{part}", initialisation)
        return self

    def _reset_linear(
        self, linear: BatchedLinear, seed: int, name: str, initialisation: Initialisation
    ) -> None:
        k, d_in, d_out = linear.weight.shape
        if initialisation == "xavier":
            linear.weight.copy_(xavier_normal(k, d_in, d_out, seed, name, self.config.init_scale))
        else:
            linear.weight.copy_(linear_uniform(k, (d_in, d_out), d_in, seed, name))
        if linear.bias is not None:
            linear.bias.zero_()
            if initialisation == "linear":
                linear.bias.copy_(linear_uniform(k, (d_out,), d_in, seed, f"{name}.bias"))

    def sites(self) -> dict[str, Site]:
        """``layers.{i}.mlp_in`` and ``layers.{i}.mlp_out``, layer after layer."""
        names = [f"layers.{i}.{part}" for i in range(self.config.n_layers) for part in ("mlp_in", "mlp_out")]
        return {name: self.linear(name).site(name) for name in names}

    def residual(
        self, x: Float[Tensor, "K *B n_features"], site: SiteFunction | None = None
    ) -> Float[Tensor, "K *B d_embed"]:
        """The residual stream after the last layer."""
        stream = _embed(x, self.W_E)
        sites = self.sites() if site is None else {}

        def run(name: str, value: Tensor) -> Tensor:
            return sites[name].apply(value) if site is None else site(name, value)

        for i in range(self.config.n_layers):
            neurons = self.act_fn(run(f"layers.{i}.mlp_in", stream))
            stream = stream + run(f"layers.{i}.mlp_out", neurons)
        return stream

    def forward(
        self, x: Float[Tensor, "K *B n_features"], site: SiteFunction | None = None
    ) -> Float[Tensor, "K *B n_features"]:
        """The output read off the last residual stream."""
        out = _embed(self.residual(x, site), self.W_U)
        return self.act_fn(out) if self.config.apply_output_act_fn else out

    def empty(self, n_instances: int) -> "ResidMLP":
        config = self.config.model_copy(update={"n_instances": n_instances})
        return ResidMLP(config, self.fixed_embedding, self.shared_embedding)

    def spec(self) -> dict[str, Any]:
        return {
            "kind": "resid_mlp",
            **self.config.as_dict(),
            "n_instances": self.n_instances,
            "fixed_embedding": self.fixed_embedding,
            "shared_embedding": self.shared_embedding,
        }


def _embed(
    x: Float[Tensor, "K *B d_in"], weight: Float[Tensor, "k d_in d_out"]
) -> Float[Tensor, "K *B d_out"]:
    """``x @ weight``, where ``k`` is K, or 1 for one matrix shared by all instances."""
    if weight.shape[0] == 1:
        return x @ weight[0]
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    return torch.bmm(flat, weight).reshape(*x.shape[:-1], weight.shape[-1])
