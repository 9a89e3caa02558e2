"""Pictures of scores: histograms and scatters, of one layer, of one layer in both modes, of all layers."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from microtome.gradients.names import Kind
from microtome.gradients.result import strongest
from microtome.plotting.style import (
    FAINT,
    INK,
    PALETTE,
    grid_shape,
    light_grid,
    panels,
    remove_unused,
    styled,
)

BINS = 100
MARKED = 20
COLUMNS = 6
POINTS_DRAWN = 5000  # more are drawn as a picture of their density, which takes the same time for any number
BULK, MEAN_LINE, STRONGEST = PALETTE[0], PALETTE[1], PALETTE[1]
Values = Float[np.ndarray, " D"]

_QUANTITIES = {
    "gradients": ("gradient", "nats per unit"),
    "active_gradients": ("gradient where active", "nats per unit"),
    "attribution": ("attribution", "nats per token"),
    "values": ("activation", "units of the activation"),
}


@dataclass(frozen=True)
class Labels:
    """Words on the axes."""

    value: str
    index: str
    plural: str


def labels(name: str, kind: Kind, note: str = "") -> Labels:
    """Words for a score such as ``gradients_mean_abs``; ``note`` stands for its unit (``normalised``)."""
    quantity = next((q for q in sorted(_QUANTITIES, key=len, reverse=True) if name.startswith(q)), "")
    words, unit = _QUANTITIES.get(quantity, (name.replace("_", " "), ""))
    if name.endswith("mean_abs"):
        words = f"mean |{words}|"
    elif name.endswith("mean"):
        words = f"mean {words}"
    unit = note or unit
    index, plural = ("Feature", "features") if kind == "features" else ("Dimension", "dimensions")
    return Labels(f"{words[0].upper()}{words[1:]}{f' ({unit})' if unit else ''}", index, plural)


@styled
def histogram(values: Values, labels: Labels, title: str = "") -> Figure:
    """How one layer's scores are spread, with their mean."""
    figure, axes = panels(width=5.2, height=3.2)
    _histogram(axes[0, 0], values, labels, title)
    return figure


@styled
def scatter(values: Values, labels: Labels, title: str = "") -> Figure:
    """One layer's scores by index; the largest absolute values are stars with their indices."""
    figure, axes = panels(width=7.0, height=3.4)
    _scatter(axes[0, 0], values, labels, title, named=5)
    return figure


@styled
def both_histograms(mean: Values, mean_abs: Values, labels: tuple[Labels, Labels], title: str) -> Figure:
    """One layer's signed and absolute scores side by side."""
    figure, axes = panels(1, 2, width=4.6, height=3.2, title=title)
    for ax, values, words in zip(axes[0], (mean, mean_abs), labels, strict=True):
        _histogram(ax, values, words)
    return figure


@styled
def both_scatters(mean: Values, mean_abs: Values, labels: tuple[Labels, Labels], title: str) -> Figure:
    """One layer's signed and absolute scores by index, one below the other."""
    figure, axes = panels(2, 1, width=7.0, height=2.9, title=title, sharex=True)
    for ax, values, words in zip(axes[:, 0], (mean, mean_abs), labels, strict=True):
        _scatter(ax, values, words, named=5)
    axes[0, 0].set_xlabel("")
    return figure


@styled
def all_histograms(data: Mapping[int, Values], labels: Labels) -> Figure:
    """Every layer's spread, one panel each."""
    figure, axes = _grid(len(data), labels.value)
    for (layer, values), ax in zip(data.items(), axes.ravel(), strict=False):
        _histogram(ax, values, labels, f"Layer {layer}", small=True)
    _outer_labels(figure, axes, len(data), labels.value, f"Number of {labels.plural}")
    return figure


@styled
def all_scatters(data: Mapping[int, Values], labels: Labels) -> Figure:
    """Every layer's scores by index, one panel each; each panel has its own scale."""
    figure, axes = _grid(len(data), labels.value)
    for (layer, values), ax in zip(data.items(), axes.ravel(), strict=False):
        _scatter(ax, values, labels, f"Layer {layer}", small=True)
    _outer_labels(figure, axes, len(data), labels.index, labels.value)
    return figure


def _histogram(ax: Axes, values: Values, labels: Labels, title: str = "", small: bool = False) -> None:
    finite = values[np.isfinite(values)].astype(np.float64)
    counts, edges = np.histogram(finite, bins=BINS, range=_span(finite))
    ax.stairs(counts, edges, fill=True, color=BULK, alpha=0.75)
    average = float(finite.mean()) if len(finite) else 0.0
    ax.axvline(average, color=MEAN_LINE, linestyle="--", linewidth=1.2)
    # A few extreme values would hide everything else on a linear scale of counts.
    ax.set_yscale("symlog", linthresh=1)
    ax.set_ylim(0, max(counts.max(initial=1), 1) * 2)
    ax.set(title=title)
    _short_ticks(ax, small)
    if not small:
        ax.set(xlabel=labels.value, ylabel=f"Number of {labels.plural}")
        right = average < (edges[0] + edges[-1]) / 2
        ax.text(
            0.98 if right else 0.02,
            0.97,
            f"- - mean {average:.3g}",
            transform=ax.transAxes,
            ha="right" if right else "left",
            va="top",
            color=MEAN_LINE,
            fontsize=8,
        )
    light_grid(ax)


