"""What pictures of probes share: rows by name, panels by label, curves over depth with their bands."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from microtome.comparison.part import Part, Row
from microtome.comparison.probe_arrays import key
from microtome.plotting.style import (
    grid_shape,
    panels,
    remove_unused,
)

MANY = 20  # layers above which dots are left out
MOST_PANELS = 12


@dataclass(frozen=True)
class Drawn:
    """A part with the names that its rows speak of, in their order."""

    part: Part
    tasks: tuple[str, ...]
    arms: tuple[str, ...]
    layers: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, part: Part) -> "Drawn":
        linear = [row for row in part.rows if row.statistic == "linear accuracy"]
        pairs = [(row.arm, row.other) for row in part.rows if row.statistic == "linear accuracy difference"]
        return cls(
            part,
            tuple(dict.fromkeys(row.label for row in linear)),
            tuple(dict.fromkeys(row.arm for row in linear)),
            tuple(dict.fromkeys(row.layer for row in linear)),
            tuple(dict.fromkeys(pairs)),
        )

    def rows(self, statistic: str, arm: str, task: str | None = None, other: str = "") -> list[Row]:
        """Rows of one statistic of an arm, or of a pair; of one task where it is given."""
        return [
            row
            for row in self.part.rows
            if row.statistic == statistic
            and row.arm == arm
            and row.other == other
            and task in (None, row.label)
        ]

    def of_layers(self, rows: Sequence[Row]) -> list[Row]:
        """One task's rows in the order of the layers."""
        by_layer = {row.layer: row for row in rows}
        return [by_layer[layer] for layer in self.layers if layer in by_layer]

    def null_band(self, task: str, arm: str) -> np.ndarray:
        """The middle 95 % of accuracies under permuted labels, ``[2, layers]``."""
        return np.quantile(self.part.arrays[key(task, arm, "null")], (0.025, 0.975), axis=1)


def task_panels(drawn: Drawn, title: str, height: float = 2.7) -> tuple[Figure, list[Axes]]:
    """A panel a label; more than twelve are cut off."""
    n = min(len(drawn.tasks), MOST_PANELS)
    rows, columns = grid_shape(n, 3)
    width = {1: 5.8, 2: 4.2}.get(columns, 3.4)
    figure, axes = panels(rows, columns, width=width, height=height, title=title, sharex=False)
    remove_unused(axes, n)
    return figure, list(axes.ravel()[:n])


def curve(
    ax: Axes, rows: Sequence[Row], color: str, label: str, line: str = "o-", shade: float = 0.15
) -> None:
    """One statistic over the layers with the band of its interval."""
    if not rows:
        return
    x = np.arange(len(rows))
    if all(row.low is not None and row.high is not None for row in rows):
        low, high = (np.array([getattr(row, side) for row in rows], dtype=float) for side in ("low", "high"))
        ax.fill_between(x, low, high, color=color, alpha=shade, linewidth=0)
    size = 3.5 if len(rows) <= MANY else 2.0
    ax.plot(x, [row.value for row in rows], line, color=color, label=label, markersize=size)


def band(ax: Axes, limits: np.ndarray, color: str, label: str) -> None:
    """A shaded band over the layers, ``[2, layers]``."""
    ax.fill_between(np.arange(limits.shape[1]), *limits, color=color, alpha=0.22, linewidth=0, label=label)


def untrained_curve(
    ax: Axes, drawn: Drawn, task: str, arm: str, kind: str, color: str, label: str = "untrained networks"
) -> None:
    """Untrained networks: their mean, dashed, and each one as a dot where layers are few."""
    values = drawn.part.arrays.get(key(task, arm, kind, "untrained"))
    if values is None:
        return
    x = np.arange(len(values))
    ax.plot(x, values.mean(1), "--", color=color, linewidth=1.1, label=label)
    if len(values) <= MANY:
        ax.plot(x, values, ".", color=color, markersize=2.5, alpha=0.8)
