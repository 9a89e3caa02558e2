"""Convolution filters as pictures: one spatial pattern each, and the filters that turned most."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from microtome.measures.weight_change import unit_cosines

Pattern = Float[np.ndarray, "rows columns"]


@dataclass(frozen=True)
class TurnedFilters:
    """Filters ``index`` before and after, and each one's cosine with itself later; the most turned first."""

    index: Int[np.ndarray, " n"]
    cosine: Float[np.ndarray, " n"]
    pairs: Sequence[tuple[np.ndarray, np.ndarray]]
    input_channels: int


def most_turned(
    before: Float[np.ndarray, "out inputs *kernel"], after: Float[np.ndarray, "out inputs *kernel"], most: int
) -> TurnedFilters:
    """The ``most`` filters that turned most, each before and after as one picture."""
    cosines = unit_cosines(before, after)
    chosen = np.argsort(cosines, kind="stable")[: max(1, most)]
    pairs = [_agreeing(spatial_pattern(before[i]), spatial_pattern(after[i])) for i in chosen]
    return TurnedFilters(chosen, cosines[chosen], pairs, before.shape[1])


def spatial_pattern(one: Float[np.ndarray, "inputs *kernel"]) -> Pattern:
    """A filter as one picture: itself for one input channel, else its strongest spatial pattern.

    That is the first right singular vector of ``[inputs, kernel]`` times its singular value, with the sign of
    most of its weight. One- and three-dimensional kernels are laid out in rows.
    """
    kernel = one.shape[1:]
    flat = one.reshape(len(one), -1).astype(np.float64)
    if len(flat) > 1:
        left, sizes, right = np.linalg.svd(flat, full_matrices=False)
        flat = right[:1] * sizes[0] * (np.sign(left[:, 0].sum()) or 1.0)
    if len(kernel) == 2:
        return flat.reshape(kernel)
    if len(kernel) > 2:
        return flat.reshape(kernel[0], -1)
    return flat.reshape(1, -1)


def _agreeing(before: Pattern, after: Pattern) -> tuple[Pattern, Pattern]:
    """A singular vector's sign is arbitrary: turn the second to agree with the first."""
    return (before, after if (before * after).sum() >= 0 else -after)
