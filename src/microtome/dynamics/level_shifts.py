"""Level shifts: abrupt, lasting changes of level, told from noise, drift, memory and changing noise.

The increments of a series are whitened by an autoregression, and at every place the whitened increments
around it are fitted by a shift's own signature beside a smooth trend (Chen and Liu 1993, with a local
trend and a local scale). Both halves run away from the middle, the first one backwards in time, so that
every test has a full past. Candidates are tested again after all of them were taken out, because a shift
that stays in spoils the autoregression that should find it.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

ORDER = 12  # of the autoregression
TRENDS = ((30, 0), (20, 1))  # (records on each side, degree of the increments' trend)
FEWEST = 24  # records; fewer say too little about their own noise
FREEDOM = 60  # degrees of freedom of the statistic on white, remembered and wandering noise, by simulation
SECOND = 0.77  # share of the threshold that the narrower test must pass too
LOOSE = (0.7, 0.6)  # shares of the thresholds for a first candidate
MOST_CANDIDATES = 24
APART = 6  # records between candidates
ROUNDS = 3
EARLIEST = 8  # records before a shift; fewer do not tell it from learning that begins with the training
MOST_AT_ONCE = 20_000  # values, so that memory stays small


@dataclass(frozen=True)
class Scan:
    """What one test says at each increment, ``[L, n]``: shift statistic, its size, and that of an outlier."""

    z: np.ndarray
    size: np.ndarray
    outlier: np.ndarray


@dataclass(frozen=True)
class Shift:
    """A shift between records ``index - 1`` and ``index``."""

    index: int
    size: float
    z: float


def find_shifts(
    steps: np.ndarray, values: np.ndarray, threshold: float, floor: np.ndarray
) -> list[list[Shift]]:
    """The shifts of each series of ``values [L, n]`` whose statistic exceeds ``threshold``.

    ``floor [L]`` is the smallest size that counts. Values must be finite; fewer than 24 records have none.
    """
    n = values.shape[1]
    if n < FEWEST:
        return [[] for _ in values]
    rows = max(1, MOST_AT_ONCE // n)
    parts = [slice(start, start + rows) for start in range(0, len(values), rows)]
    gaps = np.diff(steps)
    return [shifts for part in parts for shifts in _find(gaps, values[part], threshold, floor[part])]


def _find(gaps: np.ndarray, values: np.ndarray, threshold: float, floor: np.ndarray) -> list[list[Shift]]:
    increments = np.diff(values, axis=1)
    weights = autoregression(increments)
    scans = _everywhere(increments, weights, _grain(values))
    clean = _without_spikes(values, scans[0], threshold)
    if clean is not None:
        values, increments = clean, np.diff(clean, axis=1)
        scans = _everywhere(increments, autoregression(increments), _grain(values))
    score = np.where(_is_shift(scans, threshold * LOOSE[1]), np.abs(scans[0].z), 0.0)
    found = []
    for row, series in enumerate(values):
        places = _peaks(score[row], threshold * LOOSE[0])
        candidates = [Shift(i + 1, float(scans[0].size[row, i]), 0.0) for i in places]
        kept = _retest(series, candidates, threshold) if candidates else []
        kept = [shift for shift in kept if shift.index >= EARLIEST]
        found.append([shift for shift in kept if _counts(gaps, series, shift, float(floor[row]))])
    return found


def _everywhere(increments: np.ndarray, weights: np.ndarray, grain: np.ndarray) -> list[Scan]:
    places = np.arange(increments.shape[1])
    return [_scan(increments, weights, places, *trend, grain) for trend in TRENDS]


def _without_spikes(values: np.ndarray, scan: Scan, threshold: float) -> np.ndarray | None:
    """The series with single outlying records replaced by what lies around them; None when there are none."""
    around = np.lib.stride_tricks.sliding_window_view(np.pad(np.abs(scan.z), ((0, 0), (2, 2))), 5, axis=1)
    spiky = np.abs(scan.outlier) > np.maximum(threshold, 1.05 * around.max(axis=2))
    if not spiky[:, :-1].any():
        return None
    clean = values.copy()
    for row in np.flatnonzero(spiky[:, :-1].any(axis=1)):
        strength = np.where(spiky[row], np.abs(scan.outlier[row]), 0.0)
        for place in _peaks(strength[:-1], threshold):
            clean[row, place + 1] = (values[row, place] + values[row, place + 2]) / 2
    return clean


def _retest(series: np.ndarray, candidates: list[Shift], threshold: float) -> list[Shift]:
    """The candidates that stand when the noise is learned without them; three rounds, ever stricter."""
    grain = _grain(series[None])
    for round_ in range(1, ROUNDS + 1):
        strictness = LOOSE[0] + (1 - LOOSE[0]) * round_ / ROUNDS
        clean = series.copy()
        for shift in candidates:
            clean[shift.index :] -= shift.size
        weights = autoregression(np.diff(clean)[None])
        tested = [_test_again(clean, shift, weights, grain, strictness * threshold) for shift in candidates]
        candidates = [shift for shift in tested if shift is not None]
        if not candidates:
            break
    return candidates


def _test_again(
    clean: np.ndarray, shift: Shift, weights: np.ndarray, grain: np.ndarray, threshold: float
) -> Shift | None:
    """The candidate put back alone into the cleaned series, and tested within two records of its place."""
    alone = clean.copy()
    alone[shift.index :] += shift.size
    increments = np.diff(alone)[None]
    places = np.arange(max(0, shift.index - 3), min(len(alone) - 1, shift.index + 2))
    scans = [_scan(increments, weights, places, *trend, grain) for trend in TRENDS]
    best = int(np.abs(scans[0].z[0]).argmax())
    z = float(scans[0].z[0, best])
    strong = abs(z) >= threshold and np.abs(scans[1].z[0]).max() >= SECOND * threshold
    if not strong or abs(scans[0].outlier[0, best]) > 1.05 * abs(z):
        return None
    return Shift(int(places[best]) + 1, float(scans[0].size[0, best]), z)


def _is_shift(scans: list[Scan], second: float) -> np.ndarray:
    """Where the narrower test agrees, and a shift says more than a single outlying record."""
    return (np.abs(scans[1].z) > second) & (np.abs(scans[0].outlier) <= 1.05 * np.abs(scans[0].z))


def _counts(gaps: np.ndarray, series: np.ndarray, shift: Shift, floor: float) -> bool:
    """Whether a shift is above the floor, and above what its neighbours do in as many steps anyway.

    Where records lie unevenly the fastest of the nearest ones counts: a longer gap alone is no jump.
    """
    at = shift.index - 1
    near = slice(max(0, at - 10), at + 10)
    rates = np.abs(np.diff(series)) / gaps
    usual = 1.2 * float(np.median(rates[near]))
    if np.ptp(gaps[near]) > 0:
        around = [i for i in range(max(0, at - 4), min(len(gaps), at + 5)) if i != at]
        usual = max(usual, float(rates[around].max()))
    return abs(shift.size) >= max(floor, usual * float(gaps[at]))


def _peaks(score: np.ndarray, least: float) -> list[int]:
    """Places of the largest scores, at least ``APART`` records from each other."""
    score, places = score.copy(), []
    while len(places) < MOST_CANDIDATES and score.max() >= least:
        place = int(score.argmax())
        places.append(place)
        score[max(0, place - APART) : place + APART + 1] = 0.0
    return places


def _grain(values: np.ndarray) -> np.ndarray:
    """Noise ``[L]`` that rounding alone brings: half the smallest step between a series' values.

    A series that takes two values and changes once is a step, not a rounding.
    """
    grains = np.zeros(len(values))
    for row, series in enumerate(values):
        levels = np.unique(series)
        if len(levels) > 2 or np.count_nonzero(np.diff(series)) > 1:
            grains[row] = np.diff(levels).min() / 2
    return grains


# -- the autoregression ------------------------------------------------------------------------------------


def autoregression(increments: np.ndarray) -> np.ndarray:
    """Weights ``[L, p]`` that predict a local-trend-free, locally scaled increment from the ``p`` before it.

    Yule and Walker's equations on clipped values, so that the shifts themselves hardly count.
    """
    from scipy.linalg import solve_toeplitz

    n = increments.shape[1]
    order = min(ORDER, n // 6)
    residual = (_detrender(n, min(TRENDS[1][0], (n - 1) // 2)) @ increments.T).T
    local = 1.4826 * _rolling_median(np.abs(residual), min(25, (n - 1) // 3))
    overall = 1.4826 * np.median(np.abs(residual), axis=1, keepdims=True)
    scaled = np.clip(residual / np.maximum(local, 1e-3 * overall + 1e-300), -3.5, 3.5)
    products = [(scaled[:, : n - lag] * scaled[:, lag:]).sum(axis=1) for lag in range(order + 1)]
    covariance = np.stack(products, axis=1) / n
    covariance[:, 0] = covariance[:, 0] * (1 + 1e-6) + 1e-300
    return np.stack([solve_toeplitz(row[:-1], row[1:]) for row in covariance])


@lru_cache(maxsize=8)
def _detrender(n: int, half: int) -> Any:
    """Sparse matrix ``[n, n]`` that takes from each increment the line through those around it."""
    from scipy.sparse import csr_array

    rows, columns, entries = [], [], []
    for i in range(n):
        start, end = max(0, i - half), min(n - 1, i + half)
        rows.append(np.full(end - start + 1, i))
        columns.append(np.arange(start, end + 1))
        entries.append(_annihilator(i - start, end - i, 1)[i - start])
    places = (np.concatenate(rows), np.concatenate(columns))
    return csr_array((np.concatenate(entries), places), shape=(n, n))


def _rolling_median(values: np.ndarray, half: int) -> np.ndarray:
    padded = np.pad(values, ((0, 0), (half, half)), mode="reflect")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1, axis=1), axis=2)


# -- the test ----------------------------------------------------------------------------------------------


def _scan(
    increments: np.ndarray, weights: np.ndarray, places: np.ndarray, half: int, degree: int, grain: np.ndarray
) -> Scan:
    """The test at some increments; those before the middle are tested with time running backwards."""
    n = increments.shape[1]
    late = places >= n // 2
    forward = _one_way(increments, weights, places[late], half, degree, grain)
    mirrored = n - 1 - places[~late]
    backward = _one_way(-increments[:, ::-1], weights, mirrored, half, degree, grain)
    parts: list[Any] = []
    for first, second, sign in zip(backward, forward, (-1.0, -1.0, 1.0), strict=True):
        whole = np.empty((len(increments), len(places)))
        whole[:, ~late], whole[:, late] = sign * first, second
        parts.append(whole)
    return Scan(*parts)


def _one_way(
    increments: np.ndarray, weights: np.ndarray, places: np.ndarray, half: int, degree: int, grain: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Statistic, size and outlier statistic ``[L, places]``, time running forwards."""
    (n_series, n), order = increments.shape, weights.shape[1]
    white = increments[:, order:].copy()
    for lag in range(order):
        white -= weights[:, lag : lag + 1] * increments[:, order - 1 - lag : n - 1 - lag]
    shift = np.hstack([np.ones((n_series, 1)), -weights])  # what a shift leaves in the whitened increments
    spike = np.pad(shift, ((0, 0), (0, 1))) - np.pad(shift, ((0, 0), (1, 0)))  # up, and down at once
    results = np.zeros((3, n_series, len(places)))
    before = np.minimum(half, places - order)
    after = np.minimum(half, n - 1 - places)
    for left, right in sorted(set(zip(before.tolist(), after.tolist(), strict=True))):
        if left < 4 or right < 3:
            continue
        here = np.flatnonzero((before == left) & (after == right))
        windows = white[:, (places[here, None] - order) + np.arange(-left, right + 1)]
        for whole, part in zip(results, _in_windows(windows, shift, spike, left, degree, grain), strict=True):
            whole[:, here] = part
    return results[0], results[1], results[2]


