"""Level shifts found while training goes on, so that the states around them can be kept.

Cheap, and looser than the analysis afterwards: what it misses can no longer be kept, what it finds too much
costs two states. At every record the mean of the last four is set against that of the eight before; the
difference is judged by what the same difference was earlier, whatever the noise, memory or drift.
"""

import numpy as np

AFTER = 4  # records whose mean must differ
BEFORE = 8  # records before them
MEMORY = 48  # earlier differences that tell what is usual
FEWEST = 6  # of them, before the first test
STANDS_OUT = 6.0  # times the usual deviation
FEW = 12.0  # and this many more, shared among the differences seen: few say little
GAP = AFTER + 1  # differences that the shift itself has entered, or is about to
REST = AFTER + BEFORE  # records before the same series can be confirmed again


class OnlineShifts:
    """Watches ``n_series`` series and says when one has just shifted to another level.

    ``where`` holds the step of the first record after each series' last confirmed shift, -1 before the first.
    """

    def __init__(self, n_series: int) -> None:
        self.n_series = n_series
        self.where = np.full(n_series, -1, dtype=np.int64)
        self._values = np.full((AFTER + BEFORE, n_series), np.nan)
        self._steps = np.full(AFTER + BEFORE, -1, dtype=np.int64)
        self._differences = np.full((MEMORY + GAP, n_series), np.nan)
        self._seen = 0
        self._rests_until = np.zeros(n_series, dtype=np.int64)

    def update(self, step: int, values: np.ndarray) -> np.ndarray:
        """Take the values ``[n_series]`` at ``step``; True where a shift was confirmed by them.

        Values that are not finite are no evidence: a series that has some among its last records is silent.
        """
        values = np.where(np.isfinite(values), values, np.nan)
        for memory, newest in ((self._values, values), (self._steps, step)):
            memory[:-1] = memory[1:]
            memory[-1] = newest
        difference = self._values[BEFORE:].mean(axis=0) - self._values[:BEFORE].mean(axis=0)
        confirmed = self._stands_out(difference)
        self._differences[:-1] = self._differences[1:]
        self._differences[-1] = difference
        self._seen += 1
        if confirmed.any():
            self._place(np.flatnonzero(confirmed))
        return confirmed

    def _stands_out(self, difference: np.ndarray) -> np.ndarray:
        """Whether a difference exceeds six times the mean deviation of those before the last few."""
        n = min(MEMORY, self._seen - (AFTER + BEFORE - 1) - GAP)
        if n < FEWEST:
            return np.zeros(self.n_series, dtype=bool)
        earlier = self._differences[MEMORY - n : MEMORY]
        mean = earlier.mean(axis=0)
        usual = np.abs(earlier - mean).mean(axis=0)
        rounding = 1e-9 * np.abs(self._values[-1])
        limit = np.maximum((STANDS_OUT + FEW / n) * usual, rounding)
        with np.errstate(invalid="ignore"):
            return (np.abs(difference - mean) > limit) & (self._seen >= self._rests_until)

    def _place(self, rows: np.ndarray) -> None:
        """The shift is the largest increment into one of the last four records."""
        increments = np.abs(np.diff(self._values[BEFORE - 1 :, rows], axis=0))
        self.where[rows] = self._steps[BEFORE + increments.argmax(axis=0)]
        self._rests_until[rows] = self._seen + REST
