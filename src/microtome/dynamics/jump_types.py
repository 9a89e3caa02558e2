"""Types of jumps: clusters of when they happen, how large they are and how fast, without units."""

import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_TYPES = 5
FEWEST = 12  # jumps; fewer are one type
LEAST_SILHOUETTE = 0.3  # below it the jumps do not fall into types


def jump_types(table: "DataFrame", seed: int = 0) -> np.ndarray:
    """The type of each row of a table of jumps, 0 being the most frequent.

    K-means of phase, and of magnitude and speed as shares of the level they happen at, on a logarithmic
    scale; as many clusters as the silhouette likes best, one when it likes none.
    """
    if len(table) < FEWEST:
        return np.zeros(len(table), dtype=np.int64)
    level = np.maximum(table[["before", "after"]].abs().max(axis=1).to_numpy(), 1e-12)
    features = np.stack(
        [
            table["phase"].to_numpy(),
            np.log10(np.maximum(table["magnitude"].to_numpy() / level, 1e-12)),
            np.log10(np.maximum(table["speed"].to_numpy() / level, 1e-12)),
        ],
        axis=1,
    )
    features = features - features.mean(axis=0)
    features /= np.where(features.std(axis=0) > 0, features.std(axis=0), 1.0)
    best, labels = LEAST_SILHOUETTE, np.zeros(len(table), dtype=np.int64)
    for n_clusters in range(2, min(MOST_TYPES, len(np.unique(features, axis=0)) - 1) + 1):
        score, found = _clustered(features, n_clusters, seed)
        if score > best:
            best, labels = score, found
    order = np.argsort(-np.bincount(labels), kind="stable")
    return np.argsort(order)[labels]


def describe(table: "DataFrame") -> list[str]:
    """One line a type: how many jumps, when, how large."""
    lines = []
    for number, jumps in table.groupby("cluster"):
        when = (
            "early" if jumps["phase"].mean() < 1 / 3 else "mid" if jumps["phase"].mean() < 2 / 3 else "late"
        )
        level = jumps[["before", "after"]].abs().max(axis=1).clip(lower=1e-12)
        share = 100 * float((jumps["magnitude"] / level).median())
        lines.append(f"type {number}: {len(jumps)} jumps, {when}, median size {share:.3g}% of the level")
    return lines


def _clustered(features: np.ndarray, n_clusters: int, seed: int) -> tuple[float, np.ndarray]:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import silhouette_score
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        kmeans = KMeans(n_clusters=n_clusters, random_state=seed, n_init=10)  # pyright: ignore[reportArgumentType]
        labels = kmeans.fit_predict(features)
        if len(np.unique(labels)) < 2:
            return -1.0, labels
        return float(silhouette_score(features, labels)), labels
