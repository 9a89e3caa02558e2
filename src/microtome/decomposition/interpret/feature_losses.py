"""How well each feature is computed, alone (APD paper, per-feature performance)."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from microtome.decomposition.attribution.topk import topk_mask
from microtome.decomposition.interpret.selection import (
    own_masks,
    per_sample_masks,
    scores,
    stochastic_masks,
)
from microtome.decomposition.interpret.subject import Masks, Subject
from microtome.measures.per_feature import one_feature_inputs

SWEEP_STEPS = 64


def losses_in_training(s: Subject) -> dict[str, np.ndarray]:
    """Mean squared error to the labels per feature, ``alone/<model> [K, n]``, and components on.

    Inputs are drawn as in training; those with exactly one feature on count, for that feature (nan where
    there was none). Models: target; APD per-batch top-k and per-input top-1; SPD masked by causal importance
    and stochastically. ``components/<site>`` (APD: ``components/all``): how many components are on, on
    average; ``to_target``: error of the per-input top-1 (SPD: causal importance) against the target's output.
    """
    assert s.labels is not None
    x = s.inputs("features in training")
    on = x != 0
    alone = on & (on.sum(dim=-1, keepdim=True) == 1)
    truth, wanted = s.labels(x), s.target(x)
    models = _models(s, x, "training")
    outputs = {"target": wanted, **{name: s.decomposed(x, masks) for name, masks in models.items()}}
    arrays = {f"alone/{name}": per_feature(out, truth, alone) for name, out in outputs.items()}
    first, *rest = models
    single = rest[0] if s.d.method == "apd" else first
    arrays["to_target"] = per_feature(outputs[single], wanted, alone)
    for name, counts in components_on(s, models[first]).items():
        arrays[f"components/{name}"] = averages(counts, alone)
    return arrays


def losses_in_sweep(s: Subject) -> dict[str, np.ndarray]:
    """Mean squared error to the labels, ``sweep/<model> [K, n]``, over a feature's whole range of values.

    64 evenly spaced values of one feature, the others 0. APD's per-batch top-k ranks each feature's rows by
    themselves, with at least one component a row on average. Source: APD code's ``loss_by_feature``.
    """
    assert s.labels is not None
    low, high = s.value_range
    flat = one_feature_inputs(s.n_features, torch.linspace(low, high, SWEEP_STEPS, device=s.device))
    x = flat.expand(s.d.n_instances, *flat.shape)
    truth = s.labels(x)
    outputs = {"target": s.target(x)}
    for name, masks in _sweep_models(s, x).items():
        outputs[name] = s.decomposed(x, masks)
    shape = (s.d.n_instances, s.n_features, SWEEP_STEPS)
    return {
        f"sweep/{name}": (out - truth).square().mean(-1).reshape(shape).mean(-1).cpu().numpy()
        for name, out in outputs.items()
    }


def _models(s: Subject, x: Tensor, stream: str) -> dict[str, Masks]:
    if s.d.method == "spd":
        return {"causal_importance": own_masks(s, x), "stochastic": stochastic_masks(s, x, stream)}
    return {"batch_topk": own_masks(s, x), "topk_1": per_sample_masks(s, x, 1)}


def _sweep_models(s: Subject, x: Tensor) -> dict[str, Masks]:
    if s.d.method == "spd":
        return _models(s, x, "sweep")
    attributions, config = scores(s, x), s.d.config
    topk = max(s.config.topk or getattr(config, "topk", None) or 1.0, 1.0)
    distil = bool(getattr(config, "distil_from_target", False))
    parts = attributions.split(SWEEP_STEPS, dim=1)
    mask = torch.cat([topk_mask(part, topk, True, distil) for part in parts], dim=1).float()
    return {"batch_topk": dict.fromkeys(s.d.sites, mask), "topk_1": per_sample_masks(s, x, 1)}


def components_on(s: Subject, masks: Masks) -> dict[str, Float[Tensor, "K B"]]:
    """How many components are on for each input: by site (SPD), or ``all`` sites together (APD)."""
    if s.d.method == "apd":
        return {"all": next(iter(masks.values())).sum(dim=-1)}
    return {name: (mask > s.config.ci_threshold).float().sum(dim=-1) for name, mask in masks.items()}


def per_feature(
    output: Float[Tensor, "K B n"], truth: Float[Tensor, "K B n"], alone: Bool[Tensor, "K B n"]
) -> Float[np.ndarray, "K n"]:
    """Mean squared error over the inputs on which ``alone`` marks the feature."""
    return averages((output - truth).square().mean(dim=-1), alone)


def averages(values: Float[Tensor, "K B"], alone: Bool[Tensor, "K B n"]) -> Float[np.ndarray, "K n"]:
    """Mean of ``values`` over the inputs marked for each feature; nan where there are none."""
    chosen = alone.to(values.dtype)
    total = torch.bmm(values.unsqueeze(1), chosen).squeeze(1)
    return (total / chosen.sum(dim=1)).cpu().numpy()
