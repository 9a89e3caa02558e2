"""A sweep's pictures. They take places and labels; nothing is computed here."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from microtome.plotting.style import (
    FAINT,
    INK,
    PALETTE,
    grid_shape,
    light_grid,
    note,
    panels,
    remove_unused,
    styled,
)
from microtome.sweep.picture_data import Axis

COLOURS = "viridis"
WHITE_BEHIND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}


@styled
def parallel_coordinates(
    axes: Sequence[Axis], score: Axis | None, failed: Sequence[bool], title: str, best: int | None = None
) -> Figure:
    """One line a trial through its parameters, coloured by the metric; the last axis is the key to it.

    Failed trials, and those without a metric, are grey, dashed and end before it; the best is thick, on top.
    """
    shown = [*axes, *([score] if score is not None else [])]
    figure = Figure(figsize=(max(4.6, 1.3 * len(shown) + 0.6), 3.9))
    ax = figure.subplots()
    x = np.arange(len(shown), dtype=float)
    places = np.array([axis.places for axis in shown])
    colours = _colours(score, failed)
    _draw_lines(ax, x, places, colours, best)
    for i, axis in enumerate(shown):
        if axis is score and len(axis.ticks) > 1:
            _colour_key(ax, float(i))
        ax.plot([i, i], [0, 1], color=INK, linewidth=0.9, zorder=4)
        for place, label in axis.ticks:
            ax.plot([i - 0.02, i + 0.02], [place, place], color=INK, linewidth=0.9, zorder=4)
            side = 0.07 if axis is score else 0.035
            ax.text(i + side, place, label, fontsize=7.5, va="center", zorder=5, bbox=WHITE_BEHIND)
        weight = "bold" if axis is score else "normal"
        ax.text(i, 1.05, wrapped(axis.label), fontsize=8.5, ha="center", va="bottom", weight=weight)
    ax.set_xlim(-0.35, len(shown) - 1 + 0.6)
    ax.set_ylim(-0.04, 1.04)
    ax.axis("off")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


@styled
def metric_by_parameter(axes: Sequence[Axis], score: Axis, title: str) -> Figure:
    """The metric over each parameter, one panel each, one dot a trial; failed trials at the lower edge."""
    rows, columns = grid_shape(len(axes), 4)
    figure, grid = panels(rows, columns, width=2.9, height=2.4, title=title)
    for ax, axis in zip(grid.ravel(), axes, strict=False):
        known = np.isfinite(score.places) & np.isfinite(axis.places)
        failed = ~np.isfinite(score.places) & np.isfinite(axis.places)
        ax.plot(
            axis.places[known], score.places[known], "o", color=PALETTE[0], markersize=4, alpha=0.6, mew=0
        )
        ax.plot(axis.places[failed], np.full(failed.sum(), -0.09), "x", color=FAINT, markersize=4.5)
        ax.set_xticks([place for place, _ in axis.ticks], [label for _, label in axis.ticks])
        if sum(len(label) for _, label in axis.ticks) > 26:
            ax.tick_params(axis="x", labelrotation=40)
            for label in ax.get_xticklabels():
                label.set_horizontalalignment("right")
        ax.set_yticks([place for place, _ in score.ticks], [label for _, label in score.ticks])
        ax.set(xlabel=axis.label, ylabel=score.label, xlim=(-0.08, 1.08), ylim=(-0.14, 1.08))
        light_grid(ax)
        if failed.any() and ax is grid.ravel()[0]:
            ax.plot([], [], "x", color=FAINT, markersize=4.5, label="no metric")
            ax.legend(loc="best", handletextpad=0.2)
    remove_unused(grid, len(axes))
    return figure


def wrapped(name: str, width: int = 15) -> str:
    """A dotted name on several lines, broken after dots and underscores."""
    pieces = name.replace(".", ".\0").replace("_", "_\0").replace("/", "/\0").split("\0")
    lines = [""]
    for piece in pieces:
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def _map() -> Colormap:
    return matplotlib.colormaps[COLOURS]


def _colours(score: Axis | None, failed: Sequence[bool]) -> list[Any]:
    if score is None:
        return [FAINT if bad else PALETTE[0] for bad in failed]
    return [_map()(float(place)) if np.isfinite(place) else FAINT for place in score.places]


def _colour_key(ax: Axes, x: float) -> None:
    """The colours along the metric's axis, as a narrow strip to its right."""
    strip = np.linspace(0, 1, 256)[:, None]
    ax.imshow(strip, cmap=_map(), extent=(x, x + 0.05, 0, 1), origin="lower", aspect="auto", zorder=3)


def _draw_lines(
    ax: Axes, x: np.ndarray, places: np.ndarray, colours: Sequence[Any], best: int | None
) -> None:
    n = places.shape[1]
    alpha = 0.9 if n <= 30 else 0.6
    segments = [np.column_stack([x, places[:, k]])[np.isfinite(places[:, k])] for k in range(n)]
    if len(x) == 1:  # nothing to connect: a dot each
        for k, segment in enumerate(segments):
            ax.plot(segment[:, 0], segment[:, 1], "o", color=colours[k], alpha=alpha)
    order = sorted(range(n), key=lambda k: (np.isfinite(places[-1, k]), -k))
    grey = [colours[k] == FAINT for k in order]
    lines = LineCollection(
        [segments[k] for k in order],
        colors=[colours[k] for k in order],
        linewidths=[0.8 if faint else 1.2 for faint in grey],
        linestyles=["--" if faint else "-" for faint in grey],
        alpha=alpha,
        zorder=2,
    )
    ax.add_collection(lines)
    if best is not None:
        ax.plot(*segments[best].T, color="white", linewidth=5.0, zorder=3, alpha=0.9)
        ax.plot(*segments[best].T, color=colours[best], linewidth=3.0, zorder=3)
    if n == 0:
        note(ax, "no trial has run yet")
