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


def best_component(
    components: Float[Array, "C n_features d"], target: Float[Array, "n_features d"]
) -> Int[np.ndarray, " n_features"]:
    """Index of the component most aligned with each feature (``argmax_c cos``; the first of equals)."""
    return np.argmax(np.nan_to_num(cosine_similarities(components, target), nan=-2.0), axis=0)


def mean_max_cosine_similarity(
    components: Float[Array, "C n_features d"], target: Float[Array, "n_features d"]
) -> Float[np.ndarray, " n_features"]:
    """``max_c cos(P_c[j], W[j])`` per feature j; its mean is MMCS (APD paper, eq. in section 3.1).

    nan for features whose target row is zero.
    """
    return cosine_similarities(components, target).max(axis=0)


def mean_l2_ratio(
    components: Float[Array, "C n_features d"], target: Float[Array, "n_features d"]
) -> Float[np.ndarray, " n_features"]:
    """``||P_c*(j)[j]|| / ||W[j]||`` per feature, c*(j) the most aligned component; its mean is ML2R.

    Below 1 the mechanism is shrunken, above 1 blown up. nan for features whose target row is zero.
    Source: APD paper, section 3.1.
    """
    parts, whole = to_numpy(components), to_numpy(target)
    chosen = parts[best_component(parts, whole), np.arange(whole.shape[0])]
    target_norms = _norms(whole)
    safe = np.where(target_norms > 0, target_norms, 1.0)
    return np.where(target_norms > 0, _norms(chosen) / safe, np.nan)


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
    target_norms = _norms(target)
    ratios = _norms(components) / np.where(target_norms > 0, target_norms, np.inf)
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
) -> Recovery:
    """MMCS, ML2R and the count of recovered mechanisms of one decomposition.

    ``components[c]`` is component c's weight with the feature axis first, as in a site's ``[d_in, d_out]``.
    The means are nan when the target represents no feature at all.
    """
    cosine = mean_max_cosine_similarity(components, target)
    ratio = mean_l2_ratio(components, target)
    represented = ~np.isnan(cosine)
    return Recovery(
        cosine=cosine,
        ratio=ratio,
        component=best_component(components, target),
        mmcs=float(cosine[represented].mean()) if represented.any() else float("nan"),
        ml2r=float(ratio[represented].mean()) if represented.any() else float("nan"),
        recovered=recovered_mechanisms(components, target, min_cosine=min_cosine, ratio_range=ratio_range),
    )
