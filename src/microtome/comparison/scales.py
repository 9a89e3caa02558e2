"""Scales on which a statistic's noise is about the same size everywhere: as it is, logarithm, logit."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Values = Float[np.ndarray, "*shape"]
SMALLEST = 1e-12
EDGE = 1e-4  # fractions are kept this far from 0 and 1


@dataclass(frozen=True)
class Scale:
    """``to`` maps a statistic onto the scale; ``slope`` is its derivative."""

    to: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]

    def back(self, values: np.ndarray) -> float:
        """Size in natural units of one unit of the scale, at the mean of ``values``."""
        return float(1 / self.slope(np.asarray(values.mean())))


def _fraction(p: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(p, EDGE, 1 - EDGE))


SCALES = {
    "identity": Scale(lambda v: np.asarray(v, dtype=float), lambda v: np.ones_like(v, dtype=float)),
    "log": Scale(lambda v: np.log(np.maximum(v, SMALLEST)), lambda v: 1 / np.maximum(v, SMALLEST)),
    "logit": Scale(
        lambda p: np.log(_fraction(p) / (1 - _fraction(p))),
        lambda p: 1 / (_fraction(p) * (1 - _fraction(p))),
    ),
}
