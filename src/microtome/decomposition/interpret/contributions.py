"""Neuron contributions of a residual MLP's layers and components, from stored weights."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from microtome.decomposition.picture_data import join_factors, mlp_layers
from microtome.measures.contributions import (
    best_component_contributions,
    component_neuron_contributions,
    neuron_contributions,
    virtual_weights,
)

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class LayerContributions:
    """Contributions ``[n_features, d_mlp]`` in one layer: the target's, and of each feature's best component.

    ``every [C, n_features, d_mlp]`` are those of all components; of SPD the input side's components, each
    with the summed output side. ``correlation`` is between ``target`` and ``best``, over all entries.
    """

    target: Float[np.ndarray, "n_features d_mlp"]
    best: Float[np.ndarray, "n_features d_mlp"]
    component: Int[np.ndarray, " n_features"]
    every: Float[np.ndarray, "C n_features d_mlp"]
    total: Float[np.ndarray, "n_features d_mlp"]
    correlation: float


def layer_contributions(
    targets: Arrays,
    left: Arrays,
    right: Arrays,
    embed: Float[np.ndarray, "n_features d_embed"],
    unembed: Float[np.ndarray, "d_embed n_features"],
    method: str,
) -> dict[str, LayerContributions]:
    """Every layer whose two matrices are decomposed, by name.

    APD components span both matrices, and the best is the one with the largest sum over neurons; SPD's are
    taken on the input side, and the best has the largest single neuron (each as its paper plots).
    """
    found = {}
    for layer, (site_in, site_out) in mlp_layers(targets).items():
        parts_in = join_factors(left[site_in], right[site_in])
        parts_out = join_factors(left[site_out], right[site_out])
        out = parts_out if method == "apd" else parts_out.sum(axis=0)
        every = component_neuron_contributions(embed, parts_in, out, unembed)
        best = best_component_contributions(every, "sum" if method == "apd" else "largest")
        whole = neuron_contributions(embed, targets[site_in], targets[site_out], unembed)
        total = neuron_contributions(embed, parts_in.sum(axis=0), parts_out.sum(axis=0), unembed)
        related = correlation(whole.ravel(), best.values.ravel())
        found[layer] = LayerContributions(whole, best.values, best.component, every, total, related)
    return found


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation; nan when either does not vary."""
    varies = np.ptp(one) > 0 and np.ptp(other) > 0
    return float(np.corrcoef(one, other)[0, 1]) if varies else float("nan")


def served_features(layers: Mapping[str, LayerContributions]) -> Float[np.ndarray, "n_features C"]:
    """The largest neuron contribution of every component to every feature, over all layers (APD code)."""
    largest = [layer.every.max(axis=-1) for layer in layers.values()]
    return np.max(largest, axis=0).T


def seen_through_embedding(
    read_from: Arrays, embed: np.ndarray, unembed: np.ndarray
) -> dict[str, np.ndarray]:
    """``read``, ``write`` (transposed) ``[n, neurons]`` and ``through [n, n]`` of all layers together.

    ``read_from``: weights by site. Neurons of the layers stand side by side, ``through`` is summed.
    """
    pairs = [
        virtual_weights(embed, read_from[site_in], read_from[site_out], unembed)
        for site_in, site_out in mlp_layers(read_from).values()
    ]
    return {
        "read": np.concatenate([pair.read for pair in pairs], axis=1),
        "write": np.concatenate([pair.write.T for pair in pairs], axis=1),
        "through": np.sum([pair.through for pair in pairs], axis=0),
    }
