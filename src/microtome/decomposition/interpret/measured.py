"""Numbers that follow from the stored weights, importances and attributions alone."""

from typing import Any

import numpy as np

from microtome.decomposition.interpret.categories import category_strengths
from microtome.decomposition.interpret.contributions import layer_contributions
from microtome.decomposition.interpret.stored import LeftOut, Stored
from microtome.decomposition.picture_data import by_prefix
from microtome.measures.causal_importance import component_categories, identity_error
from microtome.measures.recovery import measure_recovery

DEAD_RATIO = 0.1  # a component shorter than this share of a feature's weights does not stand for the feature


def stored_numbers(stored: Stored) -> dict[str, Any]:
    """Categories of components, identity errors, recovery (TMS), contribution correlations (residual MLP)."""
    found: dict[str, Any] = {}
    k = stored.n_instances
    if categories := _categories(stored, k):
        found["subnet_categories"] = categories
    lower = by_prefix(stored.arrays("causal_importance"), "lower")
    errors = {
        site: [identity_error(one) for one in values]
        for site, values in lower.items()
        if values.shape[-1] >= values.shape[-2]
    }
    if errors:
        found["identity_error"] = errors
    if stored.kind == "tms":
        found["recovery"] = _recovery(stored)
    if stored.kind == "resid_mlp":
        found["neuron_contribution_correlation"] = _correlations(stored, k)
    return found


def _categories(stored: Stored, k: int) -> dict[str, Any]:
    try:
        each = [category_strengths(stored, instance)[0] for instance in range(k)]
    except LeftOut:
        return {}
    counts = [
        {site: component_categories(values, stored.config.cutoff)[1] for site, values in one.items()}
        for one in each
    ]
    return {
        site: {kind: [one[site][kind] for one in counts] for kind in counts[0][site]} for site in counts[0]
    }


def _recovery(stored: Stored) -> dict[str, Any]:
    weights = {p: by_prefix(stored.arrays("weights"), p)["linear1"] for p in ("target", "left", "right")}
    parts = weights["left"] @ weights["right"]
    each = [
        measure_recovery(part, whole, min_ratio=DEAD_RATIO)
        for part, whole in zip(parts, weights["target"], strict=True)
    ]
    return {
        "mmcs": [one.mmcs for one in each],
        "ml2r": [one.ml2r for one in each],
        "recovered_mechanisms": [one.recovered for one in each],
    }


def _correlations(stored: Stored, k: int) -> dict[str, list[float]]:
    weights = {p: by_prefix(stored.arrays("weights"), p) for p in ("target", "left", "right")}
    embedding = stored.arrays("embedding")
    rows: dict[str, list[float]] = {}
    for i in range(k):
        targets, left, right = ({site: value[i] for site, value in part.items()} for part in weights.values())
        embed, unembed = np.asarray(embedding["W_E"][i]), np.asarray(embedding["W_U"][i])
        for layer, one in layer_contributions(targets, left, right, embed, unembed, stored.method).items():
            rows.setdefault(layer, []).append(one.correlation)
    return rows
