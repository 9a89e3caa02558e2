"""The axes of a sweep's pictures: where each trial stands on them, between 0 and 1, and their labels."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from microtome.sweep.parameters import Parameter

MOST_CATEGORIES = 12
INSET = 0.07  # the first and last category stand this far from the ends, so that there is room to spread
WIDE = 50.0  # positive numbers that span more than this factor are easier to read on a log axis


@dataclass(frozen=True)
class Axis:
    """One axis: the place of every trial (NaN where it has none), and the ticks as (place, label)."""

    label: str
    places: np.ndarray
    ticks: list[tuple[float, str]]
    categorical: bool = False


def parameter_axis(name: str, parameter: Parameter | None, values: Sequence[Any]) -> Axis:
    """The axis of a parameter: categories where it has a list of values, else numbers, log where it is."""
    listed = None if parameter is None else parameter.values
    numbers = all(_is_number(value) for value in values if value is not None)
    if (listed is not None and len(listed) <= MOST_CATEGORIES) or not numbers:
        known = [value_text(value) for value in listed or ()]
        known += [t for t in dict.fromkeys(value_text(v) for v in values if v is not None) if t not in known]
        return _categories(name, known, [None if v is None else value_text(v) for v in values])
    logarithmic = parameter is not None and (parameter.logarithmic or listed is not None)
    return number_axis(name, [math.nan if v is None else float(v) for v in values], logarithmic)


def number_axis(name: str, values: Sequence[float], logarithmic: bool | None = None) -> Axis:
    """An axis of numbers; ``logarithmic=None`` takes a log axis for positive numbers that span much."""
    array = np.asarray(values, dtype=float)
    known = array[np.isfinite(array)]
    if not len(known):
        return Axis(name, np.full(len(array), np.nan), [])
    low, high = float(known.min()), float(known.max())
    if logarithmic is None:
        logarithmic = low > 0 and high / low > WIDE
    if low == high:
        return Axis(name, np.where(np.isfinite(array), 0.5, np.nan), [(0.5, f"{low:.3g}")])
    if logarithmic and low > 0:
        places = np.log(array / low) / math.log(high / low)
        return Axis(
            name,
            places,
            [(math.log(t / low) / math.log(high / low), text) for t, text in _decades(low, high)],
        )
    places = (array - low) / (high - low)
    return Axis(name, places, [((t - low) / (high - low), text) for t, text in _round_numbers(low, high)])


def spread(axis: Axis, scores: Sequence[float]) -> Axis:
    """Categories with their trials side by side, lowest score first, instead of all in one point."""
    if not axis.categorical:
        return axis
    most = min(INSET, 0.3 / max(len(axis.ticks) - 1, 1))
    places = axis.places.copy()
    order = np.argsort(np.asarray(scores, dtype=float), kind="stable")  # NaN last
    for place in np.unique(places[np.isfinite(places)]):
        members = [k for k in order if axis.places[k] == place]
        width = most * min(1.0, (len(members) - 1) / 8)
        places[members] += np.linspace(-width, width, len(members)) if len(members) > 1 else 0.0
    return replace(axis, places=places)


def value_text(value: Any) -> str:
    """A value as it is written on an axis and in a table."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 24 else text[:21] + "..."


def _categories(name: str, known: Sequence[str], values: Sequence[str | None]) -> Axis:
    step = (1 - 2 * INSET) / max(len(known) - 1, 1)
    place = {text: 0.5 if len(known) == 1 else INSET + i * step for i, text in enumerate(known)}
    places = np.array([math.nan if value is None else place[value] for value in values], dtype=float)
    shown = known if len(known) <= MOST_CATEGORIES else known[:: math.ceil(len(known) / MOST_CATEGORIES)]
    return Axis(name, places, [(place[text], text) for text in shown], categorical=True)


def _decades(low: float, high: float) -> list[tuple[float, str]]:
    """The ends, and round numbers between them that keep clear of the ends."""
    span = math.log(high / low)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1,) if last - first > 2 else (1, 2, 5)
    between = [f * 10.0**k for k in range(first, last + 1) for f in factors]
    between = between[:: math.ceil(len(between) / 8)]
    clear = [
        t for t in between if low < t < high and min(math.log(t / low), math.log(high / t)) > 0.07 * span
    ]
    return [(t, f"{t:.3g}") for t in (low, *clear, high)]


def _round_numbers(low: float, high: float) -> list[tuple[float, str]]:
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(f * unit for f in (1, 2, 5, 10) if f * unit >= rough)
    inside = [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    clear = [t for t in inside if min(t - low, high - t) > 0.07 * (high - low)]
    return [(t, f"{t:.3g}" if abs(t) < 1000 else f"{t:.6g}") for t in (low, *clear, high)]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
