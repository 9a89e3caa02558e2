"""Ramps: changes that take tens to hundreds of steps between two courses, such as grokking.

A line with a logistic step on it is fitted in a window around every middle and width of a grid, all series
at once, and set against the cubic that a smooth course follows anyway. The best ones are refined and must
stand out of what the same series does over as many steps elsewhere. A change that begins with the training
itself is the learning every run shows, not a transition: a ramp needs a course before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from microtome.dynamics.ramp_fit import Fit, cubic_basis, design, refined, window_around
from microtome.dynamics.series import as_rows, finite_groups

FEWEST = 16  # records
MOST_RECORDS = 1000  # more are averaged: a ramp needs no finer ones
NARROWEST, WIDENING = 4.0, 1.4  # records of the narrowest template, and from width to width
LEAD_IN, LEAD_OUT = 1.5, 0.6  # widths from the first record to the middle, from the middle to the last
EARLIEST = 6  # records' usual distances from the first record to the start
CANDIDATES = 4
# What a ramp must reach, calibrated on the battery and on smooth training runs.
STANDS_OUT = 8.0  # times what the series does elsewhere over a width
BETTER = 1.3  # times less squared error than a cubic
EVIDENCE, WHITE_EVIDENCE = 20.0, 9.0  # log likelihood gained; less where what is left over is white
MORE_THAN_STEP = 1.0  # log likelihood gained over a jump
SHARE = 0.05  # of the series' range
SLOPE = (-0.25, 0.5)  # of the course around it, per width, as a share of the ramp


@dataclass(frozen=True)
class Ramp:
    """A change between two courses: 10% of it is done at training step ``start``, 90% at ``end``.

    ``size`` is the change beyond the course around it, ``gain`` the log likelihood gained over a smooth
    course, ``fit`` the share of variance explained around it, ``z`` how far it stands out of the rest of the
    series. ``bounded`` says that the course before and the one after were both recorded for a width.
    """

    start: float
    middle: float
    end: float
    size: float
    gain: float
    fit: float
    layer: str = ""
    measure: str = ""
    bounded: bool = True
    z: float = float("nan")


def find_ramps(
    steps: np.ndarray, values: np.ndarray, *, layers: Sequence[str] | None = None, measure: str = ""
) -> list[Ramp]:
    """The ramps of one series ``[n]`` or several ``[L, n]`` over the same steps, by their middles.

    Values that are not finite are left out; fewer than 16 records have none. Raises ``MicrotomeError``.
    """
    steps, rows = as_rows(steps, values)
    names = list(layers) if layers is not None else [""] * len(rows)
    found = []
    for members, records in finite_groups(rows):
        if len(records) < FEWEST:
            continue
        x, series = _averaged(steps[records], rows[np.ix_(members, records)])
        for member, ramps in zip(members, _search(x, series), strict=True):
            found += [_named(ramp, x, names[member], measure) for ramp in ramps]
    return sorted(found, key=lambda ramp: (ramp.middle, ramp.layer))


def _search(x: np.ndarray, series: np.ndarray) -> list[list[Fit]]:
    templates = _templates(tuple(x))
    if not templates:
        return [[] for _ in series]
    gains = _coarse(templates, series)
    return [
        _separate(fit for fit in _candidates(templates, gains[:, row], x, mine) if _is_ramp(fit, x, mine))
        for row, mine in enumerate(series)
    ]


def _candidates(
    templates: "list[Template]", gains: np.ndarray, x: np.ndarray, series: np.ndarray
) -> Iterator[Fit]:
    """The best templates, away from each other, refined."""
    gains = gains.copy()
    middles = np.array([template.middle for template in templates])
    for _ in range(CANDIDATES):
        best = int(gains.argmax())
        if gains[best] < 0.8 * WHITE_EVIDENCE:
            return
        template = templates[best]
        gains[np.abs(middles - template.middle) < template.width] = -np.inf
        fit = refined(x, series, template.middle, template.width)
        if fit is not None:
            yield fit


def _is_ramp(fit: Fit, x: np.ndarray, series: np.ndarray) -> bool:
    lead_in, lead_out = (fit.middle - x[0]) / fit.width, (x[-1] - fit.middle) / fit.width
    early = fit.middle - fit.width / 2 < x[0] + EARLIEST * np.median(np.diff(x))
    if early or lead_in < LEAD_IN or lead_out < LEAD_OUT or not SLOPE[0] < fit.slope < SLOPE[1]:
        return False
    inside = np.abs(x - fit.middle) < fit.width / 2
    # Fewer records inside, or a jump that says as much, are a jump.
    if (
        inside.sum() < 3
        or fit.gain_over_step < MORE_THAN_STEP
        or abs(fit.size) < SHARE * np.ptp(series)
        or fit.z < STANDS_OUT
    ):
        return False
    white = (1 - fit.memory) / (1 + fit.memory)
    return (fit.better >= BETTER and fit.gain >= EVIDENCE) or fit.gain * white >= WHITE_EVIDENCE


def _separate(fits: Iterator[Fit]) -> list[Fit]:
    """Those that do not overlap a better one."""
    kept: list[Fit] = []
    for fit in sorted(fits, key=lambda fit: -fit.gain):
        if all(abs(fit.middle - other.middle) > (fit.width + other.width) / 2 for other in kept):
            kept.append(fit)
    return kept


def _named(fit: Fit, x: np.ndarray, layer: str, measure: str) -> Ramp:
    half = fit.width / 2
    return Ramp(
        start=fit.middle - half,
        middle=fit.middle,
        end=fit.middle + half,
        size=fit.size,
        gain=fit.gain,
        fit=1 - fit.error / fit.total,
        layer=layer,
        measure=measure,
        bounded=bool(x[0] <= fit.middle - 2 * half and fit.middle + 2 * half <= x[-1]),
        z=fit.z,
    )


# -- the grid ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Template:
    """A middle and a width, the records of its window, and orthonormal bases of both courses there."""

    middle: float
    width: float
    first: int
    last: int
    ramp: np.ndarray  # [n, 3]
    triangle: np.ndarray  # [3, 3], from the basis to line and step
    cubic: np.ndarray  # [n, 4]


@lru_cache(maxsize=8)
def _templates(steps: tuple[float, ...]) -> list[Template]:
    """Every template that fits between the first step and the last."""
    x = np.array(steps)
    spacing, extent = float(np.median(np.diff(x))), x[-1] - x[0]
    found, width = [], NARROWEST * spacing
    while width <= extent / (1.0 + LEAD_OUT):
        for middle in np.arange(x[0] + width, x[-1] - LEAD_OUT * width, max(spacing, width / 4)):
            window = window_around(x, middle, width)
            t = (x[window] - middle) / width
            if len(t) >= 10 and (t < -0.5).sum() >= 3 and (t > 0.5).sum() >= 2:
                basis, triangle = np.linalg.qr(design(t))
                found.append(
                    Template(middle, width, window.start, window.stop, basis, triangle, cubic_basis(t))
                )
        width *= WIDENING
    return found


def _coarse(templates: list[Template], series: np.ndarray) -> np.ndarray:
    """Log likelihood gained ``[templates, L]`` by each template; minus infinity where it is no ramp."""
    values = series.T
    least = SHARE * np.ptp(values, axis=0)
    rounding = (1e-7 * np.abs(values).max(axis=0)) ** 2 + 1e-300
    gains = np.empty((len(templates), values.shape[1]))
    for place, template in enumerate(templates):
        window = values[template.first : template.last]
        window = window - window.mean(axis=0)
        total = (window**2).sum(axis=0)
        inside = template.ramp.T @ window
        n = len(window)
        error = total - (inside**2).sum(axis=0) + n * rounding
        cubic = total - ((template.cubic.T @ window) ** 2).sum(axis=0) + n * rounding
        _, slope, size = np.linalg.solve(template.triangle, inside)
        possible = (np.abs(slope) < 0.7 * np.abs(size)) & (np.abs(size) > least)
        ratio = np.maximum(cubic, rounding) / np.maximum(error, rounding)
        gains[place] = np.where(possible, (n - 5) * np.log(ratio), -np.inf)
    return gains


def _averaged(x: np.ndarray, series: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Records averaged in neighbouring groups when there are very many."""
    every = -(-len(x) // MOST_RECORDS)
    if every == 1:
        return x, series
    starts = np.arange(0, len(x), every)
    counts = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(series, starts, axis=1) / counts
