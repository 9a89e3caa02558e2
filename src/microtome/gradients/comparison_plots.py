"""The picture of two results against each other."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from microtome.plotting.style import FAINT, INK, colour, light_grid, panels, styled

if TYPE_CHECKING:
    from microtome.gradients.comparison import Comparison, LayerComparison

NAMED = 6


@styled
def comparison_figure(comparison: "Comparison") -> Figure:
    """Rank correlation of every layer, and both scores in the layer where they agree least."""
    figure, axes = panels(1, 2, width=4.6, height=3.6)
    _by_layer(axes[0, 0], comparison)
    layers = comparison.layers
    least = min(layers, key=lambda layer: np.nan_to_num(layers[layer].spearman, nan=1.0))
    _scores(axes[0, 1], layers[least], least, comparison.names)
    return figure


def _by_layer(ax: Axes, comparison: "Comparison") -> None:
    layers = list(comparison.layers)
    places = np.arange(len(layers))
    found = [comparison.layers[layer] for layer in layers]
    ax.plot(places, [one.spearman for one in found], "o-", color=colour(0), label="rank correlation")
    ax.plot(places, [one.overlap for one in found], "s:", color=colour(1), label="top 20 in common")
    if any(np.isfinite(one.ceiling) for one in found):
        ax.plot(places, [one.ceiling for one in found], "--", color=FAINT, label="same model, other samples")
    step = max(1, len(layers) // 12)
    ax.set_xticks(places[::step], [str(layer) for layer in layers[::step]])
    ax.set_ylim(min(-0.05, *(np.nan_to_num(one.spearman) for one in found)) - 0.05, 1.08)
    ax.set(xlabel="Layer", ylabel="Agreement", title="How alike the two rank")
    ax.legend(loc="lower left")
    light_grid(ax)


def _scores(ax: Axes, one: "LayerComparison", layer: int, names: tuple[str, str]) -> None:
    limit = max(np.abs(one.a).max(), np.abs(one.b).max(), 1e-9) * 1.15
    low = -limit if min(one.a.min(), one.b.min()) < 0 else 0.0
    ax.plot([low, limit], [low, limit], "--", color=FAINT, linewidth=0.8)
    ax.plot(one.a, one.b, ".", color=colour(0), markersize=2.5, alpha=0.6, rasterized=True)
    changed = one.most_changed(NAMED)
    ax.plot(one.a[changed], one.b[changed], "o", color=colour(1), markersize=4)
    placed: list[tuple[float, float]] = []
    for index in changed.tolist():
        here = (one.a[index] / (limit - low), one.b[index] / (limit - low))
        if any(abs(here[0] - x) < 0.12 and abs(here[1] - y) < 0.05 for x, y in placed):
            continue
        placed.append(here)
        ax.annotate(
            str(index),
            (one.a[index], one.b[index]),
            xytext=(5, 2),
            textcoords="offset points",
            fontsize=7.5,
            color=INK,
        )
    ax.set(
        xlim=(low, limit),
        ylim=(low, limit),
        xlabel=f"{_short(names[0])} (mean |score| = 1)",
        ylabel=f"{_short(names[1])} (mean |score| = 1)",
        title=f"Layer {layer}, where they agree least",
    )


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:14]}…{name[-13:]}"
