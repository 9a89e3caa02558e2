"""Pictures of what a network holds: attention patterns, filters, activations; before beside after."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

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
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02)
    bar.set_label("Attention", fontsize=8)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure


@styled
def filter_figure(
    filters: Float[np.ndarray, "out inputs *kernel"],
    num_filters: int = 16,
    title: str = "Filters",
) -> Figure:
    """The first filters, on one diverging scale. Of several input channels the strongest spatial pattern."""
    shown = [spatial_pattern(one) for one in filters[: max(1, num_filters)]]
    rows, columns = grid_shape(len(shown), 8)
    figure, axes = panels(
        rows, columns, width=max(1.15, 3.6 / columns), height=1.2, title=_filter_title(filters, title)
    )
    limit = symmetric_limit(*shown)
    image: Any = None
    for index, one in enumerate(shown):
        ax = axes.ravel()[index]
        image = heatmap(ax, one, title=str(index), signed=True, limit=limit, equal=True)
        ax.set(xticks=[], yticks=[])
    remove_unused(axes, len(shown))
    _weight_bar(figure, image, axes.ravel()[: len(shown)])
    return figure


@styled
def filters_before_after_figure(
    before: Float[np.ndarray, "out inputs *kernel"],
    after: Float[np.ndarray, "out inputs *kernel"],
    num_filters: int = 8,
    names: tuple[str, str] = ("Before", "After"),
    title: str = "Filters",
) -> Figure:
    """The filters that turned most, before above after, on one scale, with the cosine between the two."""
    from microtome.measures.weight_change import unit_cosines

    cosines = unit_cosines(before, after)
    chosen = np.argsort(cosines, kind="stable")[: max(1, num_filters)]
    figure, axes = panels(
        2, len(chosen), width=max(1.25, 3.6 / len(chosen)), height=1.3, title=_filter_title(before, title)
    )
    pairs = [_aligned(spatial_pattern(before[i]), spatial_pattern(after[i])) for i in chosen]
    limit = symmetric_limit(*(one for pair in pairs for one in pair))
    image: Any = None
    for column, (index, pair) in enumerate(zip(chosen, pairs, strict=True)):
        for row, one in enumerate(pair):
            ax = axes[row, column]
            words = f"filter {index}" if row == 0 else f"cosine {cosines[index]:.2f}"
            image = heatmap(ax, one, title=words, signed=True, limit=limit, equal=True)
            ax.set(xticks=[], yticks=[], ylabel=_side_label(names[row]) if column == 0 else "")
    _weight_bar(figure, image, axes)
    return figure


def _side_label(name: str) -> str:
    """A name beside a small panel, in lines that are no longer than it is high."""
    return textwrap.fill(name.replace("_", " "), SIDE_LABEL)


def spatial_pattern(one: Float[np.ndarray, "inputs *kernel"]) -> Float[np.ndarray, "rows columns"]:
    """A filter as one picture: itself for one input channel, else its strongest spatial pattern.

    That is the first right singular vector of ``[inputs, kernel]`` times its singular value, with the sign of
    most of its weight. One- and three-dimensional kernels are laid out in rows.
    """
    kernel = one.shape[1:]
    flat = one.reshape(len(one), -1).astype(np.float64)
    if len(flat) > 1:
        left, sizes, right = np.linalg.svd(flat, full_matrices=False)
        flat = right[:1] * sizes[0] * (np.sign(left[:, 0].sum()) or 1.0)
    if len(kernel) == 2:
        return flat.reshape(kernel)
    if len(kernel) > 2:
        return flat.reshape(kernel[0], -1)
    return flat.reshape(1, -1)


def _aligned(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A singular vector's sign is arbitrary: turn the second to agree with the first."""
    return (before, after if (before * after).sum() >= 0 else -after)


def _filter_title(filters: np.ndarray, title: str) -> str:
    if filters.shape[1] == 1:
        return title
    return f"{title}\n(strongest spatial pattern of {filters.shape[1]} input channels)"


def _weight_bar(figure: Figure, image: Any, axes: Any) -> None:
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("Weight", fontsize=8)
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
