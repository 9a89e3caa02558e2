"""What kind of response a curve is, with the numbers behind the word. Pure functions of arrays.

Curves are ``[..., S]`` over S growing magnitudes of one sign. A response's *movement* is its distance from
where it starts, its *range* the distance from its lowest to its highest value.

Responses of neurons and outputs; the first that applies:

- **silent**: the range is at most 1 % of ``scale`` (the largest range among the curves shown together).
- **non-monotonic**: moves by at least 10 % of its range one way and then as much the other way.
- **threshold**: for at least the first 10 % of the magnitudes it moves by less than 5 % of its largest
  movement (a straight line does so for 5 %, ``max(0, m - t)`` with t at 5.3 % of the magnitudes for 10 %).
- **saturating**: the same at the end: for at least the last 10 % of the magnitudes it stays within 5 %. Where
  both ends are flat, the longer part gives the word.
- **linear**: a straight line explains at least 99 % of the variance (R2).
- **curved**: none of these.

Causal importances, by when they exceed a threshold (are *active*); the first that applies:

- **never active**: never.
- **persistent**: at 90 % of the magnitudes or more.
- **peaked**: inactive at the largest magnitude, or down there to half its maximum.
- **early** or **late**: active first in the lower or the upper half of the magnitudes.
"""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Shaped

SILENT = 0.01
ROUNDING = 1e-6  # single precision: smaller relative movements are noise
LINEAR = 0.99
FLAT_PART, FLAT_LEVEL, RISE_LEVEL = 0.10, 0.05, 0.20
REVERSAL = 0.10
PERSISTENT = 0.90

RESPONSE_KINDS = ("linear", "threshold", "saturating", "non-monotonic", "curved", "silent", "not finite")
IMPORTANCE_KINDS = ("early", "late", "peaked", "persistent", "never active", "not finite")


