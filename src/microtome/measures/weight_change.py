"""How far weights moved, and how unlike each other the filters of a layer are. Numpy only."""

from typing import Any

import numpy as np
from jaxtyping import Float

from microtome.core.errors import MicrotomeError
from microtome.measures.plain_arrays import as_numpy


def cosine_similarity(a: Any, b: Any) -> float:
    """Cosine between two arrays taken as flat vectors; 0 when one is all 0.

    Raises ``MicrotomeError`` when they have different shapes.
    """
    x, y = _same_shape(a, b)
    norms = float(np.linalg.norm(x)) * float(np.linalg.norm(y))
    return float(np.clip(x.ravel() @ y.ravel() / norms, -1, 1)) if norms > 0 else 0.0


def weight_change_magnitude(before: Any, after: Any) -> dict[str, float]:
    """``l2_norm`` of the change, that as a share of the norm before (``relative_change``), the largest and
    mean absolute change of an entry, and the cosine between before and after.

    ``relative_change`` from weights that are all 0 is NaN, not infinite: there is no share of nothing.
    """
    x, y = _same_shape(before, after)
    change, norm = y - x, float(np.linalg.norm(x))
    moved = float(np.linalg.norm(change))
    return {
        "l2_norm": moved,
        "relative_change": relative(moved, norm),
        "max_change": float(np.abs(change).max(initial=0.0)),
        "mean_change": float(np.abs(change).mean()) if change.size else 0.0,
        "cosine_similarity": cosine_similarity(x, y),
    }


def relative(change: float, before: float) -> float:
    """``change / |before|``; from 0 to 0 it is 0, from 0 to anything else NaN."""
    if before != 0:
        return change / abs(before)
    return 0.0 if change == 0 else float("nan")


def unit_cosines(before: Any, after: Any) -> Float[np.ndarray, " out"]:
    """Cosine of each output unit's weights (a filter ``[out, ...]``) with itself later; 0 where one is 0."""
    x, y = _same_shape(before, after)
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.where(norms > 0, (x * y).sum(1) / np.where(norms > 0, norms, 1.0), 0.0)


def differentiation(weights: Any) -> dict[str, float]:
    """How unlike each other the output units of a layer are, from weights ``[out, ...]``.

    - ``mean_abs_cosine``: over pairs of units; 1 when all are copies of one (up to sign).
    - ``chance``: what directions drawn at random in as many dimensions would give.
    - ``effective_units``: ``(sum l)^2 / sum l^2`` of the eigenvalues of the units' cosine matrix, from 1 (all
      copies) to the number of units or inputs, whichever is less.
    """
    w = as_numpy(weights).astype(np.float64)
    w = w.reshape(len(w), -1)
    norms = np.linalg.norm(w, axis=1)
    w = w[norms > 0] / norms[norms > 0, None]
    n, d = w.shape
    if n < 2:
        return {"mean_abs_cosine": float("nan"), "chance": random_cosine(d), "effective_units": float(n)}
    # The smaller Gram matrix has the same eigenvalues, and its squares add up to those of the cosines.
    squares = float(((w.T @ w if d < n else w @ w.T) ** 2).sum())
    absolute = sum(float(np.abs(w[start : start + 512] @ w.T).sum()) for start in range(0, n, 512))
    return {
        "mean_abs_cosine": (absolute - n) / (n * (n - 1)),
        "chance": random_cosine(d),
        "effective_units": n**2 / squares,
    }


def random_cosine(d: int) -> float:
    """Expected absolute cosine of two uniformly random directions in ``d`` dimensions."""
    from scipy.special import gammaln

    return float(np.exp(gammaln(d / 2) - gammaln((d + 1) / 2)) / np.sqrt(np.pi))


def _same_shape(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = (as_numpy(values).astype(np.float64) for values in (a, b))
    if x.shape != y.shape:
        raise MicrotomeError(
            f"shapes {list(x.shape)} and {list(y.shape)}: only arrays of one shape can be compared;"
            " give the same layer of the same architecture"
        )
    return x, y
