"""The original convergence: when each layer's variance drops, and whether deeper layers come later."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WINDOW = 20
SHARE_OF_MEAN = 0.1
NO_INDEX = 999


def stabilization_points(values: np.ndarray) -> np.ndarray:
    """Index of the first window of 20 records with ``var < (0.1 mean)^2``, per row of ``[layers, records]``.

    The mean is the whole row's, the last window is not looked at, and -1 means never.
    """
    n = values.shape[1]
    if n <= WINDOW:
        return np.full(len(values), -1)
    values = np.ascontiguousarray(values)
    threshold = SHARE_OF_MEAN * np.mean(values, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(values, WINDOW, axis=1)[:, : n - WINDOW]
    # A copy, so that each window is added up in the order of a plain array.
    below = np.var(np.ascontiguousarray(windows), axis=2) < threshold[:, None] ** 2
    return np.where(below.any(axis=1), below.argmax(axis=1), -1)


def layer_index(name: str) -> int:
    """The number at the end of a dotted name, the digits of a plain one, else 999."""
    if "." in name:
        try:
            return int(name.split(".")[-1])
        except ValueError:
            return NO_INDEX
    digits = "".join(filter(str.isdigit, name))
    return int(digits) if digits else NO_INDEX


def order(points: Mapping[str, int]) -> tuple[float, float]:
    """Spearman correlation of layer index and stabilization point, and its p; 0 and 1 below three layers."""
    from scipy.stats import ConstantInputWarning, spearmanr

    stable = {name: point for name, point in points.items() if point >= 0}
    if len(stable) < 3:
        return 0.0, 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        found: Any = spearmanr([layer_index(name) for name in stable], list(stable.values()))
    return float(found[0]), float(found[1])


def pattern(correlation: float, p_value: float) -> str:
    """``bottom-up``, ``top-down``, ``simultaneous`` or ``unclear``."""
    if correlation > 0.6 and p_value < 0.05:
        return "bottom-up"
    if correlation < -0.6 and p_value < 0.05:
        return "top-down"
    return "simultaneous" if abs(correlation) < 0.3 else "unclear"


def describe(layers: Sequence[str], values: np.ndarray) -> dict[str, Any]:
    """One run's entry of ``convergence_analysis_summary.json``, without its names."""
    found = stabilization_points(values)
    points = {name: int(point) for name, point in zip(layers, found, strict=True)}
    correlation, p_value = order(points)
    return {
        "stabilization_points": points,
        "convergence_correlation": correlation,
        "convergence_p_value": p_value,
        "convergence_pattern": pattern(correlation, p_value),
        "num_stabilized_layers": int((found >= 0).sum()),
        "total_layers": len(points),
    }
