"""Jumps and ramps in recorded series: what was found, where, and how sure it is."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from microtome.core.config_keys import nearest
from microtome.core.errors import bad_value
from microtome.dynamics.change_points import pelt
from microtome.dynamics.level_shifts import FEWEST, FREEDOM, find_shifts
from microtome.dynamics.ramps import Ramp, find_ramps
from microtome.dynamics.series import as_rows, finite_groups
from microtome.dynamics.zscores import global_z, rolling_z

__all__ = ["FEWEST", "METHODS", "Jump", "Method", "Ramp", "check_method", "find_jumps", "find_ramps"]

Method = str | Callable[[np.ndarray], Iterable[Any]]
METHODS = ("level_shift", "zscore", "rolling", "change_points")
LEVEL = 5  # records whose mean is the level before or after


@dataclass(frozen=True)
class Jump:
    """An abrupt, lasting change between two records.

    ``step`` is the training step of the first record after it and ``index`` that record. ``z`` is the
    statistic (signed, without units); ``p`` the chance that series without any jump show one as strong, over
    all records and series that were searched together (NaN where a method has none). ``before`` and ``after``
    are means over up to five records.
    """

    step: int
    index: int
    size: float
    z: float
    p: float
    layer: str = ""
    measure: str = ""
    before: float = float("nan")
    after: float = float("nan")


def find_jumps(
    steps: np.ndarray,
    values: np.ndarray,
    method: Method = "level_shift",
    alpha: float = 0.01,
    floor: float = 1e-6,
    *,
    layers: Sequence[str] | None = None,
    measure: str = "",
    together: bool = True,
) -> list[Jump]:
    """The jumps of one series ``[n]`` or several ``[L, n]`` over the same steps, in order of step.

    ``method``: ``level_shift`` (the default; see ``level_shifts``), ``zscore`` (the original's),
    ``rolling``, ``change_points`` (needs ``ruptures``), or a function of one finite series ``[n]`` that gives
    the index of the first record after each jump. ``alpha`` is the level of a false jump, for
    ``level_shift``: over all series ``together``, or for each on its own. Jumps smaller than ``floor`` times
    the largest absolute value of their series are rounding, whatever their statistic (not for ``zscore``).
    Values that are not finite are left out; a constant series and one of fewer than 24 records have no level
    shifts. Raises ``MicrotomeError``.
    """
    check_method(method)
    if not 0 < alpha < 1:
        raise bad_value("alpha", alpha, "not between 0 and 1", "take 0.01")
    steps, rows = as_rows(steps, values)
    names = list(layers) if layers is not None else [""] * len(rows)
    found = []
    for members, records in finite_groups(rows):
        series = rows[np.ix_(members, records)]
        floors = floor * np.abs(series).max(axis=1, initial=0.0)
        searched = _search(steps[records], series, method, alpha, floors, len(rows) if together else 1)
        for row, jumps in zip(members, searched, strict=True):
            mine = rows[row, records]
            # The original has no floor, and is kept as it was.
            limit = 0.0 if method == "zscore" else floor * np.abs(mine).max(initial=0.0)
            edges = [0, *(index for index, *_ in jumps), len(records)]
            for place, (index, size, z, p) in enumerate(jumps):
                before = mine[max(edges[place], index - LEVEL) : index].mean()
                after = mine[index : min(edges[place + 2], index + LEVEL)].mean()
                if abs(size) >= limit and size != 0:
                    where = int(records[index])
                    found.append(
                        Jump(int(steps[where]), where, size, z, p, names[row], measure, before, after)
                    )
    return sorted(found, key=lambda jump: (jump.index, jump.layer))


def check_method(method: Method) -> None:
    """Raise ``MicrotomeError`` for a name that is no method."""
    if not callable(method) and method not in METHODS:
        near = nearest(str(method), list(METHODS))
        mend = f"did you mean {near}?" if near else f"choose {', '.join(METHODS)} or give a function"
        raise bad_value("method", method, "no such detector", mend)


Found = list[tuple[int, float, float, float]]  # index, size, z, p


def _search(
    steps: np.ndarray, series: np.ndarray, method: Method, alpha: float, floors: np.ndarray, n_series: int
) -> list[Found]:
    n = series.shape[1]
    if method == "level_shift":
        even = _evenly(steps)
        found = _level_shifts(steps[even], series[:, even], alpha, floors, n_series)
        return [[(int(even[i]), size, z, p) for i, size, z, p in shifts] for shifts in found]
    if n < 2:
        return [[] for _ in series]
    if method == "zscore":
        return [
            [(i, float(row[i] - row[i - 1]), z, float("nan")) for i, z in found]
            for row, found in zip(series, global_z(series), strict=True)
        ]
    if method == "rolling":
        return [[(i, _step_at(row, i), z, float("nan")) for i, z in rolling_z(row)] for row in series]
    detect = pelt if method == "change_points" else method
    assert callable(detect)
    nan = float("nan")
    return [
        [(i, _step_at(row, i), nan, nan) for i in sorted({_index(found, n) for found in detect(row)})]
        for row in series
    ]


def _evenly(steps: np.ndarray) -> np.ndarray:
    """The records about as far apart as most are: a denser start makes a steady course look abrupt."""
    if len(steps) < 3:
        return np.arange(len(steps))
    least = 0.75 * float(np.median(np.diff(steps)))
    kept = [0]
    for record in range(1, len(steps)):
        if steps[record] - steps[kept[-1]] >= least:
            kept.append(record)
    return np.array(kept)


def _level_shifts(
    steps: np.ndarray, series: np.ndarray, alpha: float, floors: np.ndarray, n_series: int
) -> list[Found]:
    from scipy.stats import t

    trials = max(1, series.shape[1] - 1) * n_series
    threshold = float(t.isf(alpha / (2 * trials), FREEDOM))
    found = find_shifts(steps, series, threshold, floors)
    return [
        [
            (shift.index, shift.size, shift.z, min(1.0, float(2 * trials * t.sf(abs(shift.z), FREEDOM))))
            for shift in sorted(shifts, key=lambda shift: shift.index)
        ]
        for shifts in found
    ]


def _step_at(row: np.ndarray, index: int) -> float:
    """How far the mean of up to five records from ``index`` on lies from that of the five before."""
    return float(row[index : index + LEVEL].mean() - row[max(0, index - LEVEL) : index].mean())


def _index(found: Any, n: int) -> int:
    """The record that a function of the user's names. Raises ``MicrotomeError`` when there is none such."""
    index = int(getattr(found, "index", found) if not isinstance(found, (int, np.integer)) else found)
    if not 0 < index < n:
        raise bad_value("method", index, f"gave a record outside 1..{n - 1}", "give indices of the series")
    return index
