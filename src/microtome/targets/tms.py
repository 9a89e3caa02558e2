"""The Toy Model of Superposition (Elhage et al. 2022): n features squeezed through h < n dimensions."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from microtome.targets.batched import BatchedLinear, BatchedTarget
from microtome.targets.config import TMSModelConfig
from microtome.targets.initialisation import Initialisation, linear_uniform, xavier_normal
from microtome.targets.network import Site, SiteFunction

HiddenLayers = Literal["trained", "identity", "random"]


class TMS(BatchedTarget):
    """``relu(x W [H_1 .. H_k] W^T + b_final)``, K at once; all weights zero until ``reset`` or a load.

    Parameters: ``linear1.weight [K, n_features, n_hidden]``, ``hidden_layers.{i}.weight``
    ``[K, n_hidden, n_hidden]``, ``b_final [K, n_features]``; untied networks also have
    ``linear2.weight [K, n_hidden, n_features]``.
    """

    def __init__(self, config: TMSModelConfig) -> None:
        super().__init__()
        self.config = config
        self.n_instances = config.n_instances
        k, n, h = config.n_instances, config.n_features, config.n_hidden
        self.linear1 = BatchedLinear(k, n, h)
        self.hidden_layers = nn.ModuleList(BatchedLinear(k, h, h) for _ in range(config.n_hidden_layers))
        self.linear2 = None if config.tied_weights else BatchedLinear(k, h, n)
        self.b_final = nn.Parameter(torch.zeros(k, n))

    @torch.no_grad()
    def reset(
        self, seed: int = 0, initialisation: Initialisation = "xavier", hidden: HiddenLayers = "trained"
    ) -> "TMS":
        """Draw start values in place and freeze hidden layers that are not ``trained``; returns self.

        ``xavier``: xavier normal and a zero bias. ``linear``: as ``nn.Linear`` and the SPD paper's code.
        """
        k, n, h = self.n_instances, self.config.n_features, self.config.n_hidden
        self.linear1.weight.copy_(self._start(n, h, seed, "linear1", initialisation))
        if self.linear2 is not None:
            self.linear2.weight.copy_(self._start(h, n, seed, "linear2", initialisation))
        self.b_final.zero_()
        if initialisation == "linear" and not self.config.init_bias_to_zero:
            self.b_final.copy_(linear_uniform(k, (n,), h, seed, "b_final"))
        for i in range(len(self.hidden_layers)):
            layer = self.linear(f"hidden_layers.{i}")
            layer.weight.copy_(self._hidden_start(hidden, i, seed, initialisation))
            layer.weight.requires_grad_(hidden == "trained")
        return self

    def _start(self, d_in: int, d_out: int, seed: int, name: str, initialisation: Initialisation) -> Tensor:
        if initialisation == "xavier":
            return xavier_normal(self.n_instances, d_in, d_out, seed, name)
        return linear_uniform(self.n_instances, (d_in, d_out), d_in, seed, name)

    def _hidden_start(
        self, hidden: HiddenLayers, i: int, seed: int, initialisation: Initialisation
    ) -> Tensor:
        h, name = self.config.n_hidden, f"hidden_layers.{i}"
        if hidden == "identity":
            return torch.eye(h).expand(self.n_instances, h, h)
        if hidden == "random":  # standard normal entries: xavier on h x h has standard deviation 1/sqrt(h)
            return xavier_normal(self.n_instances, h, h, seed, name, gain=h**0.5)
        return self._start(h, h, seed, name, initialisation)

    def output_weight(self) -> Float[Tensor, "K n_hidden n_features"]:
        """The last layer's matrix; a view of the first one's when tied."""
        return self.linear1.weight.transpose(1, 2) if self.linear2 is None else self.linear2.weight

    def sites(self) -> dict[str, Site]:
        """linear1, the hidden layers, linear2. ``b_final`` is added by ``forward`` and belongs to no site."""
        sites = {"linear1": self.linear1.site("linear1")}
        for i in range(len(self.hidden_layers)):
            name = f"hidden_layers.{i}"
            sites[name] = self.linear(name).site(name)
        tied_to = "linear1" if self.linear2 is None else None
        sites["linear2"] = Site("linear2", self.output_weight(), tied_to=tied_to)
        return sites

    def forward(
        self, x: Float[Tensor, "K *B n_features"], site: SiteFunction | None = None
    ) -> Float[Tensor, "K *B n_features"]:
        """Reconstruction of ``x``."""
        hidden = x
        for name, layer in self.sites().items():
            hidden = layer.apply(hidden) if site is None else site(name, hidden)
        bias = self.b_final.reshape(self.n_instances, *(1 for _ in range(x.ndim - 2)), -1)
        return torch.relu(hidden + bias)

    def empty(self, n_instances: int) -> "TMS":
        return TMS(self.config.model_copy(update={"n_instances": n_instances}))

    def spec(self) -> dict[str, Any]:
        return {"kind": "tms", **self.config.as_dict(), "n_instances": self.n_instances}
