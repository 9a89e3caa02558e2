"""How sparse activations are and how well they tell classes apart. Numpy only."""

from typing import Any

import numpy as np
from jaxtyping import Float

from microtome.core.errors import MicrotomeError, bad_value
from microtome.measures.plain_arrays import as_numpy


def activation_sparsity(activations: Any, threshold: float = 0.1, relative: bool = False) -> float:
    """Share of activations whose absolute value is at most ``threshold``.

    ``relative``: the threshold is in units of the root mean square, so that rescaling changes nothing.
    """
    x = np.abs(as_numpy(activations).astype(np.float64))
    if not x.size:
        raise MicrotomeError("activations: none given; their sparsity is not defined")
    return float(1 - (x > threshold * (np.sqrt((x**2).mean()) if relative else 1.0)).mean())


def activation_selectivity(activations: Any, labels: Any) -> Float[np.ndarray, "F classes"]:
    """Mean activation of each feature for each class, from ``[B, F]`` and class numbers ``[B]``.

    Columns are classes 0 to the largest label. A class without any sample is NaN, so that it cannot be taken
    for a mean of 0. ``class_information`` says how selective a feature is in one number.
    """
    x, y = _rows_and_labels(activations, labels)
    classes = int(y.max()) + 1
    counts = np.bincount(y, minlength=classes)
    sums = np.zeros((classes, x.shape[1]))
    np.add.at(sums, y, x)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (sums / counts[:, None]).T


def class_information(activations: Any, labels: Any) -> Float[np.ndarray, " F"]:
    """Share of each feature's variance that lies between classes, corrected for chance (epsilon squared).

    1: the class decides the activation; 0 on average for a feature that knows nothing of the class (it can
    come out slightly below). A constant feature is 0. Needs more samples than classes.
    """
    x, y = _rows_and_labels(activations, labels)
    present = np.unique(y)
    n, classes = len(y), len(present)
    if classes < 2 or n <= classes:
        raise MicrotomeError(
            f"labels: {classes} classes in {n} samples; selectivity needs two classes and more samples"
        )
    total = ((x - x.mean(0)) ** 2).sum(0)
    within = np.zeros(x.shape[1])
    for label in present:
        rows = x[y == label]
        within += ((rows - rows.mean(0)) ** 2).sum(0)
    spread = total > 1e-12 * np.maximum((x**2).sum(0), 1e-300)
    share = within / np.where(spread, total, 1.0) * (n - 1) / (n - classes)
    return np.where(spread, 1 - share, 0.0)


def _rows_and_labels(activations: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = as_numpy(activations).astype(np.float64), as_numpy(labels)
    if x.ndim != 2:
        raise bad_value("activations", list(x.shape), "not two axes", "give [samples, features]")
    if y.shape != (len(x),):
        raise bad_value("labels", list(y.shape), f"{len(x)} samples", "give one class number a sample")
    if not len(y):
        raise MicrotomeError("activations: no samples; give at least one")
    whole = y.astype(np.int64)
    if (whole != y).any() or (whole < 0).any():
        raise MicrotomeError("labels: not class numbers; give whole numbers from 0 on")
    return x, whole
