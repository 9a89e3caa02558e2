"""One Gram matrix of a layer's activations, from which PCA, similarities, resampling and nulls all come."""

from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from microtome.measures.arrays import Array


class Gram:
    """Inner products between the centred activations of all inputs, in double precision."""

    def __init__(self, rows: Float[Array, "n d"]):
        raise NotImplementedError

    @cached_property
    def eigen(self) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n n"]]:
        """Eigenvalues, largest first, and eigenvectors as columns."""
        raise NotImplementedError

    def pca(self, k: int) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, " k"]]:
        """Scores on the first ``k`` principal components, and the share of variance of each."""
        raise NotImplementedError

    def cka(self, other: "Gram") -> float:
        """Debiased linear CKA."""
        raise NotImplementedError

    def procrustes(self, other: "Gram") -> float:
        """``measures.representation_similarity.procrustes_distance`` of the same activations."""
        raise NotImplementedError

    def rsa(self, other: "Gram") -> float:
        """``measures.representation_similarity.rsa`` of the same activations."""
        raise NotImplementedError

    def resample(self, index: Int[np.ndarray, " m"]) -> "Gram":
        """The Gram matrix of these inputs alone (a half sample, a permutation, a draw with replacement)."""
        raise NotImplementedError
