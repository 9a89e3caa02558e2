"""Pictures of what a network holds: attention patterns, filters, activations; before beside after."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from microtome.dynamics.spatial_patterns import TurnedFilters
from microtome.plotting.style import (
    INK,
    grid_shape,
    heatmap,
    integer_ticks,
    panels,
    remove_unused,
    styled,
    symmetric_limit,
)

MOST_TICKS = 12
SIDE_LABEL = 12  # letters


@styled
def attention_figure(
    pattern: Float[np.ndarray, "Q K"], tokens: Sequence[str] | None = None, title: str = "Attention"
) -> Figure:
    """One pattern: who looks (rows) at whom (columns)."""
    side = float(np.clip(2.2 + 0.16 * max(pattern.shape), 3.4, 7.0))
    figure, axes = panels(1, 1, width=side + 1.1, height=side)
    names = None if tokens is None else [str(token) for token in tokens]
    fits = names is not None and len(names) == pattern.shape[1]
    heatmap(
        axes[0, 0],
        pattern,
        x_label="Key" if fits else "Key position",
        y_label="Query" if fits else "Query position",
        title=title,
        scale_label="Attention",
        x_ticks=names if fits else None,
        y_ticks=names if fits and len(names or ()) == pattern.shape[0] else None,
        equal=True,
        most_ticks=24 if fits else MOST_TICKS,
    )
    if fits:
        axes[0, 0].tick_params(axis="x", labelrotation=90)
    return figure


@styled
def attention_heads_figure(
    before: Float[np.ndarray, "H Q K"],
    after: Float[np.ndarray, "H Q K"],
    num_heads: int = 4,
    names: tuple[str, str] = ("Before", "After"),
    title: str = "",
) -> Figure:
    """The first heads before (top) and after (bottom), all on one colour scale."""
    heads = max(1, min(num_heads, len(before), len(after)))
    figure, axes = panels(2, heads, width=max(2.2, 3.6 / heads), height=2.2, title=title or None)
    limit = symmetric_limit(before[:heads], after[:heads])
    image: Any = None
    for row, (patterns, name) in enumerate(zip((before, after), names, strict=True)):
        for head in range(heads):
            image = heatmap(
                axes[row, head],
                patterns[head],
                title=f"{name}, head {head}",
                limit=limit,
                equal=True,
                x_label="Key" if row else "",
                y_label="" if head else "Query",
                most_ticks=5,
            )
    _bar(figure, image, axes, "Attention")
    return figure


@styled
def filter_figure(
    patterns: Sequence[Float[np.ndarray, "rows columns"]], title: str = "Filters", input_channels: int = 1
) -> Figure:
    """Filters as pictures, on one diverging scale."""
    rows, columns = grid_shape(len(patterns), 8)
    figure, axes = panels(
        rows,
        columns,
        width=max(1.15, 3.6 / columns),
        height=1.2,
        title=_filter_title(input_channels, title),
    )
    limit = symmetric_limit(*patterns)
    image: Any = None
    for index, one in enumerate(patterns):
        ax = axes.ravel()[index]
        image = heatmap(ax, one, title=str(index), signed=True, limit=limit, equal=True)
        ax.set(xticks=[], yticks=[])
    remove_unused(axes, len(patterns))
    _bar(figure, image, axes.ravel()[: len(patterns)], "Weight")
    return figure


@styled
def filters_before_after_figure(
    turned: TurnedFilters, names: tuple[str, str] = ("Before", "After"), title: str = "Filters"
) -> Figure:
    """Filters before above after, on one scale, with the cosine between the two."""
    n = len(turned.index)
    figure, axes = panels(
        2, n, width=max(1.25, 3.6 / n), height=1.3, title=_filter_title(turned.input_channels, title)
    )
    limit = symmetric_limit(*(one for pair in turned.pairs for one in pair))
    image: Any = None
    for column, pair in enumerate(turned.pairs):
        told = (f"filter {turned.index[column]}", f"cosine {turned.cosine[column]:.2f}")
        for row, one in enumerate(pair):
            ax = axes[row, column]
            image = heatmap(ax, one, title=told[row], signed=True, limit=limit, equal=True)
            ax.set(xticks=[], yticks=[], ylabel=_side_label(names[row]) if column == 0 else "")
    _bar(figure, image, axes, "Weight")
    return figure


def _side_label(name: str) -> str:
    """A name beside a small panel, in lines that are no longer than it is high."""
    return textwrap.fill(name.replace("_", " "), SIDE_LABEL)


def _filter_title(input_channels: int, title: str) -> str:
    if input_channels == 1:
        return title
    return f"{title}\n(strongest spatial pattern of {input_channels} input channels)"


def _bar(figure: Figure, image: Any, axes: Any, label: str) -> None:
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


@styled
def activation_figure(
    activations: Float[np.ndarray, "B F"],
    labels: np.ndarray | None = None,
    title: str = "Activations",
) -> Figure:
    """Samples (rows, sorted by class) by units (columns)."""
    order = np.arange(len(activations)) if labels is None else np.argsort(labels, kind="stable")
    width = float(np.clip(2.5 + 0.02 * activations.shape[1], 4.5, 8.0))
    figure, axes = panels(1, 1, width=width, height=4.0)
    ax = axes[0, 0]
    signed = bool((activations < 0).any())
    heatmap(
        ax,
        activations[order],
        x_label="Unit",
        y_label="Sample" if labels is None else "Class",
        title=title,
        signed=signed,
        scale_label="Activation",
    )
    if labels is not None:
        classes, counts = np.unique(labels, return_counts=True)
        ends = np.cumsum(counts)
        for end in ends[:-1]:
            ax.axhline(end - 0.5, color=INK, linewidth=0.6)
        shown = integer_ticks(len(classes))
        ax.set_yticks([(ends - counts / 2 - 0.5)[i] for i in shown], [str(classes[i]) for i in shown])
    return figure
