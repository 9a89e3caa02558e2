"""How alike the components of two decompositions are: cosines between their weight matrices."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from microtome.measures.arrays import Array, to_numpy

NUMBERS_AT_ONCE = 20_000_000


def component_cosines(
    left: Float[Tensor, "C d_in m"],
    right: Float[Tensor, "C m d_out"],
    other_left: Float[Tensor, "D d_in n"],
    other_right: Float[Tensor, "D n d_out"],
) -> Float[Tensor, "C D"]:
    """Cosine between every component ``A_c B_c`` of one set and every one of another, as flat matrices.

    ``<A B, A' B'> = tr((A^T A') (B' B^T))``, which for rank one is ``(v.v') (u.u')``: the matrices themselves
    are made only where that is cheaper (high ranks). A component of norm 0 has cosine 0 with everything.
    """
    product = inner_products(left, right, other_left, other_right)
    own = squared_norms(left, right).sqrt()
    other = squared_norms(other_left, other_right).sqrt()
    norms = own.unsqueeze(1) * other
    safe = torch.where(norms > 0, norms, torch.ones_like(norms))
    return torch.where(norms > 0, product / safe, torch.zeros_like(norms)).clamp(-1, 1)


def inner_products(
    left: Float[Tensor, "C d_in m"],
    right: Float[Tensor, "C m d_out"],
    other_left: Float[Tensor, "D d_in n"],
    other_right: Float[Tensor, "D n d_out"],
) -> Float[Tensor, "C D"]:
    """``sum_ij (A_c B_c)_ij (A'_d B'_d)_ij`` for every pair, in double precision."""
    a, b = left.double(), right.double()
    a2, b2 = other_left.double(), other_right.double()
    d_in, d_out, m, n = a.shape[1], b.shape[2], a.shape[2], a2.shape[2]
    if m * n * (d_in + d_out) > d_in * d_out:
        whole = (a2 @ b2).flatten(1)
        return torch.cat([(a[i] @ b[i]).flatten().unsqueeze(0) @ whole.T for i in range(len(a))])
    c, d = len(a), len(a2)
    rows = max(1, NUMBERS_AT_ONCE // max(d * m * n, 1))
    out = []
    for start in range(0, c, rows):
        part = slice(start, start + rows)
        # [c, m, d, n] each: the two small matrices whose product's trace is wanted
        reads = torch.einsum("cim,din->cmdn", a[part], a2)
        writes = torch.einsum("cmo,dno->cmdn", b[part], b2)
        out.append((reads * writes).sum(dim=(1, 3)))
    return torch.cat(out)


def squared_norms(left: Float[Tensor, "C d_in m"], right: Float[Tensor, "C m d_out"]) -> Float[Tensor, " C"]:
    """Squared Frobenius norm of every component, ``tr((A^T A) (B B^T))``."""
    a, b = left.double(), right.double()
    return ((a.mT @ a) * (b @ b.mT)).sum(dim=(1, 2)).clamp(min=0)


def rotated_cosines(
    left: Float[Tensor, "C d_in m"],
    right: Float[Tensor, "C m d_out"],
    other_left: Float[Tensor, "D d_in n"],
    other_right: Float[Tensor, "D n d_out"],
    generator: torch.Generator,
) -> Float[Tensor, "C D"]:
    """``component_cosines`` after the other set's inputs and outputs were turned by random rotations.

    What similarity the second set's number, sizes and mutual angles give by chance: its directions are
    uniformly random while everything within the set stays as it was.
    """
    turn_in = random_rotation(other_left.shape[1], generator)
    turn_out = random_rotation(other_right.shape[2], generator)
    return component_cosines(
        left, right, turn_in.to(other_left) @ other_left, other_right @ turn_out.to(other_right)
    )


def random_rotation(d: int, generator: torch.Generator) -> Float[Tensor, "d d"]:
    """An orthogonal matrix drawn uniformly (QR of normal entries, signs made unique)."""
    q, r = torch.linalg.qr(
        torch.randn(d, d, generator=generator, dtype=torch.float64, device=generator.device)
    )
    return q * torch.diagonal(r).sign()


@dataclass(frozen=True)
class Matching:
    """Pairs of components, at most one for each, that are most alike in total.

    ``rows[i]`` of the first set goes with ``columns[i]`` of the second, absolute cosine ``values[i]``.
    """

    rows: Int[np.ndarray, " pairs"]
    columns: Int[np.ndarray, " pairs"]
    values: Float[np.ndarray, " pairs"]


def match_components(cosines: Float[Array, "C D"]) -> Matching:
    """One-to-one matching with the largest sum of absolute cosines (Hungarian), best pairs first."""
    values = np.abs(to_numpy(cosines))
    rows, columns = linear_sum_assignment(values, maximize=True)
    best = values[rows, columns]
    order = np.argsort(-best, kind="stable")
    return Matching(rows[order], columns[order], best[order])


@dataclass(frozen=True)
class Similarity:
    """Largest absolute cosine of each alive component with any of the reference's, and its statistics."""

    largest: Float[np.ndarray, " alive"]
    mean: float
    std: float
    smallest: float
    greatest: float


def similarity(cosines: Float[Array, "C D"], alive: Bool[np.ndarray, " C"]) -> Similarity | None:
    """Statistics over the alive rows (standard deviation with n - 1; nan for one); None without any."""
    rows = np.abs(to_numpy(cosines))[alive]
    if not len(rows) or not rows.shape[1]:
        return None
    largest = rows.max(axis=1)
    std = float(largest.std(ddof=1)) if len(largest) > 1 else float("nan")
    return Similarity(largest, float(largest.mean()), std, float(largest.min()), float(largest.max()))
