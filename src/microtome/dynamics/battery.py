"""Series with nothing to find, and series with changes planted in them, to test detectors on.

Noise has a standard deviation of 1 unless said; every series has 400 records.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

N = 400
TIME = np.arange(N)

Draw = Callable[[np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Planted:
    """A series, the records at which it changes, and how many records away a detection still counts."""

    values: np.ndarray
    at: tuple[int, ...]
    tolerance: int = 5


Plant = Callable[[np.random.Generator], Planted]


def autoregressive(rng: np.random.Generator, memory: float) -> np.ndarray:
    """Noise in which each value remembers a share of the one before it."""
    from scipy.signal import lfilter

    return np.asarray(lfilter([1.0], [1.0, -memory], rng.normal(size=N + 200)))[200:]


def rounded_walk(rng: np.random.Generator) -> np.ndarray:
    """A slow course that is recorded in whole numbers, as an effective rank is."""
    return np.round(8 + 0.3 * autoregressive(rng, 0.95))


def rounding(rng: np.random.Generator) -> np.ndarray:
    """1 up to rounding, as the original stable rank was."""
    return 1 - 1e-12 * (1 + 0.3 * autoregressive(rng, 0.9))


# Name -> a draw. What a detector of jumps finds here is false.
NULLS: dict[str, Draw] = {
    "white noise": lambda rng: rng.normal(size=N),
    "drift": lambda rng: 0.05 * TIME + rng.normal(size=N),
    "decay": lambda rng: 40 * np.exp(-TIME / 50) + rng.normal(size=N),
    "fast decay, little noise": lambda rng: 20 * np.exp(-TIME / 20) + 0.01 * rng.normal(size=N),
    "sigmoid": lambda rng: 20 / (1 + np.exp(-(TIME - 200) / 20)) + rng.normal(size=N),
    "AR(0.8)": lambda rng: autoregressive(rng, 0.8),
    "random walk": lambda rng: rng.normal(size=N).cumsum(),
    "noise grows": lambda rng: rng.normal(size=N) * np.linspace(0.1, 3, N),
    "noise changes at once": lambda rng: rng.normal(size=N) * np.where(TIME < N // 2, 0.3, 3),
    "noise fades": lambda rng: rng.normal(size=N) * (np.exp(-TIME / 80) + 0.02),
    "float rounding": rounding,
    "whole numbers": rounded_walk,
}


def _steps(size: float, base: Draw, many: bool = False) -> Plant:
    def draw(rng: np.random.Generator) -> Planted:
        values = base(rng)
        first = [int(rng.integers(40, N - 40))]
        at = [start + int(rng.integers(30)) for start in (80, 190, 300)] if many else first
        for place in at:
            values[place:] += size * rng.choice([-1.0, 1.0])
        return Planted(values, tuple(at))

    return draw


STEPS: dict[str, Plant] = {
    "step of 10": _steps(10.0, NULLS["white noise"]),
    "step of 4": _steps(4.0, NULLS["white noise"]),
    "three steps of 6": _steps(6.0, NULLS["white noise"], many=True),
    "step of 6 on drift": _steps(6.0, NULLS["drift"]),
    "step of 6 on decay": _steps(6.0, NULLS["decay"]),
    "step of 8 on AR(0.8)": _steps(8.0, NULLS["AR(0.8)"]),
    "step of 10 on a random walk": _steps(10.0, NULLS["random walk"]),
}

# What a detector of ramps finds here is false: among them learning that begins with the training.
RAMP_NULLS: dict[str, Draw] = {name: draw for name, draw in NULLS.items() if name != "sigmoid"} | {
    "quadratic drift": lambda rng: 30 * (TIME / N) ** 2 + rng.normal(size=N),
    "learning from the start": lambda rng: 20 / (1 + np.exp((TIME - 35) / 12)) + 0.2 * rng.normal(size=N),
}


def _ramp(size: float, width: int, base: Draw, linear: bool = False) -> Plant:
    def draw(rng: np.random.Generator) -> Planted:
        middle = int(rng.integers(max(140, 2 * width), 280))
        t = (TIME - middle) / width
        course = np.clip(t + 0.5, 0, 1) if linear else 1 / (1 + np.exp(-2 * np.log(9) * t))
        return Planted(base(rng) + size * course, (middle,), tolerance=max(5, width // 5))

    return draw


RAMPS: dict[str, Plant] = {
    "ramp of 12 over 10 records": _ramp(12.0, 10, NULLS["white noise"]),
    "ramp of 10 over 40": _ramp(10.0, 40, NULLS["white noise"]),
    "ramp of 15 over 100": _ramp(15.0, 100, NULLS["white noise"]),
    "straight ramp of 10 over 40": _ramp(10.0, 40, NULLS["white noise"], linear=True),
    "ramp of 15 over 40 on drift": _ramp(15.0, 40, NULLS["drift"]),
    "clean ramp over 60": _ramp(1.0, 60, lambda rng: 0.01 * rng.normal(size=N)),
}
