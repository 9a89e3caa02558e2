"""The causal importance functions of the original codes as ours: one instance, our names."""

from collections.abc import Mapping

import torch
from torch import Tensor

from microtome.core.errors import CannotLoad

_PAPER = {"mlp_in": "w_in", "in_bias": "b_in", "mlp_out": "w_out", "out_bias": "b_out"}


def gate_parameters(
    gate: Mapping[str, Tensor], ci_fn_type: str | None, d_in: int, n_components: int, where: str
) -> dict[str, Tensor]:
    """Tensors of one site's function by the names of ``CausalImportanceFunction``, K = 1 in front.

    ``ci_fn_type`` (from the configuration) decides between ``mlp`` and ``vector_mlp`` where shapes cannot: on
    sites with one input. Raises ``CannotLoad`` for tensors that are none of the known functions.
    """
    named = _named(gate, ci_fn_type, d_in, where)
    found = len(named.get("b_out", list(named.values())[-1]))
    if found != n_components:
        raise CannotLoad(
            f"{where}: a function for {found} components, but there are {n_components};"
            " give the file as its run wrote it"
        )
    return {name: tensor.unsqueeze(0) for name, tensor in named.items()}


def _named(gate: Mapping[str, Tensor], ci_fn_type: str | None, d_in: int, where: str) -> dict[str, Tensor]:
    if gate.keys() == _PAPER.keys():
        return {ours: gate[theirs] for theirs, ours in _PAPER.items()}
    if gate.keys() == {"weight", "bias"}:
        return _linear(gate["weight"], gate["bias"])
    layers = _layers(gate, where)
    first, last = layers[0][0], layers[-1][0]
    if first.ndim == 2:
        return _numbered("shared_mlp", layers)
    if first.ndim != 3 or last.shape[-1] != 1 or first.shape[1] not in (1, d_in):
        raise CannotLoad(
            f"{where}: a causal importance function of shape {list(first.shape)}; this version loads mlp,"
            " vector_mlp and shared_mlp"
        )
    if first.shape[1] == d_in and (d_in > 1 or ci_fn_type == "vector_mlp"):
        return _numbered("vector_mlp", layers)
    if len(layers) == 1:
        return _linear(first.flatten(), layers[0][1].flatten())
    if len(layers) > 2:
        return _numbered("mlp", layers)
    (w_in, b_in), (w_out, b_out) = layers
    return {
        "w_in": w_in.squeeze(1),
        "b_in": b_in,
        "w_out": w_out.squeeze(-1),
        "b_out": b_out.squeeze(-1),
    }


def _linear(weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    empty = torch.zeros(len(weight), 0)
    return {"w_in": weight.unsqueeze(-1), "b_in": empty, "w_out": empty.clone(), "b_out": bias}


def _layers(gate: Mapping[str, Tensor], where: str) -> list[tuple[Tensor, Tensor]]:
    """(W, b) of every layer in order; the numbers between them are of activation functions."""
    numbers = sorted({int(name.split(".")[1]) for name in gate if _is_layer(name)})
    if not numbers or len(gate) != 2 * len(numbers):
        shown = ", ".join(list(gate)[:4])
        raise CannotLoad(
            f"{where}: a causal importance function of an unknown kind (it has {shown}); this version loads"
            " mlp, vector_mlp and shared_mlp"
        )
    return [(gate[f"layers.{i}.W"], gate[f"layers.{i}.b"]) for i in numbers]


def _is_layer(name: str) -> bool:
    parts = name.split(".")
    return len(parts) == 3 and parts[0] == "layers" and parts[1].isdigit() and parts[2] in ("W", "b")


def _numbered(kind: str, layers: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for i, (weight, bias) in enumerate(layers):
        named[f"{kind}.{i}.W"], named[f"{kind}.{i}.b"] = weight, bias
    return named
