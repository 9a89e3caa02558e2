"""How the network answers to one or two features: output patterns, response curves, signal to noise."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.interpret.selection import no_masks, per_sample_masks
from microtome.decomposition.interpret.subject import Subject, in_rows
from microtome.measures.per_feature import one_feature_inputs

CURVE_STEPS = 41


def feature_responses(s: Subject) -> dict[str, np.ndarray]:
    """Outputs ``[K, n, n]`` (row i: feature i on), at value 1 and at values spread over the range.

    ``one/<model>`` and ``spread/<model>`` (feature i at value i of ``spread_values``) of the target, of all
    components and of those chosen (SPD: causal importance, APD: top-1 per input); ``one/direct`` with every
    component off. Source: APD code's ``individual_feature_responses``.
    """
    low, high = s.value_range
    spread = torch.linspace(low, high, s.n_features, device=s.device)
    arrays = {"spread_values": spread.cpu().numpy()}
    for name, x in (("one", s.one_hot()), ("spread", s.one_hot() * spread.unsqueeze(-1))):
        outputs = {
            "target": s.target(x),
            "all_components": s.decomposed(x),
            "chosen": s.decomposed(x, per_sample_masks(s, x, 1)),
        }
        if name == "one":
            outputs["direct"] = s.decomposed(x, no_masks(s, x))
        arrays |= {f"{name}/{model}": out.cpu().numpy() for model, out in outputs.items()}
    return arrays


def response_curves(s: Subject) -> dict[str, np.ndarray]:
    """Output i against the value of input i, all others 0: ``curve/<model> [K, n, values]``.

    The ReLU curves of the APD paper's appendix; ``curve/label`` is what it should be, where that is known.
    """
    low, high = s.value_range
    values = torch.linspace(low, high, CURVE_STEPS, device=s.device)
    flat = one_feature_inputs(s.n_features, values)
    x = flat.expand(s.d.n_instances, *flat.shape)
    own = torch.arange(s.n_features, device=s.device).repeat_interleave(CURVE_STEPS)
    outputs = {"target": s.target(x), "chosen": s.decomposed(x, per_sample_masks(s, x, 1))}
    if s.labels is not None:
        outputs["label"] = s.labels(x)
    index = own.expand(s.d.n_instances, -1).unsqueeze(-1)
    arrays = {
        f"curve/{n}": out.gather(2, index).reshape(-1, s.n_features, CURVE_STEPS)
        for n, out in outputs.items()
    }
    return {"curve_values": values.cpu().numpy(), **{n: out.cpu().numpy() for n, out in arrays.items()}}


def signal_to_noise(s: Subject) -> dict[str, np.ndarray]:
    """Signal to noise ratios of the target with two features on, ``[K, n, n]``.

    ``equal``: both at 1 (the diagonal: one feature alone); ``opposite``: the first at 1, the second at -1 (at
    0 and 1 where values are never negative it is left out). Signal: the smaller of the two outputs' sizes;
    noise: the standard deviation over all outputs. Source: APD code's ``plot_2d_snr``.
    """
    arrays = {"equal": _ratios(s, 1.0)}
    if s.value_range[0] < 0:
        arrays["opposite"] = _ratios(s, -1.0)
    return arrays


def _ratios(s: Subject, second: float) -> Float[np.ndarray, "K n n"]:
    n, k = s.n_features, s.d.n_instances
    eye = torch.eye(n, device=s.device)
    rows = eye.unsqueeze(1) + second * eye
    rows[torch.arange(n), torch.arange(n)] = second * eye
    ratios = in_rows(lambda x: pair_ratio(s.target(x), x), 4096, rows.reshape(n * n, n).expand(k, -1, -1))
    return ratios.reshape(k, n, n).cpu().numpy()


def pair_ratio(output: Float[Tensor, "K B n"], x: Float[Tensor, "K B n"]) -> Float[Tensor, "K B"]:
    """Smallest size among the outputs whose inputs are on, over the standard deviation of all outputs."""
    off = torch.full_like(output, torch.inf)
    signal = torch.where(x != 0, output.abs(), off).amin(dim=-1)
    return signal / output.std(dim=-1).clamp(min=1e-12)
