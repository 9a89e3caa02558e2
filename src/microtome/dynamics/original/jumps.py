"""The original jumps: differences more than two standard deviations from their mean, all layers at once."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame

THRESHOLD = 2.0
MOST_CLUSTERS = 5


def find_jumps(values: np.ndarray) -> np.ndarray:
    """Index pairs ``[jumps, 2]`` (layer, index of the difference) of a ``[layers, records]`` array.

    ``|v - mean(v)| / std(v) > 2`` for the first differences ``v``, mean and population deviation over the
    whole series; a constant slope and fewer than three records have none.
    """
    values = np.ascontiguousarray(values)
    if values.shape[1] < 3:
        return np.zeros((0, 2), dtype=np.int64)
    velocity = np.diff(values, axis=1)
    deviation = np.std(velocity, axis=1, keepdims=True)
    mean = np.mean(velocity, axis=1, keepdims=True)
    scale = np.where(deviation == 0, np.nan, deviation)  # no jumps there: nan compares false
    return np.argwhere(np.abs((velocity - mean) / scale) > THRESHOLD)


def describe(values: np.ndarray, jumps: np.ndarray, num_steps: int) -> dict[str, np.ndarray]:
    """The documented columns of each jump: step, magnitude, speed, direction, phase.

    ``step`` is the index of the difference and ``phase`` divides it by the number of training steps, as the
    original did. ``speed`` is the change over up to five records, divided by how many there are.
    """
    layer, index = jumps[:, 0], jumps[:, 1]
    change = values[layer, index + 1] - values[layer, index]
    start, end = np.maximum(0, index - 2), np.minimum(values.shape[1], index + 3)
    return {
        "step": index,
        "magnitude": np.abs(change),
        "speed": np.abs(values[layer, end - 1] - values[layer, start]) / (end - start),
        "direction": np.where(change > 0, "increase", "decrease"),
        "phase": index / num_steps,
    }


def phase_category(phase: np.ndarray) -> np.ndarray:
    """``early`` below .33, ``mid`` below .67, else ``late``."""
    return np.select([phase < 0.33, phase < 0.67], ["early", "mid"], "late")


def clusters(table: "DataFrame") -> tuple[int, np.ndarray]:
    """How many types there are, and each jump's: k-means of its standardised phase, magnitude and speed."""
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    features = StandardScaler().fit_transform(table[["phase", "magnitude", "speed"]].to_numpy())
    n_clusters = min(MOST_CLUSTERS, len(table) // 10 + 1)
    # One thread: the order in which threads add up would change the last bits.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        kmeans = KMeans(n_clusters=n_clusters, random_state=42, n_init=10)  # pyright: ignore[reportArgumentType]
        labels = kmeans.fit_predict(features)
    return n_clusters, labels


def summary(table: "DataFrame", n_clusters: int, experiments: list[dict[str, Any]]) -> dict[str, Any]:
    """What ``jump_characterization_summary.json`` holds."""
    sizes = table["cluster"].value_counts()
    return {
        "total_jumps": len(table),
        "experiments_with_jumps": sum(entry["total_jumps"] > 0 for entry in experiments),
        "phase_distribution": {
            name: int(count) for name, count in table["phase_category"].value_counts().items()
        },
        "cluster_info": {
            "n_clusters": n_clusters,
            "cluster_sizes": {str(label): int(count) for label, count in sizes.items()},
        },
        "experiment_summaries": experiments,
    }


def no_jumps(experiments: list[dict[str, Any]]) -> dict[str, Any]:
    """The summary that the original wrote, without a table, when no run had a jump."""
    return {
        "summary": "No dimensionality jumps detected",
        "total_jumps": 0,
        "experiment_summaries": experiments,
    }
