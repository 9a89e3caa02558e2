"""Gates of every kind with the batch innermost, wide inputs folded: for the fast step of SPD."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.causal_importance.functions import CausalImportanceFunction
from microtome.decomposition.fused_gates import fused_gates
from microtome.decomposition.fused_vector_gates import can_fuse, fused_vector_gates
from microtome.decomposition.gates import GateWeights
from microtome.decomposition.network import SiteInput, project

_GATE = ("w_in", "b_in", "w_out", "b_out")


def transposed_product(x: SiteInput, matrix: Float[Tensor, "K d_in C"]) -> Float[Tensor, "K C N"]:
    """``x @ matrix`` with the batch innermost: inner activations, where ``matrix`` is a site's V."""
    terms = project(x, matrix)
    total = torch.bmm(terms[0][1].mT, terms[0][0].mT)
    for coefficients, one in terms[1:]:
        total = torch.baddbmm(total, one.mT, coefficients.mT)
    return total


def fast_gates(
    function: CausalImportanceFunction, x: SiteInput, inner: Float[Tensor, "K C N"]
) -> Float[Tensor, "K C N"]:
    """Gates before the sigmoid of one call of a site: what reaches it, and its inner activations.

    Equal to ``function`` itself. Scalar gates have at most one hidden layer (see ``spd_covers``).
    """
    if "w_in" in function.weights:
        return fused_gates(inner, GateWeights(*(function.weights[name] for name in _GATE)))
    layers = function.layers()
    return _shared(x, layers) if function.kind == "shared_mlp" else _vector(x, layers)


def _shared(x: SiteInput, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    (weight, bias), *rest = layers
    out = transposed_product(x, weight) + bias.unsqueeze(-1)
    for weight, bias in rest:
        out = torch.baddbmm(bias.unsqueeze(-1), weight.mT, torch.nn.functional.gelu(out))
    return out


def _vector(x: SiteInput, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    (weight, bias), *rest = layers
    k, c, d_in, width = weight.shape
    side_by_side = weight.transpose(1, 2).reshape(k, d_in, c * width)
    if len(rest) == 1 and can_fuse(bias):
        terms = project(x, side_by_side)
        rows = torch.cat([coefficients.mT for coefficients, _ in terms], dim=1)
        folded = torch.cat([matrix for _, matrix in terms], dim=1).view(k, -1, c, width)
        (w_out, b_out) = rest[0]
        return fused_vector_gates(rows, folded.transpose(1, 2), bias, w_out.squeeze(-1), b_out.squeeze(-1))
    out = transposed_product(x, side_by_side).view(k, c, width, -1) + bias.unsqueeze(-1)
    for weight, bias in rest:
        out = torch.matmul(weight.mT, torch.nn.functional.gelu(out)) + bias.unsqueeze(-1)
    return out.squeeze(2)
