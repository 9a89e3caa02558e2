"""Patterns in causal importances: which component is needed for which input, and how often."""

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from microtome.core.errors import bad_value
from microtome.measures.arrays import Array, to_numpy


def permutation_to_identity(importances: Float[Array, "n C"]) -> Int[np.ndarray, " C"]:
    """Order of the columns that brings the matrix closest to the identity.

    Columns are assigned to the first min(n, C) rows so that the sum of the importances on the diagonal
    is largest (Hungarian assignment, as in the later SPD code); the others follow in their old order.
    """
    values = to_numpy(importances)
    n_rows = min(values.shape)
    _, assigned = linear_sum_assignment(values[:n_rows], maximize=True)
    rest = np.setdiff1d(np.arange(values.shape[1]), assigned)
    return np.concatenate([assigned, rest]).astype(np.int64)


def permutation_to_dense(importances: Float[Array, "n C"]) -> Int[np.ndarray, " C"]:
    """Order of the columns by their total importance, largest first (equal ones keep their order)."""
    return np.argsort(-to_numpy(importances).sum(axis=0), kind="stable")


def identity_error(importances: Float[Array, "n C"], tolerance: float = 0.1) -> int:
    """Number of entries that break "one component of its own per feature", after the best permutation.

    Counts diagonal entries below ``1 - tolerance`` and all other entries above ``tolerance``; row j is
    the importances when only feature j is on. 0 means a perfect identity. Source: IdentityCIError of
    the later SPD code. Raises MicrotomeError when there are fewer components than features.
    """
    values = to_numpy(importances)
    n_features, n_components = values.shape
    if n_components < n_features:
        raise bad_value("C", n_components, f"fewer components than the {n_features} features", "raise C")
    permuted = values[:, permutation_to_identity(values)]
    diagonal = np.eye(n_features, n_components, dtype=bool)
    missing = permuted[diagonal] < 1 - tolerance
    spurious = permuted[~diagonal] > tolerance
    return int(missing.sum() + spurious.sum())


def dense_columns_error(
    importances: Float[Array, "n C"], n_dense: int, tolerance: float = 0.1, min_entries: int = 1
) -> int:
    """Number of entries that break "exactly ``n_dense`` components are ever used".

    Columns are ordered by total importance. Each of the first ``n_dense`` owes ``min_entries`` entries of
    at least ``1 - tolerance`` (the shortfall counts); in all others each entry above ``tolerance`` counts.
    The expected pattern of W_out in a ResidMLP or of an identity layer. Source: the later SPD code.
    """
    values = to_numpy(importances)
    if not 0 <= n_dense <= values.shape[1]:
        raise bad_value(
            "n_dense", n_dense, f"there are {values.shape[1]} components", "choose a number up to that"
        )
    ordered = values[:, permutation_to_dense(values)]
    strong = (ordered[:, :n_dense] >= 1 - tolerance).sum(axis=0)
    shortfall = np.clip(min_entries - strong, 0, None).sum()
    return int(shortfall + (ordered[:, n_dense:] > tolerance).sum())


def alive_counts(importances: Float[Array, "*n C"], threshold: float = 0.1) -> int:
    """Number of components whose importance exceeds ``threshold`` on at least one input."""
    values = to_numpy(importances)
    return int((values.reshape(-1, values.shape[-1]) > threshold).any(axis=0).sum())


def l0(importances: Float[Array, "*n C"], threshold: float = 0.0) -> float:
    """Mean number of components per input whose importance exceeds ``threshold`` (CI-L0)."""
    return float((to_numpy(importances) > threshold).sum(axis=-1).mean())


def activation_frequency(
    importances: Float[Array, "*n C"], threshold: float = 0.1
) -> Float[np.ndarray, " C"]:
    """Share of the inputs on which each component's importance exceeds ``threshold``."""
    values = to_numpy(importances)
    return (values.reshape(-1, values.shape[-1]) > threshold).mean(axis=0)


def mean_importance(importances: Float[Array, "*n C"]) -> Float[np.ndarray, " C"]:
    """Mean causal importance of each component over the inputs."""
    values = to_numpy(importances)
    return values.reshape(-1, values.shape[-1]).mean(axis=0)


CATEGORIES = ("dead", "mono", "duo", "poly")


def component_categories(
    strengths: Float[Array, "n_features C"], cutoff: float = 0.04
) -> tuple[Int[np.ndarray, " C"], dict[str, int]]:
    """How many features each component serves, and how many components are dead, mono, duo or poly.

    A component serves feature j when its strength (attribution, causal importance) on input j exceeds
    ``cutoff`` (.04 in the APD paper's figure). Also counts features: "represented" ones are served by any
    component, "own" ones by a component that serves nothing else.
    """
    served = to_numpy(strengths) > cutoff
    per_component = served.sum(axis=0)
    counts = {
        "dead": int((per_component == 0).sum()),
        "mono": int((per_component == 1).sum()),
        "duo": int((per_component == 2).sum()),
        "poly": int((per_component > 2).sum()),
        "represented": int(served.any(axis=1).sum()),
        "own": int(served[:, per_component == 1].any(axis=1).sum()),
    }
    return per_component.astype(np.int64), counts
