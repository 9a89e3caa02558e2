"""Were the ground-truth mechanisms found? MMCS, ML2R and a count (APD paper, sec. 3.1; SPD paper, tab. 1)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from microtome.measures.arrays import Array, to_numpy


@dataclass(frozen=True)
class Recovery:
    """How well the components of one decomposition match a target's feature directions.

    Entries of features that the target does not represent (zero rows) are nan and left out of the means.
    """

    cosine: Float[np.ndarray, " n_features"]
    ratio: Float[np.ndarray, " n_features"]
    component: Int[np.ndarray, " n_features"]
    mmcs: float
    ml2r: float
    recovered: int


def _norms(rows: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("...d,...d->...", rows, rows))


def cosine_similarities(
    components: Float[Array, "C n_features d"], target: Float[Array, "n_features d"]
) -> Float[np.ndarray, "C n_features"]:
    """``cos(P_c[j], W[j])`` for every component c and feature j.

    A component without any weight on a feature has cosine 0 with it; a feature without weight in the
    target has nan.
    """
    parts, whole = to_numpy(components), to_numpy(target)
    part_norms, target_norms = _norms(parts), _norms(whole)
    product = part_norms * target_norms
    safe = np.where(product > 0, product, 1.0)
    cosines = np.einsum("cnd,nd->cn", parts, whole) / safe
    cosines = np.where(product > 0, np.clip(cosines, -1.0, 1.0), 0.0)
    return np.where(target_norms > 0, cosines, np.nan)


def length_ratios(
    components: Float[Array, "C n_features d"], target: Float[Array, "n_features d"]
) -> Float[np.ndarray, "C n_features"]:
    """``||P_c[j]|| / ||W[j]||`` for every component c and feature j; nan where the target's row is zero."""
    parts, target_norms = to_numpy(components), _norms(to_numpy(target))
    safe = np.where(target_norms > 0, target_norms, 1.0)
    return np.where(target_norms > 0, _norms(parts) / safe, np.nan)


def best_component(
    components: Float[Array, "C n_features d"],
    target: Float[Array, "n_features d"],
    min_ratio: float = 0.0,
) -> Int[np.ndarray, " n_features"]:
    """Index of the component most aligned with each feature (``argmax_c cos``; the first of equals).

    In few dimensions a component of next to no weight can be aligned by accident. ``min_ratio`` leaves out
    components shorter than that share of the target's row (unless all are); 0 is the papers' measure.
    """
    parts, whole = to_numpy(components), to_numpy(target)
    cosines = np.nan_to_num(cosine_similarities(parts, whole), nan=-2.0)
    # Below every cosine, yet in the order of the cosines for features with short components only.
    too_short = np.nan_to_num(length_ratios(parts, whole), nan=0.0) < min_ratio
    return np.argmax(cosines - 4.0 * too_short, axis=0)


def mean_max_cosine_similarity(
    components: Float[Array, "C n_features d"],
    target: Float[Array, "n_features d"],
    min_ratio: float = 0.0,
) -> Float[np.ndarray, " n_features"]:
    """``max_c cos(P_c[j], W[j])`` per feature j; its mean is MMCS (APD paper, eq. in section 3.1).

    ``min_ratio`` as in ``best_component``. nan for features whose target row is zero.
    """
    parts, whole = to_numpy(components), to_numpy(target)
    best = best_component(parts, whole, min_ratio)
    return cosine_similarities(parts, whole)[best, np.arange(whole.shape[0])]


def mean_l2_ratio(
    components: Float[Array, "C n_features d"],
    target: Float[Array, "n_features d"],
    min_ratio: float = 0.0,
) -> Float[np.ndarray, " n_features"]:
    """``||P_c*(j)[j]|| / ||W[j]||`` per feature, c*(j) the most aligned component; its mean is ML2R.

    Below 1 the mechanism is shrunken, above 1 blown up. ``min_ratio`` as in ``best_component``. nan for
    features whose target row is zero. Source: APD paper, section 3.1.
    """
    parts, whole = to_numpy(components), to_numpy(target)
    best = best_component(parts, whole, min_ratio)
    return length_ratios(parts, whole)[best, np.arange(whole.shape[0])]


def recovered_mechanisms(
    components: Float[Array, "C n_features d"],
    target: Float[Array, "n_features d"],
    *,
    min_cosine: float = 0.99,
    ratio_range: tuple[float, float] = (0.8, 1.2),
) -> int:
    """How many features have a component of their own that points and scales like the target's row.

    A pair (component, feature) qualifies when its cosine is at least ``min_cosine`` and its L2 ratio
    lies in ``ratio_range``; the count is the largest matching of qualifying pairs, so that one
    component is never counted for two features.
    """
    qualifies = _qualifying_pairs(to_numpy(components), to_numpy(target), min_cosine, ratio_range)
    matching = maximum_bipartite_matching(csr_matrix(qualifies.T), perm_type="column")
    return int((matching >= 0).sum())


def _qualifying_pairs(
    components: np.ndarray, target: np.ndarray, min_cosine: float, ratio_range: tuple[float, float]
) -> Bool[np.ndarray, "C n_features"]:
    ratios = np.nan_to_num(length_ratios(components, target), nan=-1.0)
    # Rounding must not fail a component that is exactly on the boundary.
    slack = 1e-9
    aligned = np.nan_to_num(cosine_similarities(components, target), nan=-2.0) >= min_cosine - slack
    return aligned & (ratios >= ratio_range[0] - slack) & (ratios <= ratio_range[1] + slack)


def measure_recovery(
    components: Float[Array, "C n_features d"],
    target: Float[Array, "n_features d"],
    *,
    min_cosine: float = 0.99,
    ratio_range: tuple[float, float] = (0.8, 1.2),
    min_ratio: float = 0.0,
) -> Recovery:
    """MMCS, ML2R and the count of recovered mechanisms of one decomposition.

    ``components[c]`` is component c's weight with the feature axis first, as in a site's ``[d_in, d_out]``.
    ``min_ratio`` as in ``best_component``. The means are nan when the target represents no feature at all.
    """
    cosine = mean_max_cosine_similarity(components, target, min_ratio)
    ratio = mean_l2_ratio(components, target, min_ratio)
    represented = ~np.isnan(cosine)
    return Recovery(
        cosine=cosine,
        ratio=ratio,
        component=best_component(components, target, min_ratio),
        mmcs=float(cosine[represented].mean()) if represented.any() else float("nan"),
        ml2r=float(ratio[represented].mean()) if represented.any() else float("nan"),
        recovered=recovered_mechanisms(components, target, min_cosine=min_cosine, ratio_range=ratio_range),
    )
