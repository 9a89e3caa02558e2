"""When each layer has settled, and whether layers settle from the bottom up, top down or together."""

from collections.abc import Sequence
from typing import Any

import numpy as np

SHARE = 0.1  # of its range that a settled layer may still be away from its last level
LAST = 0.1  # share of the records whose median is the last level
SMOOTHED = 5  # records
FEWEST = 10  # records


def settling_records(values: np.ndarray) -> np.ndarray:
    """The record from which each series of ``values [L, n]`` stays near its last level; -1 when it does not.

    Near is within a tenth of the series' range; the last level is the median of the last tenth of the
    records, and a series that only comes near in the last fifth has not settled. A constant series has, from
    the start.
    """
    settled = np.full(len(values), -1)
    n = values.shape[1]
    if n < FEWEST:
        return settled
    tail = max(2, round(LAST * n))
    half = SMOOTHED // 2
    for row, series in enumerate(values):
        if not np.isfinite(series).all():
            continue
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(series, half, mode="edge"), SMOOTHED)
        smooth = np.median(windows, axis=1)
        away = np.abs(smooth - np.median(series[-tail:])) > SHARE * np.ptp(smooth)
        first = int(np.flatnonzero(away)[-1]) + 1 if away.any() else 0
        settled[row] = first if first < n - 2 * tail else -1
    return settled


def convergence(steps: np.ndarray, values: np.ndarray, layers: Sequence[str]) -> dict[str, Any]:
    """The documented entry of one run; ``values [L, n]``, layers in the network's order.

    ``stabilization_points`` are training steps, -1 for a layer that did not settle. The correlation is
    Spearman's, of the place of a layer in the network and its point: above .6 with p < .05 is
    ``bottom-up``, below -.6 ``top-down``, within .3 or all at once ``simultaneous``, else ``unclear``.
    """
    records = settling_records(values)
    points = [int(steps[record]) if record >= 0 else -1 for record in records]
    correlation, p_value, pattern = _order(records)
    return {
        "stabilization_points": dict(zip(layers, points, strict=True)),
        "convergence_correlation": correlation,
        "convergence_p_value": p_value,
        "convergence_pattern": pattern,
        "num_stabilized_layers": int((records >= 0).sum()),
        "total_layers": len(layers),
    }


def _order(records: np.ndarray) -> tuple[float | None, float | None, str]:
    from scipy.stats import spearmanr

    places = np.flatnonzero(records >= 0)
    if len(places) < 3:
        return None, None, "unclear"
    if np.ptp(records[places]) == 0:
        return None, None, "simultaneous"
    found: Any = spearmanr(places, records[places])
    correlation, p_value = float(found[0]), float(found[1])
    if abs(correlation) > 0.6 and p_value < 0.05:
        return correlation, p_value, "bottom-up" if correlation > 0 else "top-down"
    return correlation, p_value, "simultaneous" if abs(correlation) < 0.3 else "unclear"