@dataclass(frozen=True)
class _Numbers:
    def numbers(self) -> dict[str, np.ndarray]:
        """Every array by its name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Responses(_Numbers):
    """One value a curve; numbers that its kind does not have are NaN.

    ``slope`` and ``r2`` are those of the straight line of least squares. ``onset`` (threshold): where the
    line through 5 % and 20 % of the movement meets the start's level. ``knee`` (saturating): the same seen
    from the end. ``plateau_ratio``: the slope over the last quarter of the magnitudes as a share of the
    steepest slope over any quarter. ``turning_point`` (non-monotonic): the magnitude at which it first turns;
    ``reversal``: how far it then goes back, as a share of its range.
    """

    kind: Shaped[np.ndarray, "..."]
    start: Float[np.ndarray, "..."]
    end: Float[np.ndarray, "..."]
    range: Float[np.ndarray, "..."]
    slope: Float[np.ndarray, "..."]
    r2: Float[np.ndarray, "..."]
    onset: Float[np.ndarray, "..."]
    knee: Float[np.ndarray, "..."]
    plateau_ratio: Float[np.ndarray, "..."]
    turning_point: Float[np.ndarray, "..."]
    reversal: Float[np.ndarray, "..."]


@dataclass(frozen=True)
class Importances(_Numbers):
    """One value a curve; magnitudes of curves that are never active are NaN.

    ``onset`` and ``offset``: the first and the last magnitude above the threshold. ``share`` of the
    magnitudes above it, in how many ``intervals``. ``peak_position``: the mean magnitude at 99 % of the
    maximum or more; ``peak_width``: how much of the axis lies at half of the maximum or more.
    """

    kind: Shaped[np.ndarray, "..."]
    maximum: Float[np.ndarray, "..."]
    end: Float[np.ndarray, "..."]
    onset: Float[np.ndarray, "..."]
    offset: Float[np.ndarray, "..."]
    share: Float[np.ndarray, "..."]
    intervals: Float[np.ndarray, "..."]
    peak_position: Float[np.ndarray, "..."]
    peak_width: Float[np.ndarray, "..."]


def classify_responses(
    magnitudes: Float[np.ndarray, " S"],
    curves: Float[np.ndarray, "*n S"],
    scale: Float[np.ndarray, "*n"] | None = None,
) -> Responses:
    """The kind of every curve and its numbers; see above for what the words mean.

    ``scale``: what a range is held against to be silent; by default each curve's own, so that only curves
    that do not move at all are silent. ``magnitudes`` grow and have at least two values.
    """
    x, y = np.asarray(magnitudes, dtype=np.float64), np.asarray(curves, dtype=np.float64)
    finite = np.asarray(np.isfinite(y).all(-1))
    y = np.where(finite[..., None], y, 0.0)
    span = np.ptp(y, axis=-1)
    noise = ROUNDING * np.abs(y).max(-1)
    silent = span <= (noise if scale is None else np.maximum(noise, SILENT * scale))
    slope, r2 = _straight_line(x, y)
    flat_start, onset = _flat_part(x, np.abs(y - y[..., :1]))
    flat_end, back = _flat_part(x[-1] - x[::-1], np.abs(y - y[..., -1:])[..., ::-1])
    turning, reversal = first_turn(x, y)
    turns = np.isfinite(turning)
    starts_flat, ends_flat = flat_start >= FLAT_PART, flat_end >= FLAT_PART
    rules = {
        "not finite": ~finite,
        "silent": silent,
        "non-monotonic": turns,
        "threshold": starts_flat & (flat_start >= np.where(ends_flat, flat_end, 0.0)),
        "saturating": ends_flat,
        "linear": r2 >= LINEAR,
    }
    kind = np.select(list(rules.values()), list(rules), default="curved")
    moves = finite & ~silent

    def where(chosen: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.where(chosen, values, np.nan)

    return Responses(
        kind=kind,
        start=where(finite, y[..., 0]),
        end=where(finite, y[..., -1]),
        range=where(finite, span),
        slope=where(finite, slope),
        r2=where(moves, r2),
        onset=where(kind == "threshold", onset),
        knee=where(kind == "saturating", x[-1] - back),
        plateau_ratio=where(moves, _plateau_ratio(x, y)),
        turning_point=where(moves, turning),
        reversal=where(moves & turns, reversal),
    )


def classify_importances(
    magnitudes: Float[np.ndarray, " S"], curves: Float[np.ndarray, "*n S"], threshold: float
) -> Importances:
    """The kind of every causal importance and its numbers; see above for what the words mean."""
    x, y = np.asarray(magnitudes, dtype=np.float64), np.asarray(curves, dtype=np.float64)
    finite = np.asarray(np.isfinite(y).all(-1))
    y = np.where(finite[..., None], y, 0.0)
    active = y > threshold
    ever = active.any(-1) & finite
    top = y.max(-1)
    share = active.mean(-1)
    length = x[-1] - x[0]
    onset = crossing(x, y, np.full(y.shape[:-1], threshold), strictly=True)
    offset = x[-1] - crossing(x[-1] - x[::-1], y[..., ::-1], np.full(y.shape[:-1], threshold), strictly=True)
    high = y >= 0.99 * top[..., None]
    rules = {
        "not finite": ~finite,
        "never active": ~ever,
        "persistent": share >= PERSISTENT,
        "peaked": ~active[..., -1] | (y[..., -1] <= top / 2),
        "early": onset < x[0] + length / 2,
    }
    starts = active & ~np.concatenate([np.zeros_like(active[..., :1]), active[..., :-1]], axis=-1)

    def known(values: np.ndarray) -> np.ndarray:
        return np.where(ever, values, np.nan)

    return Importances(
        kind=np.select(list(rules.values()), list(rules), default="late"),
        maximum=np.where(finite, top, np.nan),
        end=np.where(finite, y[..., -1], np.nan),
        onset=known(onset),
        offset=known(offset),
        share=np.where(finite, share, np.nan),
        intervals=np.where(finite, starts.sum(-1).astype(np.float64), np.nan),
        peak_position=known((high * x).sum(-1) / np.maximum(high.sum(-1), 1)),
        peak_width=known((y >= top[..., None] / 2).mean(-1) * length),
    )


def crossing(
    x: Float[np.ndarray, " S"],
    values: Float[np.ndarray, "*n S"],
    level: Float[np.ndarray, "*n"],
    strictly: bool = False,
) -> Float[np.ndarray, "*n"]:
    """The first ``x`` at which ``values`` reach (or exceed) ``level``, between steps on a straight line.

    NaN where they never do.
    """
    wanted = level[..., None]
    above: Bool[np.ndarray, "*n S"] = values > wanted if strictly else values >= wanted
    index = above.argmax(-1)
    before = np.maximum(index - 1, 0)
    low = np.take_along_axis(values, before[..., None], -1)[..., 0]
    high = np.take_along_axis(values, index[..., None], -1)[..., 0]
    rise = high - low
    part = np.where(rise > 0, (level - low) / np.where(rise > 0, rise, 1.0), 1.0)
    found = x[before] + np.where(index > 0, part, 0.0) * (x[index] - x[before])
    return np.where(above.any(-1), found, np.nan)


def first_turn(
    x: Float[np.ndarray, " S"], y: Float[np.ndarray, "*n S"]
) -> tuple[Float[np.ndarray, "*n"], Float[np.ndarray, "*n"]]:
    """Where a curve first turns, and how far it then goes back as a share of its range.

    A turn is a move of at least 10 % of the range followed by one of at least 10 % the other way. NaN, 0
    where there is none.
    """
    span = np.ptp(y, axis=-1)
    at_top, back_down = _turn_at_top(x, y, span)
    at_bottom, back_up = _turn_at_top(x, -y, span)
    top_first = np.isfinite(at_top) & ~(at_bottom < at_top)
    return np.where(top_first, at_top, at_bottom), np.where(top_first, back_down, back_up)


def _turn_at_top(x: np.ndarray, y: np.ndarray, span: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first maximum after a rise and before a fall of ``REVERSAL`` of the range."""
    needed = (REVERSAL * span)[..., None]
    highest, lowest = np.maximum.accumulate(y, -1), np.minimum.accumulate(y, -1)
    steps = np.arange(y.shape[-1])
    # The last step so far at which the curve stood at its highest.
    at_highest = np.maximum.accumulate(np.where(y >= highest, steps, 0), -1)
    risen = highest - np.take_along_axis(lowest, at_highest, -1)
    turned = (risen >= needed) & (highest - y >= needed) & (needed > 0)
    first = turned.argmax(-1)
    peak = np.take_along_axis(at_highest, first[..., None], -1)[..., 0]
    later = np.where(steps >= peak[..., None], y, np.inf).min(-1)
    fall = np.take_along_axis(y, peak[..., None], -1)[..., 0] - later
    any_turn = turned.any(-1)
    share = fall / np.where(span > 0, span, 1.0)
    return np.where(any_turn, x[peak], np.nan), np.where(any_turn, share, 0.0)


def _straight_line(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope of the line of least squares, and the share of the variance that it explains."""
    centred, moved = x - x.mean(), y - y.mean(-1, keepdims=True)
    slope = moved @ centred / (centred @ centred)
    total = (moved**2).sum(-1)
    left = ((moved - slope[..., None] * centred) ** 2).sum(-1)
    return slope, np.where(total > 0, 1 - left / np.where(total > 0, total, 1.0), 0.0)


def _flat_part(x: np.ndarray, movement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the axis before 5 % of the movement, and where the rise beyond it would begin."""
    largest = movement.max(-1)
    slightly = crossing(x, movement, FLAT_LEVEL * largest)
    clearly = crossing(x, movement, RISE_LEVEL * largest)
    begins = slightly - (clearly - slightly) * FLAT_LEVEL / (RISE_LEVEL - FLAT_LEVEL)
    return (slightly - x[0]) / (x[-1] - x[0]), np.maximum(begins, x[0])


def _plateau_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    width = max(1, (len(x) - 1) // 4)
    slopes = np.abs((y[..., width:] - y[..., :-width]) / (x[width:] - x[:-width]))
    steepest = slopes.max(-1)
    return slopes[..., -1] / np.where(steepest > 0, steepest, 1.0)
