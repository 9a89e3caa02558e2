"""Many small panels with one scale, drawn as a few artists: a tenth of what an axes a panel costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.ticker import MaxNLocator

from microtome.plotting.style import FAINT, GRID, INK

TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 7.5, 7.5, 6.5
TICK = 0.025  # inches
POINTS_A_LINE = 400  # of a line in a small panel; more than it has pixels


@dataclass(frozen=True)
class SmallMultiples:
    """``count`` panels in rows of ``columns``, each ``width x height`` inches with its gap.

    One axes holds them all, its data coordinates inches from the lower left. ``x`` and ``y`` are the limits
    that every panel has.
    """

    ax: Axes
    count: int
    columns: int
    size: tuple[float, float]
    gap: tuple[float, float]
    x: tuple[float, float]
    y: tuple[float, float]

    @property
    def rows(self) -> int:
        """Rows of panels."""
        return -(-self.count // self.columns)

    def corner(self, index: int) -> tuple[float, float]:
        """Lower left of a panel's frame, in inches."""
        row, column = divmod(index, self.columns)
        return column * self.size[0], (self.rows - row - 1) * self.size[1]

    @property
    def frame(self) -> tuple[float, float]:
        """Width and height of a panel's frame, in inches."""
        across, up = (max(size - gap, 0.5 * size) for size, gap in zip(self.size, self.gap, strict=True))
        return across, up

    def place(
        self, x: Float[np.ndarray, "*n"], y: Float[np.ndarray, "*n"], panel: Int[np.ndarray, "*n"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inches of the points ``(x, y)`` of panels; what lies beyond the limits is put on them."""
        row, column = panel // self.columns, panel % self.columns
        left = column * self.size[0]
        bottom = (self.rows - row - 1) * self.size[1]
        across = (np.clip(x, min(self.x), max(self.x)) - self.x[0]) / (self.x[1] - self.x[0])
        up = (np.clip(y, *self.y) - self.y[0]) / (self.y[1] - self.y[0])
        return left + across * self.frame[0], bottom + up * self.frame[1]

    def curves(
        self,
        x: Float[np.ndarray, " S"],
        values: Float[np.ndarray, "n S"],
        panel: Int[np.ndarray, " n"],
        colours: Any,
        **how: Any,
    ) -> LineCollection:
        """A line for every row of ``values``, each in its panel."""
        steps = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS_A_LINE)).astype(int))
        shape = (len(values), len(steps))
        where = np.broadcast_to(np.asarray(panel)[:, None], shape)
        points = self.place(np.broadcast_to(x[steps], shape), values[:, steps], where)
        lines = LineCollection(list(np.stack(points, axis=-1)), colors=colours, **how)
        self.ax.add_collection(lines, autolim=False)
        return lines

    def bands(
        self,
        x: Float[np.ndarray, " S"],
        low: Float[np.ndarray, "n S"],
        high: Float[np.ndarray, "n S"],
        panel: Int[np.ndarray, " n"],
        colour: str,
    ) -> None:
        """The area between two curves, one in each panel."""
        around = np.concatenate([x, x[::-1]])
        edges = np.concatenate([low, high[:, ::-1]], axis=1)
        where = np.broadcast_to(np.asarray(panel)[:, None], edges.shape)
        points = self.place(np.broadcast_to(around, edges.shape), edges, where)
        self.ax.add_collection(
            PolyCollection(list(np.stack(points, axis=-1)), facecolors=colour, lw=0), autolim=False
        )

    def level(self, value: float) -> None:
        """A dotted line at one height of every panel."""
        self._across([value], FAINT, 0.7, ":")

    def _across(self, heights: Sequence[float], colour: str, width: float, style: str = "-") -> None:
        panels = np.arange(self.count).repeat(len(heights))
        ys = np.tile(np.asarray(heights, dtype=float), self.count)
        ends = [self.place(np.full(len(ys), end), ys, panels) for end in self.x]
        segments = list(np.stack([np.stack(end, axis=-1) for end in ends], axis=1))
        lines = LineCollection(segments, colors=colour, lw=width, ls=style, zorder=1)
        self.ax.add_collection(lines, autolim=False)

    def furniture(self, titles: Sequence[str], x_label: str, y_label: str, x_ticks: int = 2) -> None:
        """Frames, faint lines at the ticks, titles, and tick labels on the outer panels."""
        y_ticks = _ticks(self.y, 4)
        self._across(y_ticks, GRID, 0.6)
        across, up = self.frame
        corners = [self.corner(i) for i in range(self.count)]
        frames = [[(a, b + up), (a, b), (a + across, b)] for a, b in corners]
        marks: list[list[tuple[float, float]]] = []
        for index, (a, b) in enumerate(corners):
            self._text(a, b + up + 0.04, titles[index], TITLE_SIZE, va="bottom")
            if index % self.columns == 0:
                for value in y_ticks:
                    at = b + up * (value - self.y[0]) / (self.y[1] - self.y[0])
                    marks.append([(a - TICK, at), (a, at)])
                    self._text(a - 2 * TICK, at, _number(value), TICK_SIZE, ha="right", va="center")
                self._text(a - 0.42, b + up / 2, y_label, LABEL_SIZE, ha="center", va="center", rotation=90)
            if index + self.columns >= self.count:
                for value in _ticks(self.x, x_ticks):
                    at = a + across * (value - self.x[0]) / (self.x[1] - self.x[0])
                    marks.append([(at, b - TICK), (at, b)])
                    self._text(at, b - 2 * TICK, _number(value), TICK_SIZE, ha="center", va="top")
                self._text(a + across / 2, b - 0.19, x_label, LABEL_SIZE, ha="center", va="top")
        self.ax.add_collection(
            LineCollection([*frames, *marks], colors=FAINT, lw=0.7, zorder=2), autolim=False
        )

    def _text(self, x: float, y: float, words: str, size: float, **how: Any) -> None:
        self.ax.text(x, y, words, fontsize=size, color=INK, **how)


def block_axes(figure: Any, left: float, bottom: float, width: float, height: float) -> Axes:
    """Bare axes at a place of the figure in inches, with inches as data coordinates."""
    across, up = figure.get_size_inches()
    ax = figure.add_axes((left / across, bottom / up, width / across, height / up))
    ax.set_axis_off()
    ax.set_xlim(0, width)
    ax.set_ylim(0, height)
    return ax


def _ticks(limits: tuple[float, float], most: int) -> list[float]:
    low, high = sorted(limits)
    room = 1e-9 * (high - low)
    return [
        v
        for v in MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        if low - room <= v <= high + room
    ]


def _number(value: float) -> str:
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}") if abs(value) > 1e-12 else "0"
