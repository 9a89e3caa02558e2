"""The original critical periods: the fastest tenth of every layer's steps, and where layers agree on them."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame

PERCENTILE = 90
COORDINATED = 0.5
STRONG = 0.3


def above_percentile(changes: np.ndarray) -> np.ndarray:
    """Where ``|changes|`` exceeds its own 90th percentile, per row ``[layers, n]``."""
    size = np.abs(changes)
    return size > np.percentile(size, PERCENTILE, axis=1, keepdims=True)


def coordination(critical: np.ndarray, n_records: int) -> np.ndarray:
    """Share of layers that are critical at each record ``[n_records]``; the last record never is."""
    score = np.zeros(n_records)
    score[: critical.shape[1]] = critical.sum(axis=0)
    return score / len(critical)


def loss_correlation(critical: np.ndarray, loss: np.ndarray) -> float:
    """Share of critical steps at which the loss falls, mean over layers; a layer without any counts 0."""
    falls = np.diff(loss) < 0
    shares = [float(np.mean(falls[row])) if row.any() else 0.0 for row in critical]
    return float(np.mean(shares))


def describe(values: np.ndarray, loss: np.ndarray) -> dict[str, Any]:
    """One run's row of ``critical_periods_detailed.csv``, without its names; ``values [layers, records]``."""
    velocity = np.diff(np.ascontiguousarray(values), axis=1)
    critical = above_percentile(velocity)
    score = coordination(critical, values.shape[1])
    return {
        "total_critical_steps": int(critical.sum()),
        "total_transitions": int(above_percentile(np.diff(velocity, axis=1)).sum()),
        "num_coordinated_periods": int((score >= COORDINATED).sum()),
        "max_coordination": float(score.max()),
        "mean_coordination": float(score.mean()),
        "loss_correlation": loss_correlation(critical, loss),
    }


def summary(table: "DataFrame") -> dict[str, Any]:
    """The first part of ``critical_periods_summary.json``."""
    strong = (table["max_coordination"] > STRONG) & (table["loss_correlation"] > STRONG)
    return {
        "mean_critical_periods": float(table["total_critical_steps"].mean()),
        "mean_coordination": float(table["mean_coordination"].mean()),
        "mean_loss_correlation": float(table["loss_correlation"].mean()),
        "experiments_with_strong_periods": int(strong.sum()),
    }