def _scatter(
    ax: Axes, values: Values, labels: Labels, title: str = "", named: int = 0, small: bool = False
) -> None:
    index = np.arange(len(values))
    if len(values) > POINTS_DRAWN:
        _density(ax, values, (150, 60) if small else (500, 150))
    else:
        size = 1.2 if small else 2.0
        ax.plot(index, values, ".", color=BULK, markersize=size, alpha=0.7, rasterized=True)
    top = strongest(values, MARKED)
    ax.plot(index[top], values[top], "*", color=STRONGEST, markersize=4.5 if small else 7, markeredgewidth=0)
    average = float(np.nanmean(values)) if len(values) else 0.0
    ax.axhline(average, color=INK, linestyle="--", linewidth=0.9)
    ax.set_xlim(-0.02 * len(values), 1.02 * len(values))
    low, high = _span(values[np.isfinite(values)])
    ax.set_ylim(low - 0.06 * (high - low), high + 0.1 * (high - low))
    ax.set(title=title)
    _short_ticks(ax, small)
    if not small:
        ax.set(xlabel=labels.index, ylabel=labels.value)
        where = (1.0, 1.02)
        words = f"★ {len(top)} strongest    - - mean {average:.3g}"
        ax.text(*where, words, transform=ax.transAxes, ha="right", va="bottom", color=FAINT, fontsize=8)
        _name_points(ax, index[top], values[top], named)


def _name_points(ax: Axes, index: np.ndarray, values: np.ndarray, named: int) -> None:
    """Indices beside the first few stars, where they cover no other star and no other number."""
    low, high = ax.get_ylim()
    span_x, span_y = max(ax.get_xlim()[1], 1), max(high - low, 1e-300)
    stars = [(x / span_x, (y - low) / span_y) for x, y in zip(index, values, strict=True)]
    taken: list[tuple[float, float]] = []
    for place, (x, y) in enumerate(zip(index[:named].tolist(), values[:named].tolist(), strict=True)):
        here = stars[place]
        others = [*stars[:place], *stars[place + 1 :], *taken]
        # The middle of the words, on either side of the star.
        sides = [(left, (here[0] + (-0.05 if left else 0.05), here[1])) for left in (False, True)]
        free = [
            (left, middle)
            for left, middle in sides
            if 0 < middle[0] < 0.97
            and not any(abs(middle[0] - a) < 0.055 and abs(middle[1] - b) < 0.07 for a, b in others)
        ]
        if not free:
            continue
        left, middle = free[0]
        taken.append(middle)
        ax.annotate(
            str(x),
            (x, y),
            xytext=(-5 if left else 5, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=7.5,
        )


def _density(ax: Axes, values: Values, cells: tuple[int, int]) -> None:
    """All points as one picture: darker where more of them share a cell, never paler than can be seen."""
    finite = np.where(np.isfinite(values), values, 0.0)
    low, high = _span(finite)
    counts, _, _ = np.histogram2d(
        np.arange(len(finite)), finite, bins=cells, range=((0, len(finite)), (low, high))
    )
    shades = ListedColormap([(*_rgb(BULK), alpha) for alpha in np.linspace(0.45, 1.0, 64)])
    shades.set_bad(alpha=0.0)
    image = np.ma.masked_equal(np.log2(1 + counts.T), 0)
    ax.imshow(
        image,
        origin="lower",
        extent=(0, len(finite), low, high),
        aspect="auto",
        cmap=shades,
        interpolation="nearest",
    )


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _span(values: np.ndarray) -> tuple[float, float]:
    """Smallest and largest value, never the same."""
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if low == high:
        pad = abs(low) * 0.5 or 0.5
        return low - pad, high + pad
    return low, high


def _grid(n: int, title: str) -> tuple[Figure, np.ndarray]:
    rows, columns = grid_shape(n, COLUMNS)
    figure, axes = panels(rows, columns, width=2.2, height=1.7, title=f"{title}, layer by layer")
    remove_unused(axes, n)
    return figure, axes


def _outer_labels(figure: Figure, axes: np.ndarray, n: int, below: str, beside: str) -> None:
    figure.supxlabel(below, fontsize=9)
    # On one or two rows a long label would run into the title, which says the same.
    if len(axes) > 2 or len(beside) < 24:
        figure.supylabel(beside, fontsize=9)
    for ax in axes.ravel()[:n]:
        ax.tick_params(labelsize=6.5)


def _short_ticks(ax: Axes, small: bool) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(3 if small else 6))
    ax.ticklabel_format(axis="x", style="sci", scilimits=(-3, 5))
    ax.xaxis.get_offset_text().set_fontsize(6.5 if small else 8)
    if ax.get_yscale() == "linear":
        ax.yaxis.set_major_locator(MaxNLocator(4 if small else 6))
        ax.ticklabel_format(axis="y", style="sci", scilimits=(-3, 5))
        ax.yaxis.get_offset_text().set_fontsize(6.5 if small else 8)
