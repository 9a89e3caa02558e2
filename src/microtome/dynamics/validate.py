"""Detectors put to the test: how often they find what is not there, and how often what is."""

import importlib
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from microtome.core.errors import bad_value
from microtome.dynamics.battery import NULLS, RAMP_NULLS, RAMPS, STEPS, Draw, Plant
from microtome.dynamics.jumps import Method, check_method, find_jumps
from microtome.dynamics.ramps import find_ramps

MOST_FALSE = 0.1  # detections per series with nothing to find
LEAST_RECALL = 0.9

Detect = Callable[[np.ndarray], list[list[float]]]  # of series [L, n], each on its own


@dataclass(frozen=True)
class Row:
    """One kind of series: false detections per series, and the share of planted changes found."""

    name: str
    series: int
    false: float
    recall: float | None = None  # None where nothing was planted

    @property
    def passes(self) -> bool:
        """At most a tenth of a false detection a series; at least nine in ten planted changes found."""
        return self.false <= MOST_FALSE and (self.recall is None or self.recall >= LEAST_RECALL)


@dataclass(frozen=True)
class Report:
    """What a detector did on the battery."""

    detector: str
    rows: list[Row]

    @property
    def valid(self) -> bool:
        """Whether every row passes."""
        return all(row.passes for row in self.rows)

    @property
    def false_positives(self) -> float:
        """The worst rate of false detections per series with nothing to find."""
        return max((row.false for row in self.rows if row.recall is None), default=0.0)

    @property
    def recall(self) -> float:
        """The worst share of planted changes found."""
        return min((row.recall for row in self.rows if row.recall is not None), default=1.0)

    def told(self) -> list[str]:
        """The lines of a table, and the verdict."""
        width = max(len(row.name) for row in self.rows)
        lines = [f"{self.detector}, {self.rows[0].series} series of 400 records of each kind:"]
        lines.append(f"  {'':<{width}}  false/series  recall")
        for row in self.rows:
            recall = "" if row.recall is None else f"{row.recall:6.3f}"
            mark = "" if row.passes else "  fails"
            lines.append(f"  {row.name:<{width}}  {row.false:12.3f}  {recall:>6}{mark}")
        verdict = "VALID" if self.valid else "NOT VALID"
        lines.append(
            f"{verdict}: at most {self.false_positives:.3f} false detections per series with nothing to find"
            f" (limit {MOST_FALSE}), recall at least {self.recall:.3f} (limit {LEAST_RECALL})."
        )
        return lines


def validate(method: Method = "level_shift", seeds: int = 40, alpha: float = 0.01) -> Report:
    """A detector of jumps on ``seeds`` series of each kind in the battery. Raises ``MicrotomeError``.

    ``method`` is a name that ``find_jumps`` knows, or a function of one series that gives indices.
    """
    check_method(method)
    time = np.arange(400)

    def detect(values: np.ndarray) -> list[list[float]]:
        names = [str(row) for row in range(len(values))]
        found = find_jumps(time, values, method, alpha, layers=names, together=False)
        return [[float(jump.index) for jump in found if jump.layer == name] for name in names]

    name = method if isinstance(method, str) else getattr(method, "__name__", "detector")
    return _report(name, detect, NULLS, STEPS, seeds)


def validate_ramps(seeds: int = 40) -> Report:
    """The detector of ramps on its battery; a ramp counts when its middle is found."""
    time = np.arange(400)

    def detect(values: np.ndarray) -> list[list[float]]:
        names = [str(row) for row in range(len(values))]
        found = find_ramps(time, values, layers=names)
        return [[ramp.middle for ramp in found if ramp.layer == name] for name in names]

    return _report("ramps", detect, RAMP_NULLS, RAMPS, seeds)


def detector(text: str) -> Method:
    """A detector by its name, or the function that ``package.module:function`` names."""
    if ":" not in text:
        check_method(text)
        return text
    module, _, name = text.partition(":")
    sys.path.insert(0, "")  # modules of the working folder, as `python -m` finds them
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise bad_value("method", text, f"cannot be imported ({error})", "check module and name") from None
    finally:
        sys.path.remove("")
    if not callable(found):
        raise bad_value("method", text, "not a function", "name a function of one series")
    return cast(Method, found)


def _report(
    name: str, detect: Detect, nulls: Mapping[str, Draw], planted: Mapping[str, Plant], seeds: int
) -> Report:
    if seeds < 1:
        raise bad_value("seeds", seeds, "no series to test on", "take 40")
    rows = [Row(kind, seeds, _false(detect, draw, kind, seeds)) for kind, draw in nulls.items()]
    return Report(name, rows + [_found(detect, draw, kind, seeds) for kind, draw in planted.items()])


def _false(detect: Detect, draw: Draw, kind: str, seeds: int) -> float:
    series = np.stack([draw(_rng(kind, seed)) for seed in range(seeds)])
    return float(sum(map(len, detect(series))) / seeds)


def _found(detect: Detect, draw: Plant, kind: str, seeds: int) -> Row:
    """Each detection counts for one planted change at most; the others are false."""
    drawn = [draw(_rng(kind, seed)) for seed in range(seeds)]
    found = total = false = 0
    for planted, detections in zip(drawn, detect(np.stack([p.values for p in drawn])), strict=True):
        total += len(planted.at)
        for place in planted.at:
            near = [d for d in detections if abs(d - place) <= planted.tolerance]
            if near:
                found += 1
                detections.remove(min(near, key=lambda d: abs(d - place)))
        false += len(detections)
    return Row(kind, seeds, false / seeds, found / total)


def _rng(kind: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(kind.encode()), seed])
