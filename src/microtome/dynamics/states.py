"""Which states of the network are kept: a short memory of recent ones, and those around a change for good."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from microtome.dynamics.online import OnlineShifts
from microtome.dynamics.when import log2

State = dict[str, Tensor]
Write = Callable[[int, State, str], None]

RECENT = 4  # states of the last records, each kept; older ones ever sparser
RING_BYTES = 1 << 30
DISK_BYTES = 8 << 30
MOST_CHANGES = 64
MOST_JUMPS = 64
RISES, FALLS = 1.3, 0.97  # the threshold of a change, after each one and at each record: one in nine at most
APART = 8  # steps between two states in memory, where every step is measured
SLOW = 0.05  # weight of one record in the usual size of a series' increments


@dataclass
class Held:
    """A state in memory, with the watched values at its step."""

    index: int
    step: int
    state: State
    values: np.ndarray
    written: bool = False


class Ring:
    """Recent states: the last few records all, then ever fewer the further back, so that it stays short.

    Of the records that lie 4 to 8 back every second is kept, of those 8 to 16 back every fourth, and so on:
    before any change, slow or fast, there is a state not much further away than the change is long.
    """

    def __init__(self, most_bytes: int = RING_BYTES) -> None:
        self.most_bytes = most_bytes
        self.held: list[Held] = []
        self._count = 0

    def add(self, step: int, state: State, values: np.ndarray) -> Held:
        """Take a state in, and drop those that are no longer needed."""
        newest = Held(self._count, step, state, values)
        self._count += 1
        self.held = [old for old in self.held if self._stays(old)] + [newest]
        most = max(2, self.most_bytes // max(1, size_of(state)))
        self.held = self.held[-most:]
        return newest

    def before(self, step: int) -> Held | None:
        """The last state strictly before ``step``."""
        return next((held for held in reversed(self.held) if held.step < step), None)

    def after(self, step: int) -> Held | None:
        """The first state at or after ``step``."""
        return next((held for held in self.held if held.step >= step), None)

    def _stays(self, old: Held) -> bool:
        age = self._count - 1 - old.index
        if age <= RECENT:
            return True
        spacing = 1 << ((age - 1) // RECENT).bit_length()
        return old.index % spacing == 0


class Keeper:
    """Writes the states that tell a run's story without knowing it beforehand.

    Log-spaced steps, always. Around a level shift, as soon as the online detector confirms it: the last state
    before and the first after. Around a slow change: whenever a watched value has moved by one unit since the
    last such state (the recorder scales them), the last state before it moved, and the one now.
    """

    def __init__(self, n_series: int, write: Write, most_bytes: int = RING_BYTES) -> None:
        self.ring, self.write = Ring(most_bytes), write
        self.shifts = OnlineShifts(n_series)
        self.regular = log2()
        self._level: np.ndarray | None = None
        self._usual = np.zeros(n_series)
        self._previous: np.ndarray | None = None
        self._threshold = np.ones(n_series)
        self._patience = 1.0
        self._changes = self._jumps = 0

    def observe(self, steps: Sequence[int], values: np.ndarray, state: Callable[[], State]) -> None:
        """Records in a row, ``values [records, n_series]`` (NaN: none there), and the state after them."""
        confirmed = np.zeros(values.shape[1], dtype=bool)
        moved: np.ndarray | None = None
        for step, record in zip(steps, values, strict=True):
            confirmed |= self.shifts.update(step, record)
            far = self._moved_by(record)
            moved = far if moved is None else moved | far if far is not None else moved
        step, newest = steps[-1], self.ring.held[-1].step if self.ring.held else -APART
        regular = self.regular(step)
        if regular or moved is not None or step - newest >= APART or step < newest:
            now = self.ring.add(step, state(), values[-1])
            if regular:
                self._write(now, "log-spaced")
            if moved is not None:
                self._write_around(now, moved)
        if confirmed.any() and self._jumps < self._most(MOST_JUMPS):
            for where in sorted({int(where) for where in self.shifts.where[confirmed]}):
                self._jumps += self._write(self.ring.before(where), "before jump")
                self._jumps += self._write(self.ring.after(where), "after jump")

    def _moved_by(self, values: np.ndarray) -> np.ndarray | None:
        """The series that have moved far from where they were at the last such state; None where none has."""
        if self._level is None or self._previous is None:
            self._level = self._previous = values
            return None
        # A series that is first seen now begins here.
        self._level = np.where(np.isnan(self._level), values, self._level)
        increments = np.nan_to_num(np.abs(values - self._previous))
        self._previous = np.where(np.isnan(values), self._previous, values)
        # Noise moves too: a movement is also several times the usual step from record to record.
        self._threshold = self._patience * np.maximum(1.0, 5 * self._usual)
        self._patience = max(1.0, self._patience * FALLS)
        self._usual += SLOW * (increments - self._usual)
        moved = np.nan_to_num(np.abs(values - self._level)) >= self._threshold
        return moved if moved.any() else None

    def _write_around(self, now: Held, moved: np.ndarray) -> None:
        assert self._level is not None
        near = 0.25 * self._threshold[moved]
        still = [held for held in self.ring.held[:-1] if np.all(self._distance(held)[moved] < near)]
        self._level = np.where(np.isnan(now.values), self._level, now.values)
        self._patience *= RISES
        if self._changes < self._most(MOST_CHANGES):
            self._changes += self._write(still[-1] if still else None, "before change")
            self._changes += self._write(now, "change")

    def _most(self, states: int) -> int:
        """How many states at most: fewer where they are large."""
        size = size_of(self.ring.held[-1].state) if self.ring.held else 1
        return min(states, DISK_BYTES // max(1, size))

    def _distance(self, held: Held) -> np.ndarray:
        assert self._level is not None
        return np.nan_to_num(np.abs(held.values - self._level))

    def _write(self, held: Held | None, why: str) -> bool:
        if held is None or held.written:
            return False
        self.write(held.step, held.state, why)
        held.written = True
        return True


def watched(values: np.ndarray, scalars: Mapping[str, Any]) -> np.ndarray:
    """What a keeper watches ``[records, n_series]``, scaled so that a movement of 1 is worth a state.

    ``values [records, layers]`` of one measure: a quarter of it; the loss on the probe: half of it; the
    accuracy: 0.15.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.log(np.abs(values)) / 0.25]
    if "probe_loss" in scalars:
        parts.append(np.full((len(values), 1), np.log(max(float(scalars["probe_loss"]), 1e-6)) / 0.7))
    if "probe_accuracy" in scalars:
        parts.append(np.full((len(values), 1), float(scalars["probe_accuracy"]) / 0.15))
    series = np.concatenate(parts, axis=1)
    series[~np.isfinite(series)] = np.nan
    return series


def size_of(state: State) -> int:
    """Bytes of all tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())
