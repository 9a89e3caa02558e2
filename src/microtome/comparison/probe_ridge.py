"""Ridge regression for real-valued targets, on the same eigen-decompositions as the linear classifiers."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from microtome.comparison.probe_spectrum import Eigen, FoldedRows

PENALTIES = (1e3, 1e2, 10.0, 1.0, 0.1, 1e-2, 1e-3)  # in units of the mean eigenvalue


@dataclass(frozen=True)
class NestedRidge:
    """Held-out predictions ``[L, n]`` and what they explain of each target's variance."""

    predicted: Float[np.ndarray, "L n"]
    r2: Float[np.ndarray, " L"]


def nested_ridge(
    rows: FoldedRows, targets: Float[np.ndarray, "L n"], penalties: tuple[float, ...] = PENALTIES
) -> NestedRidge:
    """Ridge regression of every target in nested cross-validation (as ``nested_lda``); R2 is held out.

    R2 is one minus the squared error over that of the training folds' mean, so that a target that cannot
    be predicted gives about zero.
    """
    y = torch.from_numpy(np.ascontiguousarray(targets, dtype=np.float64))
    folds, n = rows.n_folds, y.shape[1]
    error = torch.zeros(folds, len(penalties), len(y), dtype=torch.float64)
    for i in range(folds):
        for j in range(i + 1, folds):
            weights, mean = _fit(rows, rows.without(i, j), y, (i, j), penalties)
            for fold, outer in ((i, j), (j, i)):
                guess = rows.held_out(fold, i, j) @ weights + mean  # [G, m, L]
                error[outer] += (guess - y[:, rows.rows[fold]].T).square().sum(1)
    chosen = torch.from_numpy(error.numpy().argmin(1))  # [F, L]
    predicted, baseline = torch.zeros_like(y), torch.zeros_like(y)
    for i in range(folds):
        weights, mean = _fit(rows, rows.without(i), y, (i,), penalties)
        own = weights[chosen[i], :, torch.arange(len(y))]  # [L, q]
        predicted[:, rows.rows[i]] = own @ rows.held_out(i, i).T + mean[:, None]
        baseline[:, rows.rows[i]] = mean[:, None].expand(-1, len(rows.rows[i]))
    left, total = (y - predicted).square().sum(1), (y - baseline).square().sum(1)
    r2 = torch.where(total > 1e-12 * n, 1 - left / total.clamp_min(1e-300), torch.zeros_like(total))
    return NestedRidge(predicted.numpy(), r2.numpy())


def _fit(
    rows: FoldedRows, spectrum: Eigen, y: Tensor, held: tuple[int, ...], penalties: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """Weights ``[G, q, L]`` in the eigenbasis for every penalty, and the training means ``[L]``."""
    train = torch.cat([own for fold, own in enumerate(rows.rows) if fold not in held])
    mean = y[:, train].mean(1)
    products = spectrum.project(rows.x[train]).T @ (y[:, train] - mean[:, None]).T
    unit = spectrum.values.mean().clamp_min(1e-18)
    ridge = torch.tensor(penalties, dtype=torch.float64)[:, None] * unit
    return products / (spectrum.values + ridge)[..., None], mean
