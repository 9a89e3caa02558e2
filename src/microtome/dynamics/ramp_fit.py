"""One ramp: a line with a logistic step, refined from a first guess and judged in its window."""

from dataclasses import dataclass

import numpy as np

from microtome.dynamics.series import grain

STEEPNESS = 2 * np.log(9.0)  # a logistic goes from 10% to 90% over a width of 1
HALF_WINDOW = 1.75  # widths


@dataclass(frozen=True)
class Fit:
    """A line with a logistic step, fitted in a window, against a cubic there."""

    middle: float
    width: float
    size: float
    slope: float  # over a width, as a share of the size
    error: float
    cubic_error: float
    step_error: float
    total: float
    n: int
    memory: float  # correlation of neighbours in what is left over
    z: float = 0.0

    @property
    def better(self) -> float:
        """Squared error of the cubic over that of the ramp."""
        return self.cubic_error / self.error

    @property
    def gain_over_step(self) -> float:
        """Log likelihood gained over a line with a jump in it."""
        return (self.n - 5) * float(np.log(self.step_error / self.error))

    @property
    def gain(self) -> float:
        """Log likelihood gained, if what is left over is white."""
        return (self.n - 5) * float(np.log(self.better))


def refined(x: np.ndarray, series: np.ndarray, middle: float, width: float) -> Fit | None:
    """The best middle and width near a template; the window moves with them up to three times."""
    window = window_around(x, middle, width)
    for _ in range(3):
        if window.stop - window.start < 10:
            return None
        best = _best_near(x[window], series[window], middle, width)
        settled = abs(best[0] - middle) < 0.02 * width and abs(best[1] / width - 1) < 0.05
        middle, width = best
        if not x[0] < middle < x[-1]:
            return None
        if settled:
            break
        window = window_around(x, middle, width)
    return _fit(x, series, window, middle, width)


def _best_near(x: np.ndarray, y: np.ndarray, middle: float, width: float) -> tuple[float, float]:
    """Middle and width of least error, by a grid that closes in four times."""
    scale, y = width, y - y.mean()
    t = (x - middle) / scale
    narrowest = 2 * float(np.median(np.diff(x))) / scale
    best, reach, factor = (0.0, 1.0), 0.35, 1.6
    for _ in range(4):
        places = best[0] + reach * np.linspace(-1, 1, 7)
        widths = np.maximum(best[1] * factor ** np.linspace(-1, 1, 7), narrowest)
        grid = np.stack(np.meshgrid(places, widths, indexing="ij"), axis=-1).reshape(-1, 2)
        steps = logistic((t[None] - grid[:, :1]) / grid[:, 1:])
        # The line is taken out of both, then one number is fitted.
        line, _ = np.linalg.qr(np.stack([np.ones_like(t), t], axis=1))
        steps = steps - (steps @ line) @ line.T
        rest = y - line @ (line.T @ y)
        explained = (steps @ rest) ** 2 / np.maximum((steps**2).sum(axis=1), 1e-12)
        best = (float(grid[explained.argmax(), 0]), float(grid[explained.argmax(), 1]))
        reach, factor = reach / 3, factor ** (1 / 3)
    return middle + best[0] * scale, best[1] * scale


def _fit(x: np.ndarray, series: np.ndarray, window: slice, middle: float, width: float) -> Fit | None:
    y = series[window] - series[window].mean()
    t = (x[window] - middle) / width
    solution, *_ = np.linalg.lstsq(design(t), y, rcond=None)
    left = y - design(t) @ solution
    size, slope = float(solution[2]), float(solution[1])
    if size == 0 or not np.isfinite(size):
        return None
    n, rounding = len(y), len(y) * (1e-7 * np.abs(series).max()) ** 2 + 1e-300
    cubic = float(y @ y - ((cubic_basis(t).T @ y) ** 2).sum())
    error = float(left @ left)
    return Fit(
        middle=middle,
        width=width,
        size=size,
        slope=slope / size,
        error=error + rounding,
        cubic_error=max(cubic, 0.0) + rounding,
        step_error=_step_error(t, y) + rounding,
        total=float(y @ y) + rounding,
        n=n,
        memory=float(np.clip((left[1:] @ left[:-1]) / max(error, 1e-300), 0.0, 0.98)),
        z=_stands_out(x, series, middle, width, size, slope),
    )


def _step_error(t: np.ndarray, y: np.ndarray) -> float:
    """Squared error of the best line with a jump between two records."""
    line, _ = np.linalg.qr(np.stack([np.ones_like(t), t], axis=1))
    steps = np.tril(np.ones((len(t), len(t))), -1)[:, 1:-2].T  # one row a place, 0 before it and 1 after
    steps = steps - (steps @ line) @ line.T
    rest = y - line @ (line.T @ y)
    explained = (steps @ rest) ** 2 / np.maximum((steps**2).sum(axis=1), 1e-12)
    return max(float(rest @ rest - explained.max()), 0.0)


def _stands_out(
    x: np.ndarray, series: np.ndarray, middle: float, width: float, size: float, slope: float
) -> float:
    """The ramp over what the rest of the series, smoothed a little, does beyond its drift over as long."""
    rest = series - size * logistic((x - middle) / width)
    start, end = np.searchsorted(x, x - width / 6 - 1e-9), np.searchsorted(x, x + width / 6 + 1e-9)
    sums = np.concatenate([[0.0], np.cumsum(rest)])
    smooth = (sums[end] - sums[start]) / (end - start)
    whole = x + width <= x[-1]
    change = (np.interp(x + width, x, smooth) - smooth)[whole]
    elsewhere = np.abs(x[whole] + width / 2 - middle) > 0.75 * width
    if elsewhere.sum() < 5:
        return 0.0
    change = change[elsewhere]
    usual = 1.4826 * float(np.median(np.abs(change - np.median(change))))  # a steady drift is no noise
    return min(abs(size), abs(size + slope)) / max(
        usual, 0.7 * grain(series), 1e-9 * float(np.abs(series).max()), 1e-300
    )


def window_around(x: np.ndarray, middle: float, width: float) -> slice:
    """The records within 1.75 widths of a middle."""
    reach = HALF_WINDOW * width + 1e-9
    return slice(*(int(i) for i in np.searchsorted(x, [middle - reach, middle + reach])))


def design(t: np.ndarray) -> np.ndarray:
    """A line and a step around 0, over time in widths ``[n, 3]``."""
    return np.stack([np.ones_like(t), t, logistic(t)], axis=1)


def cubic_basis(t: np.ndarray) -> np.ndarray:
    """An orthonormal basis of cubics ``[n, 4]``."""
    return np.linalg.qr(np.vander(t / np.abs(t).max(), 4))[0]


def logistic(t: np.ndarray) -> np.ndarray:
    """A step from 0 to 1, 10% done at -1/2 and 90% at 1/2."""
    return 1 / (1 + np.exp(-np.clip(STEEPNESS * t, -50, 50)))
