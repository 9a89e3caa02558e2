"""How often components are on, how many at a time, and which together."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from microtome.plotting.style import (
    DIVERGING,
    FAINT,
    PALETTE,
    colour,
    grid_shape,
    integer_ticks,
    light_grid,
    panels,
    remove_unused,
    styled,
)


@styled
def component_activation_statistics(
    frequency: Mapping[str, Float[np.ndarray, " _"]],
    mean: Mapping[str, Float[np.ndarray, " _"]],
    counts: Mapping[str, np.ndarray],
    features_on: np.ndarray | None = None,
    *,
    measure: str = "causal importance",
) -> Figure:
    """A row for each set of components: how often each is on, its mean mask, how many are on per input.

    Components are sorted by how often they are on. Right: histogram over inputs, and of the features on.
    """
    figure, axes = panels(len(frequency), 2, width=3.7, height=2.3)
    for row, (name, shares) in enumerate(frequency.items()):
        order = np.argsort(-shares, kind="stable")
        rank = np.arange(1, len(shares) + 1)
        ax = axes[row, 0]
        ax.plot(rank, shares[order], color=colour(0), label="left: share of inputs with it on")
        ax.plot(rank, mean[name][order], color=colour(1), ls="--", label=f"left: mean {measure}")
        ax.set(xlabel="component, by rank", ylabel="share or mean", ylim=(0, None))
        ax.set_title("" if name == "all" else name)
        ax = axes[row, 1]
        most = int(max(counts[name].max(initial=0), 0 if features_on is None else features_on.max(initial=0)))
        edges = np.arange(most + 2) - 0.5
        ax.hist(counts[name], edges, color=colour(5), alpha=0.8, label="right: components on")
        if features_on is not None:
            ax.hist(features_on, edges, histtype="step", color=PALETTE[6], lw=1.3, label="right: features on")
        ax.set(xlabel="number per input", ylabel="inputs", xticks=integer_ticks(most + 1))
        for ax in axes[row]:
            light_grid(ax)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    more, words = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles + more, labels + words, loc="outside upper left", ncols=2)
    return figure


@styled
def subnetwork_correlation_matrix(
    correlations: Mapping[str, Float[np.ndarray, "_ _"]],
    *,
    names: Mapping[str, Sequence[str]],
    left_out: Mapping[str, int],
) -> Figure:
    """Correlation of the components' masks over inputs, one heatmap a site. Source: APD code."""
    rows, columns = grid_shape(len(correlations), 4)
    figure, axes = panels(rows, columns, width=3.2, height=2.9)
    shades = matplotlib.colormaps[DIVERGING].with_extremes(bad=FAINT)
    image = None
    for ax, (site, values) in zip(axes.ravel(), correlations.items(), strict=False):
        image = ax.imshow(values, cmap=shades, vmin=-1, vmax=1, aspect="equal")
        ticks = integer_ticks(len(values), 10)
        labels = [names[site][i] for i in ticks]
        ax.set_xticks(ticks, labels, rotation=90 if max(map(len, labels), default=0) > 2 else 0)
        ax.set_yticks(ticks, labels)
        away = f" ({left_out[site]} that never change left out)" if left_out[site] else ""
        ax.set(title="" if site == "all" else site, ylabel="component")
        ax.set_xlabel(f"component{away}", fontsize=8)
    remove_unused(axes, len(correlations))
    if image is not None:
        shown = axes.ravel()[: len(correlations)].tolist()
        figure.colorbar(image, ax=shown, fraction=0.03, pad=0.02).set_label("correlation", fontsize=8)
    return figure
