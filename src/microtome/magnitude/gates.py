"""What the components of one site do with a batch: gates where there are some, norms of what they write."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.causal_importance.functions import CausalImportanceFunction
from microtome.decomposition.causal_importance.sigmoids import sigmoid_pair
from microtome.decomposition.fused_gates import gate_outputs
from microtome.decomposition.gates import GateWeights
from microtome.decomposition.network import SiteInput, project
from microtome.decomposition.result import Decomposition
from microtome.decomposition.streams import Stream, multiply_terms

GATE_KINDS = ("gate_inputs", "gate_outputs", "lower", "upper")


def gate_arrays(
    decomposition: Decomposition, site: str, inputs: SiteInput, wanted: Callable[[str], bool]
) -> dict[str, Float[Tensor, "K N C"]]:
    """``gate_inputs`` (inner activations), ``gate_outputs``, ``lower`` and ``upper``; or ``activations``.

    ``inputs`` is what reaches the site.
    """
    left, right = decomposition.factors[site]
    if site not in decomposition.ci_fns:
        return {"activations": component_norms(inputs, left, right)} if wanted("activations") else {}
    if not any(map(wanted, GATE_KINDS)):
        return {}
    inner = multiply_terms(project(inputs, left.squeeze(-1).mT))
    gate = _gate(decomposition.ci_fns[site], inner, inputs)
    made = zip(("lower", "upper"), sigmoid_pair(decomposition.sigmoid_type), strict=True)
    arrays = {kind: sigmoid(gate) for kind, sigmoid in made if wanted(kind)}
    return {"gate_inputs": inner, "gate_outputs": gate, **arrays}


def _gate(
    function: CausalImportanceFunction, inner: Float[Tensor, "K N C"], inputs: SiteInput
) -> Float[Tensor, "K N C"]:
    if "w_in" in function.weights:
        return gate_outputs(inner.mT, GateWeights(**function.weights)).mT
    if function.reads == "component_acts":
        return function(inner)
    h = multiply_terms(inputs.terms) if isinstance(inputs, Stream) else inputs
    return function(h.reshape(h.shape[0], -1, h.shape[-1]))


def component_norms(
    inputs: SiteInput, left: Float[Tensor, "K C d_in m"], right: Float[Tensor, "K C m d_out"]
) -> Float[Tensor, "K N C"]:
    """``|h P_c|``: the length of what each component ``P_c = left_c right_c`` writes for an input ``h``."""
    k, c, d_in, m = left.shape
    joined = left.transpose(1, 2).reshape(k, d_in, c * m)
    inner = multiply_terms(project(inputs, joined)).reshape(k, -1, c, m)
    lengths = torch.einsum("kncm,kcmj,kncj->knc", inner, right @ right.mT, inner)
    return lengths.clamp(min=0.0).sqrt()
