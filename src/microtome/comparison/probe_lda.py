"""Linear discriminant analysis with shrinkage, in closed form, for many labellings and shrinkages at once."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from microtome.comparison.probe_spectrum import Eigen, FoldedRows

AT_ONCE = 2**20  # numbers of a block of labellings: it stays in the cache


def discriminants(
    eigen: Eigen,
    sums: Float[Tensor, "L c r"],
    counts: Float[Tensor, "L c"],
    shrinkages: Float[Tensor, "L G"],
    *,
    smoothing: float = 0.0,
) -> tuple[Float[Tensor, "L G c q"], Float[Tensor, "L G c"]]:
    """Weights and offsets of the discriminant functions, in the eigenbasis of the training rows.

    The covariance is ``(1 - g) S + g tr(S) / r I`` with ``S`` the within-class covariance, as scikit-learn's
    ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage=g)``; priors are ``(count + smoothing) / ...``.
    ``S`` is the total scatter, diagonal in this basis whatever the labels, less the scatter of the c class
    means, so that its inverse needs a c x c system only (Woodbury). ``sums`` and ``counts`` are those of
    the training rows in every class, ``G`` shrinkages are taken for each of ``L`` labellings.
    """
    root = counts.clamp_min(1.0).sqrt()[..., None]
    means = ((sums - counts[..., None] * eigen.mean) @ eigen.basis) / root  # [L, c, q], times root n_k
    within = (eigen.values.sum() - means.square().sum((1, 2))).clamp_min(0.0)
    ridge = shrinkages / (1 - shrinkages) * (within / eigen.dimensions)[:, None]
    floor = 1e-12 * eigen.values[-1].clamp_min(1e-18)
    scaled = means[:, None] / (eigen.values + ridge.clamp_min(floor)[..., None])[:, :, None]  # [L, G, c, q]
    identity = torch.eye(means.shape[1], dtype=means.dtype)
    system = identity - scaled @ means[:, None].mT
    scale = eigen.n / (1 - shrinkages)[..., None, None] / root[:, None]
    weights = torch.linalg.solve(system, scaled) * scale
    priors = counts + smoothing
    offsets = (priors / priors.sum(1, keepdim=True)).log()[:, None] - 0.5 * (
        weights * (means / root)[:, None]
    ).sum(-1)
    return weights, offsets


def scores(
    z: Float[Tensor, "m q"], weights: Float[Tensor, "L G c q"], offsets: Float[Tensor, "L G c"]
) -> Float[Tensor, "m L G c"]:
    """Discriminant functions of projected rows: log-posteriors up to a constant of each row."""
    shape = offsets.shape
    return (z @ weights.reshape(-1, z.shape[1]).T).view(len(z), *shape) + offsets


@dataclass(frozen=True)
class NestedProbe:
    """Held-out results: was each image named rightly, and which shrinkage did each fold choose."""

    correct: Bool[np.ndarray, "L n"]
    shrinkage: Float[np.ndarray, "L F"]
    inner: Float[np.ndarray, "L G"]  # accuracy on inner folds, mean over outer ones

    @property
    def accuracy(self) -> Float[np.ndarray, " L"]:
        """Share of images named rightly, a labelling."""
        return self.correct.mean(1)


def nested_lda(
    rows: FoldedRows, labelings: Int[np.ndarray, "L n"], n_classes: int, shrinkages: tuple[float, ...]
) -> NestedProbe:
    """Probe every labelling in nested cross-validation; thousands cost milliseconds each.

    Each fold is predicted from the others, with the shrinkage that did best when each of those others was
    predicted from the rest. Training on all but folds i and j serves both as inner fold j of i and as inner
    fold i of j, so that F folds need F (F - 1) / 2 + F eigen-decompositions, shared by all labellings.
    Ties go to the strongest shrinkage.
    """
    per = len(shrinkages) * n_classes * max(rows.x.shape)
    block = max(1, AT_ONCE // per)
    done = [
        _nested_block(
            rows, torch.from_numpy(np.ascontiguousarray(labelings[at : at + block])), n_classes, shrinkages
        )
        for at in range(0, len(labelings), block)
    ]
    return NestedProbe(
        np.concatenate([one.correct for one in done]),
        np.concatenate([one.shrinkage for one in done]),
        np.concatenate([one.inner for one in done]),
    )


def _nested_block(
    rows: FoldedRows, labelings: Tensor, n_classes: int, shrinkages: tuple[float, ...]
) -> NestedProbe:
    folds = rows.n_folds
    sums, counts = rows.class_sums(labelings, n_classes)
    all_sums, all_counts = sums.sum(0), counts.sum(0)
    grid = torch.tensor(shrinkages, dtype=torch.float64).expand(len(labelings), -1)
    hits = torch.zeros(folds, len(labelings), len(shrinkages))
    for i in range(folds):
        for j in range(i + 1, folds):
            left = (all_sums - sums[i] - sums[j], all_counts - counts[i] - counts[j])
            found = discriminants(rows.without(i, j), *left, grid)
            for fold, outer in ((i, j), (j, i)):
                named = scores(rows.held_out(fold, i, j), *found).argmax(-1)
                hits[outer] += (named == labelings[:, rows.rows[fold]].T[..., None]).sum(0)
    chosen = torch.from_numpy(hits.numpy().argmax(-1))  # numpy's takes the first of equals
    correct = torch.zeros(labelings.shape, dtype=torch.bool)
    for i in range(folds):
        shrinkage = grid[0][chosen[i]][:, None]
        found = discriminants(rows.without(i), all_sums - sums[i], all_counts - counts[i], shrinkage)
        truth = labelings[:, rows.rows[i]]
        correct[:, rows.rows[i]] = truth == scores(rows.held_out(i, i), *found)[:, :, 0].argmax(-1).T
    inner = hits.sum(0) / ((folds - 1) * labelings.shape[1])
    return NestedProbe(correct.numpy(), grid[0][chosen].T.numpy(), inner.double().numpy())
