"""One Gram matrix of a layer's activations, from which PCA, similarities, resampling and nulls all come."""

from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from microtome.measures import representation_similarity as similarity
from microtome.measures.arrays import Array


class Gram:
    """Inner products between the centred activations of all inputs, in double precision."""

    def __init__(self, rows: Float[Array, "n d"]):
        self.products = similarity.gram(rows)

    @classmethod
    def of_products(cls, products: Float[np.ndarray, "n n"]) -> "Gram":
        """From inner products of rows that need not be centred."""
        made = cls.__new__(cls)
        means = products.mean(axis=0)
        made.products = products - means[:, None] - means[None, :] + means.mean()
        return made

    def __len__(self) -> int:
        return len(self.products)

    @cached_property
    def eigen(self) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n n"]]:
        """Eigenvalues, largest first, and eigenvectors as columns."""
        values, vectors = np.linalg.eigh(self.products)
        return np.maximum(values[::-1], 0.0), vectors[:, ::-1]

    @cached_property
    def unit(self) -> Float[np.ndarray, "n n"]:
        """The U-centred matrix of norm 1 (all 0 where nothing varies): CKA is the product of two of them."""
        k = similarity.without_bias(self.products)
        size = np.linalg.norm(k)
        # What rounding leaves of a constant layer is no variation.
        tiny = 1e-12 * max(float(np.abs(self.products).max()), 1e-300)
        return k / size if size > tiny else np.zeros_like(k)

    @cached_property
    def ranks(self) -> Float[np.ndarray, " pairs"]:
        """Ranks of all pairs of inputs by distance, centred."""
        ranks = similarity.rankdata(similarity.distances(self.products))
        return ranks - ranks.mean()

    def pca(self, k: int) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, " k"]]:
        """Scores on the first ``k`` principal components, and the share of variance of each.

        The sign of each is such that its largest score is positive. Fewer than ``k`` where inputs are fewer.
        """
        values, vectors = self.eigen
        scores = vectors[:, :k] * np.sqrt(values[:k])
        signs = np.sign(scores[np.abs(scores).argmax(axis=0), np.arange(scores.shape[1])])
        total = values.sum()
        return scores * np.where(signs == 0, 1.0, signs), values[:k] / total if total > 0 else values[:k] * 0

    def cka(self, other: "Gram") -> float:
        """Debiased linear CKA."""
        return float(np.clip(np.vdot(self.unit, other.unit), -1.0, 1.0))

    def procrustes(self, other: "Gram") -> float:
        """``measures.representation_similarity.procrustes_distance`` of the same activations."""
        sides = []
        for gram in (self, other):
            values, vectors = gram.eigen
            total = values.sum()
            if not total > 0:
                return 1.0
            kept = values > values[0] * 1e-12
            sides.append(vectors[:, kept] * np.sqrt(values[kept] / total))
        overlap = np.linalg.svd(sides[0].T @ sides[1], compute_uv=False).sum()
        return float(np.clip(1.0 - overlap, 0.0, 1.0))

    def rsa(self, other: "Gram") -> float:
        """``measures.representation_similarity.rsa`` of the same activations."""
        return similarity.cosine(self.ranks, other.ranks)

    def overlap(self, other: "Gram", k: int) -> float:
        """``measures.representation_similarity.subspace_overlap`` of the same activations."""
        tops = []
        for gram in (self, other):
            values, vectors = gram.eigen
            tops.append(vectors[:, : min(k, int((values > values[0] * 1e-12).sum()))])
        fewest = min(top.shape[1] for top in tops)
        return float(np.square(tops[0].T @ tops[1]).sum() / fewest) if fewest else 0.0

    def resample(self, index: Int[np.ndarray, " m"]) -> "Gram":
        """The Gram matrix of these inputs alone (a half sample, a permutation, a draw with replacement)."""
        return Gram.of_products(self.products[np.ix_(index, index)])

    def effective_dimension(self) -> Float[np.ndarray, " n"]:
        """Input values of the participation ratio ``tr(C)^2 / tr(C^2)`` of the covariance C.

        Their mean is the ratio; each value is the ratio plus that input's influence on it.
        """
        n = len(self)
        own = np.diagonal(self.products)
        squares = np.square(self.products).sum(axis=1) / n
        first, second = own.mean(), squares.mean()
        if not second > 0:
            return np.zeros(n)
        ratio = first**2 / second
        return ratio * (1 + 2 * (own / first - 1) - 2 * (squares / second - 1))


def cka_input_values(
    units: Float[np.ndarray, "networks n n"], pairs: Int[np.ndarray, "pairs 2"]
) -> Float[np.ndarray, "pairs n"]:
    """Debiased CKA of pairs of networks plus each input's influence on it, whose mean is the CKA.

    ``units`` are ``Gram.unit`` matrices. The influence is first order: HSIC is the squared norm of a
    covariance, so that an input's influence on it is twice its own row of products less the mean.
    """
    n = units.shape[1]
    own = np.einsum("kij,kij->ki", units, units)
    out = np.empty((len(pairs), n))
    for row, (i, j) in enumerate(pairs):
        shared = np.einsum("ij,ij->i", units[i], units[j])
        value = shared.sum()
        out[row] = value + n * (2 * shared - value * (own[i] + own[j]))
    return out
