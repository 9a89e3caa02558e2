"""What is done to mean gradients before they are written: a power, and a common scale."""

import warnings
from typing import Literal

import numpy as np
from jaxtyping import Float

Normalisation = Literal["none", "sum", "sum_abs", "both", "all"]


def powered(values: Float[np.ndarray, " D"], power: float) -> Float[np.ndarray, " D"]:
    """``sign(v) |v|^power``."""
    return values if power == 1 else np.sign(values) * np.abs(values) ** power


def normalise_gradients(values: Float[np.ndarray, " D"], method: str = "sum_abs") -> Float[np.ndarray, " D"]:
    """Values scaled so that their absolute values (``sum_abs``) or they themselves (``sum``) add up to ``D``.

    With a sum of zero a warning is given and the values come back unchanged.
    """
    if method == "none":
        return values
    total = np.abs(values).sum() if method == "sum_abs" else values.sum()
    if total == 0:
        warnings.warn(f"the sum over {len(values)} values is zero: left as they are", stacklevel=2)
        return values
    return values * (len(values) / total)


def normalisations(method: str) -> tuple[tuple[str, str], ...]:
    """What ``--normalize_gradients`` writes: pairs of the normalisation and the ending of its file names."""
    return {
        "both": (("sum", "_norm_sum"), ("sum_abs", "_norm_sum_abs")),
        "all": (("none", ""), ("sum", "_norm_sum"), ("sum_abs", "_norm_sum_abs")),
    }.get(method, ((method, ""),))
