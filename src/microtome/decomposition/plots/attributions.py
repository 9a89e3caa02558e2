"""APD: what the attributions say about each component, over features and over a batch."""

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from microtome.plotting.style import PALETTE, colour, heatmap, integer_ticks, light_grid, panels, styled


@styled
def subnetwork_attributions(
    attributions: Float[np.ndarray, "n_features C"], *, feature_value: float = 0.75
) -> Figure:
    """Heatmap of attributions on inputs with one feature on (at ``feature_value``), a row a feature."""
    n, n_components = attributions.shape
    width = float(np.clip(0.17 * n_components + 1.8, 3.8, 9.5))
    figure, axes = panels(1, 1, width=width, height=float(np.clip(0.17 * n + 1.2, 2.7, 7.5)))
    heatmap(
        axes[0, 0],
        attributions,
        x_label="component",
        y_label=f"feature that is on (x = {feature_value:g})",
        scale_label="attribution",
    )
    return figure


@styled
def subnetwork_attributions_statistics(attributions: Float[np.ndarray, "B C"]) -> Figure:
    """Mean and largest attribution of each component over a batch, and how the batch spreads (log axis)."""
    figure, axes = panels(1, 2, width=4.2, height=2.5)
    component = np.arange(attributions.shape[1])
    low, middle, high = np.quantile(attributions, [0.05, 0.5, 0.95], axis=0)
    ax = axes[0, 0]
    ax.bar(component, attributions.mean(axis=0), color=colour(0), width=0.7)
    ax.set(xlabel="component", ylabel="mean attribution", xticks=integer_ticks(len(component)))
    ax = axes[0, 1]
    floor = max(float(attributions.max()) * 1e-8, 1e-30)
    ax.vlines(component, np.maximum(low, floor), np.maximum(high, floor), color=colour(5), lw=3)
    ax.plot(component, np.maximum(middle, floor), "_", color=PALETTE[6], ms=6, label="median")
    ax.plot(
        component, np.maximum(attributions.max(axis=0), floor), ".", color=colour(1), ms=5, label="largest"
    )
    ax.plot([], [], color=colour(5), lw=3, label="5 to 95 %")
    ax.set(xlabel="component", ylabel="attribution", yscale="log", xticks=integer_ticks(len(component)))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower right", ncols=3)
    for ax in axes.ravel():
        light_grid(ax)
    return figure


@styled
def subnetwork_attributions_batch_statistics(
    active_per_input: Float[np.ndarray, " B"],
    features_per_input: Float[np.ndarray, " B"],
    share_active: Float[np.ndarray, " C"],
) -> Figure:
    """How many components the top-k selects per input, how many features are on, and each one's share.

    Left: histogram of both counts over the batch. Right: share of the inputs that select each component.
    """
    figure, axes = panels(1, 2, width=3.8, height=2.5)
    most = int(max(active_per_input.max(initial=0), features_per_input.max(initial=0)))
    edges = np.arange(most + 2) - 0.5
    ax = axes[0, 0]
    ax.hist(features_per_input, edges, histtype="step", color=PALETTE[6], lw=1.6, label="features on")
    ax.hist(active_per_input, edges, color=colour(5), alpha=0.75, label="components selected")
    ax.set(xlabel="number per input", ylabel="inputs", xticks=integer_ticks(most + 1))
    ax.margins(y=0.25)
    ax.legend(loc="upper right")
    light_grid(ax)
    ax = axes[0, 1]
    ax.bar(np.arange(len(share_active)), share_active, color=colour(0), width=0.7)
    ax.set(
        xlabel="component", ylabel="share of inputs that select it", xticks=integer_ticks(len(share_active))
    )
    light_grid(ax)
    return figure
