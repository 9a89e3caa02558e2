"""A site's causal importance function, of whichever kind, from the tensors that a checkpoint holds."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.causal_importance.mlp import Layer, scalar_mlp
from microtome.decomposition.causal_importance.shared_mlp import shared_mlp
from microtome.decomposition.causal_importance.vector_mlp import vector_mlp
from microtome.decomposition.fused_gates import fused_gates
from microtome.decomposition.fused_vector_gates import can_fuse, fused_vector_gates
from microtome.decomposition.gates import GateWeights

Kind = Literal["mlp", "linear", "vector_mlp", "shared_mlp"]
_GATE = ("w_in", "b_in", "w_out", "b_out")
_NAME = re.compile(r"w_in|b_in|w_out|b_out|(mlp|vector_mlp|shared_mlp)\.\d+\.[Wb]")


@dataclass(frozen=True)
class CausalImportanceFunction:
    """What a site sees ``->`` gate values, before the sigmoid, for K instances.

    ``weights`` by name: ``w_in, b_in, w_out, b_out`` (see ``GateWeights``) for linear gates and those with
    one hidden layer; else ``<kind>.<i>.W`` and ``.b`` for layer i.
    """

    kind: Kind
    weights: Mapping[str, Tensor]

    @property
    def reads(self) -> Literal["component_acts", "input"]:
        """Whether it is a function of the components' inner activations or of the site's input."""
        return "component_acts" if self.kind in ("mlp", "linear") else "input"

    def __call__(self, x: Float[Tensor, "K N width"]) -> Float[Tensor, "K N C"]:
        """Gate values of inner activations ``[K, N, C]`` or site inputs ``[K, N, d_in]`` (see ``reads``)."""
        if "w_in" in self.weights:
            weights = GateWeights(**{name: self.weights[name] for name in _GATE})
            return fused_gates(x.mT.to(weights.w_in.dtype), weights).mT.contiguous()
        layers = self.layers()
        if self.kind == "vector_mlp" and len(layers) == 2 and can_fuse(x):
            (w_in, b_in), (w_out, b_out) = layers
            gates = fused_vector_gates(x.mT, w_in, b_in, w_out.squeeze(-1), b_out.squeeze(-1))
            return gates.mT.contiguous()
        if self.kind == "mlp":
            return scalar_mlp(x.mT, layers).mT
        return vector_mlp(x, layers) if self.kind == "vector_mlp" else shared_mlp(x, layers)

    def layers(self) -> list[Layer]:
        """Weight and bias of every layer, of functions that are kept in layers."""
        n = len(self.weights) // 2
        return [(self.weights[f"{self.kind}.{i}.W"], self.weights[f"{self.kind}.{i}.b"]) for i in range(n)]


def functions_from(
    parameters: Mapping[str, Tensor], sites: Iterable[str]
) -> dict[str, CausalImportanceFunction]:
    """Each site's function, out of tensors named ``gates.<site>.<name>``."""
    found: dict[str, CausalImportanceFunction] = {}
    for site in sites:
        prefix = f"gates.{site}."
        weights = {
            key[len(prefix) :]: tensor
            for key, tensor in parameters.items()
            if key.startswith(prefix) and _NAME.fullmatch(key[len(prefix) :])
        }
        assert weights, f"no causal importance function for {site}"
        found[site] = CausalImportanceFunction(_kind(weights), weights)
    return found


def _kind(weights: Mapping[str, Tensor]) -> Kind:
    if "w_in" in weights:
        return "mlp" if weights["b_in"].shape[-1] else "linear"
    kinds: tuple[Kind, ...] = ("vector_mlp", "shared_mlp", "mlp")
    return next(kind for kind in kinds if f"{kind}.0.W" in weights)
