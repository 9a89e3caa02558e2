"""Where shapes go: in a unit square, inside it, and apart from each other."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

GAP = 0.025  # between two shapes, and to the border
_TRIES = 200


def apart(rng: np.random.Generator, radii: Sequence[float], gap: float = GAP) -> Float[np.ndarray, "n 2"]:
    """Random centres of discs of these radii that lie in the unit square and do not meet."""
    order = np.argsort(radii)[::-1]  # the largest first, while there is room
    while True:
        centres = np.zeros((len(radii), 2))
        placed: list[int] = []
        for index in order:
            if not _place(rng, centres, placed, int(index), radii, gap):
                break
        else:
            return centres


def _place(
    rng: np.random.Generator,
    centres: np.ndarray,
    placed: list[int],
    index: int,
    radii: Sequence[float],
    gap: float,
) -> bool:
    """Put one more disc at a random free place; False when none is found."""
    low = radii[index] + gap
    candidates = rng.uniform(low, 1 - low, (_TRIES if placed else 1, 2))
    if placed:
        distances = np.linalg.norm(candidates[:, None] - centres[placed], axis=2)
        needed = np.array([radii[other] for other in placed]) + radii[index] + gap
        free = (distances >= needed).all(1)
        if not free.any():
            return False
        candidates = candidates[free]
    centres[index] = candidates[0]
    placed.append(index)
    return True


def on_a_line(rng: np.random.Generator, radii: Sequence[float], gap: float = GAP) -> Float[np.ndarray, "n 2"]:
    """Centres of discs on one random line in the unit square, evenly spaced, in the order given."""
    n, largest = len(radii), max(radii)
    least = max(radii[i] + radii[i + 1] for i in range(n - 1)) + gap
    while True:
        angle = rng.uniform(0, np.pi)
        spacing = rng.uniform(least, least * 1.35)
        offsets = (np.arange(n) - (n - 1) / 2) * spacing
        line = offsets[:, None] * np.array([np.cos(angle), np.sin(angle)])
        room = 1 - 2 * (largest + gap) - np.ptp(line, axis=0)
        if (room >= 0).all():
            low = largest + gap - line.min(0)
            return line + low + rng.uniform(0, 1, 2) * room
