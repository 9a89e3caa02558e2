"""What linear probes need of a layer, once for all labels: coordinates and the spectrum of each split."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

EXACT = 1024  # largest side of an exact eigen-decomposition of a whole layer
IN_DOUBLE = 2**24  # numbers of a layer up to which everything is done in double precision


def coordinates(rows: Float[np.ndarray, "n d"], most: int) -> Float[Tensor, "n r"]:
    """The first ``most`` principal coordinates of a layer's rows, centred, in double precision.

    Labels play no part, so that held-out images may. With at most ``most`` features or images the
    coordinates are a rotation of the rows and lose nothing. The largest value of each is positive. Above
    1,024 features and images the components are found by subspace iteration started among the images
    (Halko et al. 2011, arXiv:0909.4061), which the order of the features leaves unchanged.
    """
    x = torch.from_numpy(np.asarray(rows, dtype=np.float64 if rows.size <= IN_DOUBLE else np.float32))
    x = x - x.mean(0)
    if not x.abs().max() > 0:
        return torch.zeros(len(x), 1, dtype=torch.float64)
    x = x / x.abs().max()
    found = _leading(x, most).double()
    largest = found.gather(0, found.abs().argmax(0, keepdim=True))
    return found * torch.where(largest < 0, -1.0, 1.0)


def _leading(x: Tensor, most: int) -> Tensor:
    n, d = x.shape
    if d <= min(n, EXACT):
        values, vectors = torch.linalg.eigh((x.T @ x).double())
        kept = _kept(values, most)
        return x @ vectors[:, kept].to(x.dtype)
    if n <= EXACT:
        values, vectors = torch.linalg.eigh((x @ x.T).double())
        kept = _kept(values, most)
        return vectors[:, kept] * values[kept].sqrt()
    start = torch.Generator().manual_seed(0)
    basis = torch.randn(n, min(most + 16, n, d), generator=start, dtype=x.dtype)
    for _ in range(4):
        basis = torch.linalg.qr(x @ (x.T @ basis))[0]
    inside = x.T @ basis
    values, vectors = torch.linalg.eigh((inside.T @ inside).double())
    kept = _kept(values, most)
    return (basis.double() @ vectors[:, kept]) * values[kept].sqrt()


def _kept(values: Tensor, most: int) -> Tensor:
    """Indices of the largest eigenvalues, largest first, without those that are rounding."""
    rank = int((values > 1e-9 * values[-1]).sum())
    return torch.arange(len(values) - 1, len(values) - 1 - min(most, max(rank, 1)), -1)


@dataclass(frozen=True)
class Eigen:
    """Scatter of training rows about their mean: ``basis @ diag(values) @ basis.T``; labels play no part."""

    mean: Float[Tensor, " r"]
    values: Float[Tensor, " q"]
    basis: Float[Tensor, "r q"]
    n: int
    dimensions: int  # r, of which q carry scatter

    def project(self, x: Float[Tensor, "m r"]) -> Float[Tensor, "m q"]:
        """Rows in the eigenbasis, about the training mean."""
        return (x - self.mean) @ self.basis


def eigen(x: Float[Tensor, "n r"]) -> Eigen:
    """The eigen-decomposition of the total scatter of ``x``, through the smaller of its two Gram matrices."""
    mean = x.mean(0)
    centred = x - mean
    n, r = x.shape
    small = n <= r
    values, vectors = torch.linalg.eigh(centred @ centred.T if small else centred.T @ centred)
    alive = values > 1e-10 * values[-1].clamp_min(1e-30)
    if not alive.any():  # nothing varies: one direction without scatter keeps shapes whole
        return Eigen(mean, values.new_zeros(1), torch.eye(r, 1, dtype=x.dtype), n, r)
    values, vectors = values[alive], vectors[:, alive]
    basis = centred.T @ (vectors / values.sqrt()) if small else vectors
    return Eigen(mean, values, basis, n, r)


class FoldedRows:
    """A layer's coordinates cut into folds; one eigen-decomposition for each set of folds held out, kept."""

    def __init__(self, x: Float[Tensor, "n r"], folds: Int[np.ndarray, " n"]) -> None:
        self.x, self.n_folds = x, int(folds.max()) + 1
        self.rows = [torch.from_numpy(np.flatnonzero(folds == fold)) for fold in range(self.n_folds)]
        self._parts = [x[rows] for rows in self.rows]
        self._eigen: dict[frozenset[int], Eigen] = {}
        self._projected: dict[tuple[frozenset[int], int], Tensor] = {}

    def without(self, *held: int) -> Eigen:
        """Spectrum of all folds but ``held``."""
        key = frozenset(held)
        if key not in self._eigen:
            parts = [part for fold, part in enumerate(self._parts) if fold not in key]
            self._eigen[key] = eigen(torch.cat(parts))
        return self._eigen[key]

    def held_out(self, fold: int, *held: int) -> Float[Tensor, "m q"]:
        """Rows of ``fold`` in the eigenbasis of all folds but ``held``."""
        key = (frozenset(held), fold)
        if key not in self._projected:
            self._projected[key] = self.without(*held).project(self._parts[fold])
        return self._projected[key]

    def class_sums(
        self, labelings: Int[Tensor, "L n"], n_classes: int
    ) -> tuple[Float[Tensor, "F L c r"], Float[Tensor, "F L c"]]:
        """Sum of the rows, and their number, of every class of every labelling in each fold."""
        n_labelings = len(labelings)
        flat = labelings + n_classes * torch.arange(n_labelings)[:, None]
        add: Callable[..., tuple[Tensor, Tensor]] = _by_product if n_classes <= 16 else _by_addition
        found = [
            add(part, flat[:, rows], n_labelings * n_classes)
            for part, rows in zip(self._parts, self.rows, strict=True)
        ]
        shape = (self.n_folds, n_labelings, n_classes)
        sums = torch.stack([one for one, _ in found]).view(*shape, -1)
        return sums, torch.stack([one for _, one in found]).view(shape)


def _by_product(x: Tensor, flat: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Class sums through a matrix of ones and zeros: fastest for few classes."""
    ones = x.new_zeros(len(x), n).scatter_(1, flat.T, 1.0)
    return ones.T @ x, ones.sum(0)


def _by_addition(x: Tensor, flat: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Class sums by adding each row to its classes: fastest for many classes."""
    sums = x.new_zeros(n, x.shape[1])
    for labelling in flat:
        sums.index_add_(0, labelling, x)
    return sums, torch.bincount(flat.reshape(-1), minlength=n).to(x.dtype)
