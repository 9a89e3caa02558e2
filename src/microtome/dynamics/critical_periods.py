"""Critical periods: times at which many layers change fast together, more than layers apart would by chance.

As documented, a layer is critical in the fastest tenth of its records; coordination is the share of layers
that are. Any two layers have such tenths, so coordination is judged against the same layers shifted in time.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

SHARE = 0.9  # quantile of a layer's speed above which it is critical
COORDINATED = 0.5  # share of layers, at least
SHIFTS = 200
LEVEL = 0.05
FEWEST = 20  # records
LEAST_MOVE = 1e-6  # of a layer's largest value; less is rounding


@dataclass(frozen=True)
class CriticalPeriod:
    """Records ``first`` to ``last`` between training steps ``start`` and ``end``, in which layers agree.

    ``coordination`` is the largest share of layers there, ``p`` the share of time shifts that reach it
    anywhere. ``loss_change`` is the loss at the end minus that at the start, NaN without a loss.
    """

    start: int
    end: int
    first: int
    last: int
    coordination: float
    p: float
    layers: tuple[str, ...]
    loss_change: float = float("nan")


@dataclass(frozen=True)
class Coordination:
    """What one run's layers do together: ``critical [L, n - 1]``, ``transitions [L, n - 2]``."""

    critical: np.ndarray
    transitions: np.ndarray
    share: np.ndarray  # [n - 1] of the layers that move at all
    limit: float  # what layers apart reach anywhere in one run of twenty; 1 or more: no layers agree
    periods: list[CriticalPeriod]


def critical_periods(
    steps: np.ndarray, values: np.ndarray, layers: list[str], loss: np.ndarray | None = None, seed: int = 0
) -> Coordination:
    """Critical records of ``values [L, n]`` and the periods in which layers agree on them.

    ``loss [n]`` is that at the same records. Layers with gaps, constant ones, and runs of fewer than 20
    records have none.
    """
    n_layers, n = values.shape
    critical = np.zeros((n_layers, max(0, n - 1)), dtype=bool)
    transitions = np.zeros((n_layers, max(0, n - 2)), dtype=bool)
    moving = np.asarray(_moving(values)) if n >= FEWEST else np.zeros(n_layers, dtype=bool)
    if not moving.any():
        return Coordination(critical, transitions, np.zeros(max(0, n - 1)), 1.0, [])
    gaps = np.diff(steps)
    speed = np.diff(values[moving], axis=1) / gaps
    critical[moving] = _fastest(speed)
    transitions[moving] = _fastest(np.diff(speed, axis=1))
    share = critical.sum(axis=0) / moving.sum()
    chance = _by_chance(critical[moving], np.random.default_rng(seed))
    limit = float(np.quantile(chance, 1 - LEVEL))
    above = (share >= COORDINATED) & (share > limit)
    periods = []
    for first, last in _runs(above):
        here = np.asarray(critical[:, first:last].any(axis=1))
        peak = float(share[first:last].max())
        change = float("nan") if loss is None else float(loss[last] - loss[first])
        periods.append(
            CriticalPeriod(
                start=int(steps[first]),
                end=int(steps[last]),
                first=first,
                last=last,
                coordination=peak,
                p=float((1 + (chance >= peak).sum()) / (1 + SHIFTS)),
                layers=tuple(layer for layer, active in zip(layers, here.tolist(), strict=True) if active),
                loss_change=change,
            )
        )
    return Coordination(critical, transitions, share, limit, periods)


def documented(found: Coordination, loss: np.ndarray | None) -> dict[str, Any]:
    """The documented columns of one run, and three of ours: what the loss does anyway, and the limit.

    ``loss_correlation`` is the share of critical records at which the loss falls, mean over layers;
    ``loss_base_rate`` that of all records. ``num_coordinated_periods`` counts periods, not records.
    """
    falls = None if loss is None else np.diff(loss) < 0
    active = [row for row in found.critical if row.any()]
    nan = float("nan")
    return {
        "total_critical_steps": int(found.critical.sum()),
        "total_transitions": int(found.transitions.sum()),
        "num_coordinated_periods": len(found.periods),
        "max_coordination": float(found.share.max(initial=0.0)),
        "mean_coordination": float(found.share.mean()) if len(found.share) else 0.0,
        "loss_correlation": nan
        if falls is None or not active
        else float(np.mean([falls[row].mean() for row in active])),
        "loss_base_rate": nan if falls is None or not len(falls) else float(falls.mean()),
        "coordination_by_chance": found.limit,
        "p_value": min((period.p for period in found.periods), default=1.0),
    }


def _moving(values: np.ndarray) -> np.ndarray:
    finite = np.array([bool(np.isfinite(series).all()) for series in values], dtype=bool)
    safe = np.where(finite[:, None], values, 0.0)
    return finite & (np.ptp(safe, axis=1) > LEAST_MOVE * np.abs(safe).max(axis=1))


def _fastest(speed: np.ndarray) -> np.ndarray:
    size = np.abs(speed)
    return size > np.quantile(size, SHARE, axis=1, keepdims=True)


def _by_chance(critical: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The largest share of layers that agree anywhere when each is shifted in time by itself."""
    n_layers, n = critical.shape
    reached = np.empty(SHIFTS)
    for number in range(SHIFTS):
        places = (np.arange(n) + rng.integers(n, size=(n_layers, 1))) % n
        reached[number] = np.take_along_axis(critical, places, axis=1).mean(axis=0).max()
    return reached


def _runs(above: Any) -> list[tuple[int, int]]:
    """First and one-past-last of each run of True; a gap of one record does not end a period."""
    joined: Any = np.array(above, dtype=bool)
    joined[1:-1] |= joined[:-2] & joined[2:]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], joined, [False]]).astype(int)))
    return [(int(first), int(last)) for first, last in zip(edges[::2], edges[1::2], strict=True)]
