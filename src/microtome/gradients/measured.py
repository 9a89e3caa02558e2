"""From sums to scores."""

from collections.abc import Mapping

import numpy as np

from microtome.gradients.layer_sums import WITH_ERRORS, LayerSums
from microtome.gradients.moments import MODES

Arrays = dict[str, np.ndarray]


def scores(sums: LayerSums, magnitudes: bool = True) -> Arrays:
    """Mean and mean absolute value of each quantity, their standard errors, and ``active_share``; fp32.

    Without ``magnitudes`` the gradients' absolute values were not measured and are left out.
    """
    arrays: Arrays = {}
    positions = 0.0
    for quantity, moments in sums.moments.items():
        positions = moments.positions
        for mode in MODES:
            if quantity == "gradients" and mode == "mean_abs" and not magnitudes:
                continue
            arrays[f"{quantity}_{mode}"] = moments.mean(mode).numpy().astype(np.float32)
            if quantity in WITH_ERRORS:
                error = moments.standard_error(mode).numpy().astype(np.float32)
                arrays[f"{quantity}_{mode}_error"] = error
    acted = sums.active / max(float(sums.mass.bins[0].sum()), 1.0)
    if positions:
        arrays["active_share"] = acted.numpy().astype(np.float32)
    return arrays


def statistics(values: np.ndarray) -> dict[str, float]:
    """Mean, standard deviation, largest value and sum of absolute values, as ``metadata.json`` has them."""
    wide = np.asarray(values, dtype=np.float64)
    return {
        "mean": float(wide.mean()),
        "std": float(wide.std()),
        "max": float(wide.max()),
        "sum_abs": float(np.abs(wide).sum()),
    }


def nested_statistics(by_key: Mapping[tuple[str, str], np.ndarray]) -> dict[str, object]:
    """Statistics of one layer: flat for one array, by mode and by normalisation when there are several.

    Keys are (mode, ending of the normalisation).
    """
    modes = list(dict.fromkeys(mode for mode, _ in by_key))
    endings = list(dict.fromkeys(ending for _, ending in by_key))

    def of_mode(mode: str) -> dict[str, object]:
        if len(endings) == 1:
            return dict(statistics(by_key[mode, endings[0]]))
        return {ending.lstrip("_") or "none": statistics(by_key[mode, ending]) for ending in endings}

    return of_mode(modes[0]) if len(modes) == 1 else {mode: of_mode(mode) for mode in modes}
