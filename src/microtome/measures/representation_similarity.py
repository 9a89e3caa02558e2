"""How alike two networks see the same inputs: CKA, Procrustes distance, RSA and shared subspaces.

All functions take activations as ``[n, d]`` matrices whose rows are the same inputs in the same order; the
widths may differ. Everything is computed in double precision through ``n x n`` Gram matrices when inputs are
fewer than units, and is finite for constant activations too.
"""

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from microtome.core.errors import MicrotomeError
from microtome.measures.arrays import Array, to_numpy

FEWEST = 4  # the unbiased estimate divides by n - 3


def centred(x: Float[Array, "n d"]) -> Float[np.ndarray, "n d"]:
    """``x`` in double precision minus its column means.

    Raises ``MicrotomeError`` for values that are not finite.
    """
    rows = to_numpy(x).astype(np.float64)
    if not np.isfinite(rows).all():
        raise MicrotomeError("activations: not all finite; look for NaN or overflow in the network")
    return rows - rows.mean(axis=0)


def gram(x: Float[Array, "n d"]) -> Float[np.ndarray, "n n"]:
    """Inner products between all centred rows."""
    rows = centred(x)
    return rows @ rows.T


def without_bias(gram: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """The U-centred Gram matrix: diagonal 0 and rows that sum to 0 (Szekely and Rizzo, 2014).

    ``(A * B).sum() / (n (n - 3))`` of two of them is the unbiased estimate of HSIC (Song et al., 2012).
    """
    n = len(gram)
    if n < FEWEST:
        raise MicrotomeError(f"inputs={n}: too few for a debiased similarity; give at least {FEWEST}")
    k = np.array(gram, dtype=np.float64)
    np.fill_diagonal(k, 0.0)
    sums = k.sum(axis=0) / (n - 2)
    k -= sums[:, None]
    k -= sums[None, :]
    k += k.dtype.type(sums.sum() / (n - 1))
    np.fill_diagonal(k, 0.0)
    return k


def debiased_cka(x: Float[Array, "n d"], y: Float[Array, "m e"]) -> float:
    """Linear CKA from unbiased HSIC estimates (Song et al., 2012; Nguyen et al., 2021).

    1 for the same representation up to rotation and scale, about 0 for unrelated ones however wide they are
    (it may be slightly negative). 0 where one of the two does not vary.
    """
    _same_inputs(x, y)
    return cosine(without_bias(gram(x)), without_bias(gram(y)))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine between two arrays as flat vectors; 0 where one of them is 0."""
    one, other = float(np.vdot(a, a)), float(np.vdot(b, b))
    if not one > 0 or not other > 0:
        return 0.0
    return float(np.clip(np.vdot(a, b) / np.sqrt(one) / np.sqrt(other), -1.0, 1.0))


def procrustes_distance(x: Float[Array, "n d"], y: Float[Array, "m e"]) -> float:
    """``1 - |X^T Y|_*`` of centred matrices of Frobenius norm 1, in [0, 1] (Ding et al., 2021, halved).

    Half the squared distance left after the best rotation: 0 for the same representation up to rotation and
    scale. 1 where one of the two does not vary.
    """
    _same_inputs(x, y)
    a, b = _unit(_factor(centred(x))), _unit(_factor(centred(y)))
    return float(np.clip(1.0 - np.linalg.svd(a.T @ b, compute_uv=False).sum(), 0.0, 1.0))


def rsa(x: Float[Array, "n d"], y: Float[Array, "m e"]) -> float:
    """Rank correlation between the two matrices of Euclidean distances (Kriegeskorte et al., 2008)."""
    _same_inputs(x, y)
    return rank_correlation(distances(gram(x)), distances(gram(y)))


def distances(gram: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " pairs"]:
    """Squared Euclidean distance of every pair of rows, from their Gram matrix."""
    size = np.diagonal(gram)
    rows, columns = np.triu_indices(len(gram), 1)
    return np.maximum(size[rows] + size[columns] - 2 * gram[rows, columns], 0.0)


def rank_correlation(a: Float[np.ndarray, " pairs"], b: Float[np.ndarray, " pairs"]) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where one of the two is constant."""
    one, other = rankdata(a), rankdata(b)
    return cosine(one - one.mean(), other - other.mean())


def principal_angles(x: Float[Array, "n d"], y: Float[Array, "m e"], k: int) -> Float[np.ndarray, " k"]:
    """Cosines of the angles between the spans of the first ``k`` principal scores of each, largest first.

    The scores are patterns over inputs, so that networks of different width can be compared. Directions
    without variance are left out, which may leave fewer than ``k``.
    """
    _same_inputs(x, y)
    return np.clip(np.linalg.svd(_top(x, k).T @ _top(y, k), compute_uv=False), 0.0, 1.0)


def subspace_overlap(x: Float[Array, "n d"], y: Float[Array, "m e"], k: int) -> float:
    """Mean squared cosine of the principal angles between the spans of the first ``k`` principal scores.

    1 for the same span, about ``k / (n - 1)`` by chance, 0 where one of the two does not vary.
    """
    _same_inputs(x, y)
    a, b = _top(x, k), _top(y, k)
    fewest = min(a.shape[1], b.shape[1])
    return float(np.square(a.T @ b).sum() / fewest) if fewest else 0.0


def _top(x: Float[Array, "n d"], k: int) -> Float[np.ndarray, "n r"]:
    if k < 1:
        raise MicrotomeError(f"k={k}: no directions to compare; give at least 1")
    left, sizes, _ = np.linalg.svd(_factor(centred(x)), full_matrices=False)
    kept = int((sizes > sizes[:1].sum() * 1e-10).sum())
    return left[:, : min(k, kept)]


def _factor(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n r"]:
    """A matrix with the same Gram matrix and no more columns than rows."""
    n, d = x.shape
    if d <= n:
        return x
    values, vectors = np.linalg.eigh(x @ x.T)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def _unit(x: np.ndarray) -> np.ndarray:
    size = np.linalg.norm(x)
    return x / size if size > 0 else x


def _same_inputs(x: Array, y: Array) -> None:
    if len(x) != len(y):
        raise MicrotomeError(f"inputs={len(x)} and {len(y)}: rows must be the same inputs in the same order")