def _in_windows(
    windows: np.ndarray, shift: np.ndarray, spike: np.ndarray, left: int, degree: int, grain: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The test in windows ``[L, m, left + 1 + right]`` of whitened increments, their middles at ``left``."""
    width = windows.shape[2]
    without_trend = _annihilator(left, width - 1 - left, degree)
    signature = _placed(shift, left, width) @ without_trend
    power = (signature**2).sum(axis=1)[:, None]
    size = np.einsum("lmk,lk->lm", windows, signature) / np.maximum(power, 1e-9)
    residual = np.abs(windows @ without_trend - size[:, :, None] * signature[:, None, :])
    # The larger of both sides' scales: where the noise changes, the new noise is no shift.
    scale = np.maximum(_clipped_deviation(residual[:, :, :left]), _clipped_deviation(residual[:, :, left:]))
    scale = np.maximum(np.maximum(scale, grain[:, None]), 1e-3 * np.abs(size) + 1e-300)
    z = np.where(power > 0.2, size * np.sqrt(power) / scale, 0.0)
    other = _placed(spike, left, width) @ without_trend
    other_power = np.maximum((other**2).sum(axis=1), 1e-9)[:, None]
    outlier = np.einsum("lmk,lk->lm", windows, other) / np.sqrt(other_power) / scale
    return z, size, outlier


def _placed(signature: np.ndarray, left: int, width: int) -> np.ndarray:
    """A signature ``[L, p]`` that begins in the middle of a window ``[L, width]``."""
    placed = np.zeros((len(signature), width))
    length = min(signature.shape[1], width - left)
    placed[:, left : left + length] = signature[:, :length]
    return placed


def _clipped_deviation(residual: np.ndarray) -> np.ndarray:
    """Standard deviation over the last axis of absolute residuals, clipped at 2.5 times the median one's."""
    limit = 2.5 * 1.4826 * np.median(residual, axis=-1, keepdims=True)
    return 1.03 * np.sqrt((np.minimum(residual, limit) ** 2).mean(axis=-1))


@lru_cache(maxsize=4096)
def _annihilator(left: int, right: int, degree: int) -> np.ndarray:
    """Matrix that takes the best polynomial out of ``left + 1 + right`` values."""
    position = np.arange(-left, right + 1) / max(left, right, 1)
    basis, _ = np.linalg.qr(np.vander(position, degree + 1))
    return np.eye(len(position)) - basis @ basis.T
