"""How much single units tell the classes apart."""

import numpy as np
from jaxtyping import Float, Int

from microtome.measures.arrays import Array, to_numpy


def class_means(
    x: Float[np.ndarray, "n units"], labels: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "classes units"], Int[np.ndarray, " n"], Float[np.ndarray, " classes"]]:
    """Mean of every class that occurs, each input's row among them, and the classes' sizes."""
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), x.shape[1]))
    np.add.at(sums, index, x)
    return sums / counts[:, None], index, counts.astype(float)


def class_selectivity(
    x: Float[Array, "n units"], labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " units"]:
    """``(m - r) / (m + r)``: m is the largest mean of a class, r the mean over the other classes.

    Morcos et al. (2018); for activations that are not negative. 0 for a unit that treats all classes alike,
    1 for one that only one class excites, nan for one that is always 0. Needs two classes at least.
    """
    means, _, _ = class_means(to_numpy(x), labels)
    best, rest = _best_and_rest(means)
    total = best + rest
    return np.divide(best - rest, total, out=np.full_like(total, np.nan), where=total > 0)


def selectivity_input_values(
    x: Float[Array, "n units"], labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Mean class selectivity of all units that are ever active, plus each input's influence on it."""
    rows = to_numpy(x)
    means, index, counts = class_means(rows, labels)
    best, rest = _best_and_rest(means)
    total = best + rest
    live = total > 0
    if not live.any():
        return np.zeros(len(rows))
    rows, means, best, rest, total = rows[:, live], means[:, live], best[live], rest[live], total[live]
    classes = len(means)
    slopes = np.repeat((-2 * best / total**2 / (classes - 1))[None], classes, axis=0)
    slopes[means.argmax(axis=0), np.arange(len(best))] = 2 * rest / total**2
    influence = ((rows - means[index]) * slopes[index]).mean(axis=1) * (len(rows) / counts[index])
    return float(((best - rest) / total).mean()) + influence


def _best_and_rest(
    means: Float[np.ndarray, "classes units"],
) -> tuple[Float[np.ndarray, " units"], Float[np.ndarray, " units"]]:
    best = means.max(axis=0)
    return best, (means.sum(axis=0) - best) / (len(means) - 1)


def variance_between_classes(
    x: Float[Array, "n units"], labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " units"]:
    """Share of each unit's variance that lies between the classes, in [0, 1]; nan for a constant unit.

    For labels at random it is about ``(classes - 1) / (n - 1)``.
    """
    rows = to_numpy(x)
    means, index, _ = class_means(rows, labels)
    centre = rows.mean(axis=0)
    between, total = np.square(means[index] - centre).mean(axis=0), rows.var(axis=0)
    return np.divide(between, total, out=np.full_like(total, np.nan), where=_varies(rows, total))


def between_classes_input_values(
    x: Float[Array, "n units"], labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Mean of ``variance_between_classes`` over units that vary, plus each input's influence on it."""
    rows = to_numpy(x)
    total = rows.var(axis=0)
    live = _varies(rows, total)
    if not live.any():
        return np.zeros(len(rows))
    rows, total = rows[:, live], total[live]
    means, index, _ = class_means(rows, labels)
    centre = rows.mean(axis=0)
    apart = (means - centre)[index]
    share = np.square(apart).mean(axis=0) / total
    influence = 2 * (rows - means[index]) * apart + apart**2 - share * np.square(rows - centre)
    return float(share.mean()) + (influence / total).mean(axis=1)


def _varies(rows: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Units whose variance is more than rounding."""
    return variance > 1e-12 * np.square(rows).mean(axis=0)
