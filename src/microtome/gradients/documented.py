"""The arrays that are documented, from scores: power, normalisation, one array a layer and mode."""

from collections.abc import Mapping

import numpy as np

from microtome.gradients.config import GradientConfig
from microtome.gradients.names import Entry, attribution_key, entries
from microtome.gradients.normalise import normalise_gradients, powered
from microtome.gradients.result import GradientResult


def documented_arrays(result: GradientResult, config: GradientConfig) -> dict[Entry, np.ndarray]:
    """Each documented array, fp32 ``[D]``."""
    arrays = {}
    for entry in entries(result.layers, config.aggregation_mode, config.normalize_gradients):
        measured = result.score(entry.layer, f"{config.aggregate_by}_{entry.mode}").astype(np.float64)
        values = normalise_gradients(powered(measured, config.power), entry.normalisation)
        arrays[entry] = values.astype(np.float32)
    return arrays


def npz_arrays(result: GradientResult, documented: Mapping[Entry, np.ndarray]) -> dict[str, np.ndarray]:
    """What the consolidated file holds: the documented arrays, and of features the attribution."""
    arrays = {entry.key: values for entry, values in documented.items()}
    return arrays | attributions(result)


def attributions(result: GradientResult) -> dict[str, np.ndarray]:
    """The signed mean attribution of each layer's features, by key; of raw activations none is written."""
    if result.kind != "features":
        return {}
    return {
        attribution_key(layer): arrays["attribution_mean"]
        for layer, arrays in result.layers.items()
        if "attribution_mean" in arrays
    }
