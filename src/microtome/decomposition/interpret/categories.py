"""How strongly every component serves every feature: what the categories dead, mono, duo, poly count."""

import numpy as np
from jaxtyping import Float

from microtome.decomposition.interpret.contributions import layer_contributions, served_features
from microtome.decomposition.interpret.stored import LeftOut, Stored
from microtome.decomposition.picture_data import by_prefix

Strengths = dict[str, Float[np.ndarray, "n_features C"]]


def category_strengths(stored: Stored, instance: int) -> tuple[Strengths, str]:
    """Strengths ``[n_features, C]`` by set of components, and what they are, in words.

    SPD: causal importance on one-feature inputs, by site. APD on a residual MLP: the largest neuron
    contribution, as in the paper; on other networks: attribution relative to the largest one.
    """
    if stored.method == "spd":
        lower = by_prefix(stored.arrays("causal_importance"), "lower")
        if not lower:
            raise LeftOut("needs a toy model, whose inputs are features")
        return {site: values[instance] for site, values in lower.items()}, "Counted: causal importance"
    if stored.kind == "resid_mlp":
        weights = {p: by_prefix(stored.arrays("weights"), p) for p in ("target", "left", "right")}
        picked = [{site: value[instance] for site, value in part.items()} for part in weights.values()]
        embedding = stored.arrays("embedding")
        targets, left, right = picked
        embed, unembed = embedding["W_E"][instance], embedding["W_U"][instance]
        layers = layer_contributions(targets, left, right, embed, unembed, "apd")
        return {"all": served_features(layers)}, "Counted: neuron contributions"
    features = stored.arrays("attributions").get("features")
    if features is None:
        raise LeftOut("the attributions of single features are not stored")
    relative = features[instance] / max(float(features[instance].max()), 1e-30)
    return {"all": relative}, "Counted: attributions relative to the largest"
