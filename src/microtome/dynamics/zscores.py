"""Jumps by z-scores: the original's global one and the tracker library's rolling one.

Kept to compare with. Both fire on noise; ``microtome dynamics validate --method zscore`` shows how often.
"""

import numpy as np

from microtome.dynamics.original.jumps import find_jumps as find_original_jumps

WINDOW, LEAST, ROLLING_THRESHOLD = 50, 20, 3.0


def global_z(values: np.ndarray) -> list[list[tuple[int, float]]]:
    """Record after each jump and its z, for every series of ``values [L, n]``: ``|v - mean| / std > 2``."""
    found: list[list[tuple[int, float]]] = [[] for _ in values]
    velocity = np.diff(values, axis=1)
    for row, index in find_original_jumps(values):
        z = (velocity[row, index] - velocity[row].mean()) / velocity[row].std()
        found[row].append((int(index) + 1, float(z)))
    return found


def rolling_z(series: np.ndarray) -> list[tuple[int, float]]:
    """Records more than 3 deviations from the mean of up to 50 before them (at least 20), and their z.

    Neighbouring ones count as one jump, at the first. A window without deviation is skipped.
    """
    found: list[tuple[int, float]] = []
    last = -2
    for index in range(LEAST, len(series)):
        window = series[max(0, index - WINDOW) : index]
        deviation = window.std()
        if deviation < 1e-10:
            continue
        z = (series[index] - window.mean()) / deviation
        if abs(z) > ROLLING_THRESHOLD:
            if index - last > 1:
                found.append((index, float(z)))
            last = index
    return found
