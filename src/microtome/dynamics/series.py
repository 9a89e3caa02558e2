"""Series as the detectors take them: rows of finite values over ascending training steps."""

from collections.abc import Iterator

import numpy as np

from microtome.core.errors import MicrotomeError


def as_rows(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps ``[n]`` and values ``[L, n]`` of one series ``[n]`` or several ``[L, n]``.

    Raises ``MicrotomeError`` when they do not fit or steps do not ascend.
    """
    steps = np.asarray(steps, dtype=np.float64)
    values = np.asarray(values, dtype=np.float64)
    rows = values[None] if values.ndim == 1 else values
    if steps.ndim != 1 or rows.ndim != 2 or rows.shape[1] != len(steps):
        raise MicrotomeError(
            f"values: shape {list(values.shape)} for {steps.size} steps; give [n] or [series, n], one a step"
        )
    if (np.diff(steps) <= 0).any():
        raise MicrotomeError("steps: do not ascend; sort the records by step, one a step")
    return steps, rows


def finite_groups(values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows that lack the same records, and the records ``[m]`` they have; what is not finite is lacking."""
    finite = np.isfinite(values)
    patterns, which = np.unique(finite, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        yield np.flatnonzero(which.reshape(-1) == number), np.flatnonzero(pattern)


def grain(series: np.ndarray) -> float:
    """What rounding alone can move: the smallest step between a series' values, 0 when it is constant."""
    levels = np.unique(series)
    return float(np.diff(levels).min()) if len(levels) > 1 else 0.0
