"""The picture of two results against each other."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from microtome.plotting.style import FAINT, INK, colour, light_grid, panels, shortened, styled

if TYPE_CHECKING:
    from microtome.gradients.comparison import Comparison, LayerComparison

NAMED = 6


@styled
def comparison_figure(comparison: "Comparison") -> Figure:
    """Correlations of every layer, and both scores in the layer where they agree least."""
    names = "    ".join(f"{x}: {shortened(n, 36)}" for x, n in zip("AB", comparison.names, strict=True))
    figure, axes = panels(1, 2, width=4.6, height=3.6, title=names)
    _by_layer(axes[0, 0], comparison)
    layers = comparison.layers
    least = min(layers, key=lambda layer: np.nan_to_num(layers[layer].pearson, nan=1.0))
    _scores(axes[0, 1], layers[least], least)
    return figure


def _by_layer(ax: Axes, comparison: "Comparison") -> None:
    layers = list(comparison.layers)
    places = np.arange(len(layers))
    found = [comparison.layers[layer] for layer in layers]
    if any(np.isfinite(one.ceiling) for one in found):
        ceiling = [one.ceiling for one in found]
        ax.plot(places, ceiling, "--", color=FAINT, label="Pearson, same model on other samples")
    ax.plot(places, [one.pearson for one in found], "o-", color=colour(0), markersize=4, label="Pearson")
    ax.plot(places, [one.spearman for one in found], "^-", color=colour(2), markersize=4, label="Spearman")
    ax.plot(
        places, [one.overlap for one in found], "s:", color=colour(1), markersize=4, label="top 20 in common"
    )
    step = max(1, len(layers) // 12)
    ax.set_xticks(places[::step], [str(layer) for layer in layers[::step]])
    lowest = min(min(np.nan_to_num(one.spearman), np.nan_to_num(one.pearson)) for one in found)
    ax.set_ylim(min(-0.05, lowest - 0.05), 1.55)  # room for the legend above 1
    ax.set_yticks([tick / 4 for tick in range(-4, 5) if tick / 4 >= lowest - 0.25])
    ax.set(xlabel="Layer", ylabel="Agreement", title="How alike the two are")
    ax.legend(loc="upper left")
    light_grid(ax)


def _scores(ax: Axes, one: "LayerComparison", layer: int) -> None:
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
        xlabel="A (in mean absolute scores)",
        ylabel="B (in mean absolute scores)",
        title=f"Layer {layer}, where they agree least",
    )
