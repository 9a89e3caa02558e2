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


def multiply_terms(terms: Sequence[Term], start: Tensor | None = None) -> Float[Tensor, "K N d"]:
    """``start + sum_j coefficients_j @ matrix_j``.

    Coefficients that have the batch innermost keep it there, in the product and in the gradients.
    """
    inner = all(coefficients.mT.is_contiguous() for coefficients, _ in terms)
    total = start if start is None or not inner else start.mT
    for coefficients, matrix in terms:
        pair = (matrix.mT, coefficients.mT) if inner else (coefficients, matrix)
        total = torch.bmm(*pair) if total is None else torch.baddbmm(total, *pair)
    assert total is not None
    return total.mT if inner else total


def weighed_terms(terms: Sequence[Term], weight: Float[Tensor, "K N"]) -> list[Term]:
    """The terms with each row multiplied by its weight, the batch innermost."""
    return [((rows.mT * weight.unsqueeze(1)).contiguous().mT, matrix) for rows, matrix in terms]


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

    def of_rows(self, rows: Tensor, matrix: Tensor) -> Tensor:
        """``rows @ matrix`` with the batch innermost, computed on first request."""
        key = (id(rows), id(matrix))
        if key not in self.known:
            self.known[key] = (rows, matrix, torch.bmm(matrix.mT, rows.mT).mT)
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
