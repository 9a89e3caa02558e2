"""Sums of low-rank terms kept apart until somebody needs the product.

The residual stream of a ResidMLP is wide (1,000) but every term in it is a narrow activation times a fixed
matrix. Multiplying the narrow matrices first, once a step instead of once a row, is exact and takes the wide
axis out of every batch-sized product.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

Term = tuple[Tensor, Tensor]


def multiply_terms(terms: Sequence[Term]) -> Float[Tensor, "K N d"]:
    """``sum_j coefficients_j @ matrix_j``.

    Coefficients that have the batch innermost keep it there, in the product and in the gradients.
    """
    if all(coefficients.mT.is_contiguous() for coefficients, _ in terms):
        total = torch.bmm(terms[0][1].mT, terms[0][0].mT)
        for coefficients, matrix in terms[1:]:
            total = torch.baddbmm(total, matrix.mT, coefficients.mT)
        return total.mT
    total = torch.bmm(*terms[0])
    for coefficients, matrix in terms[1:]:
        total = torch.baddbmm(total, coefficients, matrix)
    return total


@dataclass
class Products:
    """Remembers ``matrix @ projection`` for as long as one step lasts, so that every pass shares it.

    Both factors are kept alive with their product: identity is what the memory goes by.
    """

    known: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    def of(self, matrix: Tensor, projection: Tensor) -> Tensor:
        """The product, computed on first request."""
        key = (id(matrix), id(projection))
        if key not in self.known:
            self.known[key] = (matrix, projection, torch.bmm(matrix, projection))
        return self.known[key][2]


@dataclass(frozen=True)
class Stream:
    """A residual stream as a sum of terms ``coefficients [K, N, r] @ matrix [K, r, d]``."""

    terms: tuple[Term, ...]
    products: Products

    def plus(self, terms: Sequence[Term]) -> "Stream":
        """The stream with more terms added."""
        return Stream((*self.terms, *terms), self.products)

    def project_terms(self, projection: Float[Tensor, "K d r"]) -> list[Term]:
        """Terms of ``stream @ projection``, narrow matrices multiplied first."""
        return [(coefficients, self.products.of(matrix, projection)) for coefficients, matrix in self.terms]
