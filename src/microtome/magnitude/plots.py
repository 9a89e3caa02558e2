"""The unified grid: neurons, output, causal importances, gate outputs and gate inputs against magnitude."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from microtome.magnitude.families import Family, GridData, activity, of_components
from microtome.magnitude.small_multiples import SmallMultiples, block_axes
from microtome.plotting.style import FAINT, light_grid, note, styled

COLUMNS = 10
SPAN = 2  # an overview panel is as wide and as high as two of the small ones
LEGEND_COLUMNS = 10
X_LABEL = "input magnitude"
WORDS = "#656d76"
# Margins and gaps in inches, so that panels of any size read alike.
LEFT, RIGHT, TOP, BOTTOM, BETWEEN, GAP = 0.85, 0.2, 0.86, 0.5, 0.62, (0.22, 0.32)


@styled
def unified_grid(
    data: GridData,
    *,
    feature: int,
    site: str,
    figsize_per_subplot: tuple[float, float] = (2.0, 1.5),
    pre_activation: bool = False,
    summary_only: bool = False,
    ci_threshold: float = 0.1,
    seed_name: str = "",
) -> Figure:
    """An overview row (one panel a family, a line a neuron or component), then a panel each.

    Neurons are coloured by index in viridis, components in plasma, in both parts alike. Neurons share one
    scale, importances run from 0 to 1, gate outputs and gate inputs share a scale each.
    """
    families = [*activity(data, pre_activation, feature), *of_components(data, ci_threshold)]
    rows = _rows([] if summary_only else _with_panels(families))
    figure = Figure(figsize=_size(rows, figsize_per_subplot))
    figure.set_layout_engine("none")
    top = figure.get_figheight() - TOP
    heading = ", ".join(filter(None, (f"Feature {feature}", site, seed_name)))
    title_at = 1 - 0.12 / figure.get_figheight()
    figure.suptitle(heading, x=0.01, y=title_at, ha="left", va="top")
    _overview_row(figure, families, data, top, figsize_per_subplot)
    if len(data.components):
        _name_components(figure, data.components, families[-1].colours, title_at)
    upper = top - SPAN * figsize_per_subplot[1]
    for row in rows:
        upper -= BETWEEN + _height(row) * figsize_per_subplot[1]
        for family, start in row:
            _one_each(figure, upper, family, start, data.magnitudes, figsize_per_subplot)
    return figure


def _name_components(figure: Figure, components: np.ndarray, colours: Sequence[Any], top: float) -> None:
    """A legend of the components on the title's line, where it covers no data."""
    figure.legend(
        [Line2D([], [], color=colour, lw=2) for colour in colours],
        [f"component {c}" for c in components],
        loc="upper right",
        bbox_to_anchor=(1 - 0.2 / figure.get_figwidth(), top),
        ncols=LEGEND_COLUMNS,
        columnspacing=1.2,
        handlelength=1.4,
        borderaxespad=0,
        borderpad=0,
    )


Row = list[tuple[Family, float]]  # families with the column in which each starts


def _rows(families: Sequence[Family]) -> list[Row]:
    """Families one under the other; narrow ones beside each other with half a column between them."""
    rows: list[Row] = []
    free = 0.0
    for family in families:
        wide = min(len(family.names), COLUMNS)
        if rows and wide <= 3 and all(len(f.names) <= 3 for f, _ in rows[-1]) and free + wide <= COLUMNS:
            rows[-1].append((family, free))
        else:
            rows.append([(family, 0.0)])
            free = 0.0
        free += wide + 0.5
    return rows


def _height(row: Row) -> int:
    return max(-(-len(family.names) // COLUMNS) for family, _ in row)


def _size(rows: Sequence[Row], panel: tuple[float, float]) -> tuple[float, float]:
    panels = (SPAN + sum(_height(row) for row in rows)) * panel[1]
    return LEFT + COLUMNS * panel[0] + RIGHT, TOP + panels + BETWEEN * len(rows) + BOTTOM


def figure_size(data: GridData, panel: tuple[float, float], summary_only: bool) -> tuple[float, float]:
    """Width and height in inches that ``unified_grid`` will have."""
    families = [*activity(data, False, 0), *of_components(data, 0.0)]
    return _size(_rows([] if summary_only else _with_panels(families)), panel)


def _with_panels(families: Sequence[Family]) -> list[Family]:
    return [f for f in families if f.each and f.values is not None and f.values.size]


def _overview_row(
    figure: Figure, families: Sequence[Family], data: GridData, top: float, panel: tuple[float, float]
) -> None:
    across, up = figure.get_size_inches()
    width, height = (SPAN * size for size in panel)
    left = LEFT
    pad = 9.0 + 9.0 * max(1 + family.words.count("\n") for family in families)
    for family in families:
        box = (left / across, (top - height) / up, (width - 0.75) / across, height / up)
        _overview(figure.add_axes(box), family, data.magnitudes, pad)
        left += width
    if data.activations is not None:
        words = f"no gates: {data.importance_note}" if data.importance_note else "no gates in this method"
        middle = (left + (across - RIGHT)) / 2
        figure.text(
            middle / across,
            (top - height / 2) / up,
            words,
            ha="center",
            va="center",
            color=FAINT,
            fontsize=8.5,
        )


def _overview(ax: Axes, family: Family, magnitudes: np.ndarray, pad: float) -> None:
    ax.set_title(family.title, pad=pad)
    ax.set(xlabel=X_LABEL)
    ax.set_xlim(magnitudes[0], magnitudes[-1])
    if family.values is None or not family.values.size:
        note(ax, family.missing or "nothing to draw")
        ax.set(xticks=[], yticks=[])
        return
    if family.words:
        ax.annotate(
            family.words, (0, 1), (0, 6), "axes fraction", textcoords="offset points", color=WORDS, fontsize=7
        )
    lines = family.values.T
    count = len(lines)
    thick = 1.1 if family.own is None else 0.6
    widths = [2.0 if i == family.own else thick for i in range(count)]
    order = [i for i in range(count) if i != family.own] + ([] if family.own is None else [family.own])
    segments = [np.column_stack([magnitudes, lines[i]]) for i in order]
    colours, wide = [family.colours[i] for i in order], [widths[i] for i in order]
    ax.add_collection(LineCollection(segments, colors=colours, linewidths=wide, zorder=2), autolim=False)
    ax.set_ylabel(family.label)
    if family.limits is not None:
        ax.set_ylim(*family.limits)
    if family.threshold is not None:
        ax.axhline(family.threshold, color=FAINT, lw=0.8, ls=":")
    light_grid(ax)


def _one_each(
    figure: Figure,
    bottom: float,
    family: Family,
    start: float,
    magnitudes: np.ndarray,
    panel: tuple[float, float],
) -> None:
    """A small panel a line: one scale throughout, labelled on the outer ones only."""
    assert family.values is not None
    count = len(family.names)
    columns = min(COLUMNS, count)
    height = -(-count // columns) * panel[1]
    ax = block_axes(figure, LEFT + start * panel[0], bottom, columns * panel[0], height)
    ends = float(magnitudes[0]), float(magnitudes[-1])
    small = SmallMultiples(ax, count, columns, panel, GAP, ends, family.limits or (0.0, 1.0))
    small.furniture(family.names, X_LABEL, family.label)
    if family.threshold is not None:
        small.level(family.threshold)
    small.curves(magnitudes, family.values.T, np.arange(count), list(family.colours), lw=1.4, zorder=3)
