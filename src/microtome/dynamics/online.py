"""Level shifts found while training goes on, so that the states around them can be kept."""

import numpy as np


class OnlineShifts:
    """Watches ``n_series`` series and says when one has just shifted to another level.

    ``where`` holds the step at which each series' last confirmed shift happened, -1 before the first.
    """

    def __init__(self, n_series: int) -> None:
        self.n_series = n_series
        self.where = np.full(n_series, -1, dtype=np.int64)

    def update(self, step: int, values: np.ndarray) -> np.ndarray:
        """Take the values ``[n_series]`` at ``step``; True where a shift was confirmed by them."""
        raise NotImplementedError
