"""Pictures of dictionaries. Arrays in, Figure out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from microtome.plotting.style import (
    FAINT,
    PALETTE,
    grid_shape,
    light_grid,
    line_colours,
    note,
    panels,
    styled,
)

LINES = {"fvu": "FVU", "l0": "features an input (L0)", "dead": "dead features"}


@styled
def training_curves(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Figure:
    """Fraction of variance unexplained, L0 and dead share against the step, one line a dictionary."""
    figure, axes = panels(1, 3, width=3.1, height=2.5)
    steps = [row["step"] for row in rows]
    colours = _colours(len(names))
    for ax, (key, label) in zip(axes[0], LINES.items(), strict=True):
        for name, colour in zip(names, colours, strict=True):
            values = np.array([row.get(f"{name}/{key}", np.nan) for row in rows], dtype=float)
            ax.plot(steps, values, color=colour, lw=1.2, label=name)
        ax.set(xlabel="step", title=label)
        light_grid(ax)
        if key == "fvu":
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if _leading(value) in (2, 5) else "")
        elif key == "dead":
            ax.set_ylim(bottom=0.0, top=max(0.05, ax.get_ylim()[1]))
            ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        else:
            ax.set_ylim(bottom=0.0)
    _legend(figure, axes[0, 0], len(names))
    return figure


@styled
def quality(
    names: Sequence[str],
    l0: Sequence[float],
    fvu: Sequence[float],
    pca: Sequence[np.ndarray],
) -> Figure:
    """FVU against the number of active features: a dot a dictionary, and the line of principal components.

    ``pca[i][r]``: what ``r`` components leave over. A dot below its own line beats PCA of the same rank.
    """
    figure, axes = panels(1, 1, width=5.2, height=3.3)
    ax = axes[0, 0]
    colours = _colours(len(names))
    lowest = min(
        min(fvu),
        *(float(curve[min(len(curve) - 1, round(3 * n) + 1)]) for curve, n in zip(pca, l0, strict=True)),
    )
    for name, x, y, curve, colour in zip(names, l0, fvu, pca, colours, strict=True):
        rank = np.arange(1, len(curve))
        ax.plot(rank, curve[1:], color=colour, lw=1.0, alpha=0.75)
        ax.plot([x], [y], "o", ms=6.5, color=colour, mec="white", mew=0.8, label=name, zorder=3)
    ax.set(
        xlabel="features an input, or rank",
        ylabel="FVU on held-out data",
        xscale="log",
        yscale="log",
        ylim=(max(lowest * 0.6, 1e-4), 1.3),
        title="dots: dictionaries; lines: principal components",
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda *_: "")
    ax.grid(True, which="major")
    _legend(figure, ax, len(names))
    return figure


@styled
def densities(density: Mapping[str, np.ndarray], n_inputs: int) -> Figure:
    """Histograms of how often each feature acts, in powers of ten, one panel a dictionary.

    Features that never act are counted in the title; the dotted line is one action in all inputs.
    """
    rows, columns = grid_shape(len(density), max_columns=4)
    figure, axes = panels(rows, columns, width=2.6, height=2.0, sharex=True, sharey=True)
    lowest = np.log10(0.5 / max(n_inputs, 1))
    edges = np.linspace(lowest, 0, 25)
    for ax, (name, values) in zip(axes.flat, density.items(), strict=False):
        living = values[values > 0]
        ax.hist(np.log10(living), bins=edges, color=PALETTE[0], alpha=0.85, lw=0)
        ax.axvline(np.log10(1 / max(n_inputs, 1)), color=FAINT, lw=0.9, ls=":")
        ax.set_title(f"{name}: {len(values) - len(living):,} of {len(values):,} dead")
        light_grid(ax)
        if not len(living):
            note(ax, "no feature acts")
        ax.xaxis.set_major_formatter(
            lambda value, _: f"{10**value:.0e}".replace("e-0", "e-").replace("e+00", "")
        )
    for ax in axes.flat[len(density) :]:
        ax.set_axis_off()
    for ax in axes[-1]:
        ax.set_xlabel("share of inputs")
    for ax in axes[:, 0]:
        ax.set_ylabel("features")
    return figure


def _colours(n: int) -> list[Any]:
    return list(PALETTE[:n]) if n <= 8 else list(line_colours(n))


def _leading(value: float) -> int:
    return round(value / 10 ** np.floor(np.log10(value))) if value > 0 else 0


def _legend(figure: Figure, ax: Any, n: int) -> None:
    if 1 < n <= 12:
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=min(n, 4))
    elif n > 12:
        first, last = ax.get_legend_handles_labels()[1][0], ax.get_legend_handles_labels()[1][-1]
        figure.suptitle(f"dark to light: {first} to {last}", x=0.01, ha="left", fontsize=9)
