"""Residual MLPs taken apart: neuron contributions, responses and losses per feature."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from microtome.plotting.style import (
    FAINT,
    PALETTE,
    category_colours,
    colour,
    heatmap,
    integer_ticks,
    light_grid,
    panels,
    styled,
)


def _contribution_dots(ax: Axes, values: np.ndarray, labelled_above: float) -> None:
    """Neurons as dots in a column a feature; the large ones carry their index."""
    n_features, n_neurons = values.shape
    shades = category_colours(n_neurons)
    close = 0.05 * float(np.ptp(values))
    for i in range(n_features):
        ax.axvline(i + 0.5, color="#e6e8eb", lw=0.7, zorder=0)
        ax.scatter(np.full(n_neurons, i), values[i], s=9, c=shades, zorder=2, linewidths=0)
        previous, side = -np.inf, -1
        for k in sorted(np.flatnonzero(values[i] > labelled_above), key=lambda k: values[i, k]):
            # Labels of neighbours stand on either side of the column.
            side = -side if values[i, k] - previous < close else 1
            previous = values[i, k]
            align = "left" if side > 0 else "right"
            ax.text(i + 0.12 * side, previous, str(k), fontsize=6.5, va="center", ha=align, zorder=3)
    ax.axhline(0, color=FAINT, lw=0.6, zorder=1)
    ax.set(xlim=(-0.5, n_features - 0.4))


@styled
def neuron_contributions(
    target: Float[np.ndarray, "n_features d_mlp"],
    best: Float[np.ndarray, "n_features d_mlp"],
    component_names: Sequence[str],
    *,
    labelled_above: float = 0.12,
) -> Figure:
    """Contributions of every neuron to the first features: target model above, best component below.

    Each dot is a neuron (labelled when large); below, the ticks name the component that serves the
    feature. Source: APD paper figure 6, SPD paper's resid_mlp_weights.
    """
    n_features = len(target)
    width = float(np.clip(0.5 * n_features + 1.2, 5.0, 14.0))
    figure, axes = panels(2, 1, width=width, height=2.4, sharey=True)
    for ax, values, title in (
        (axes[0, 0], target, "Target model"),
        (axes[1, 0], best, "Component that contributes most to the feature"),
    ):
        _contribution_dots(ax, values, labelled_above)
        ax.set(ylabel="neuron contribution", title=title)
    axes[0, 0].set(xticks=range(n_features), xlabel="input feature")
    axes[1, 0].set_xticks(range(n_features), list(component_names), rotation=0 if n_features <= 16 else 90)
    axes[1, 0].set_xlabel("component of each feature, in the order above")
    return figure


@styled
def neuron_contribution_pairs(
    target: Mapping[str, Float[np.ndarray, "n_features _"]],
    best: Mapping[str, Float[np.ndarray, "n_features _"]],
    correlations: Mapping[str, float],
) -> Figure:
    """Scatter a layer: each (feature, neuron) contribution in the target against its best component.

    A perfect decomposition lies on the diagonal. Source: SPD paper, neuron_contribution_pairs.
    """
    figure, axes = panels(1, len(target), width=3.0, height=2.9)
    for index, (ax, layer) in enumerate(zip(axes.ravel(), target, strict=True)):
        x, y = target[layer].ravel(), best[layer].ravel()
        low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
        ax.plot([low, high], [low, high], color=FAINT, lw=0.9, ls="--", zorder=1)
        ax.plot(x, y, "o", ms=2.2, alpha=0.35, mew=0, color=colour(index), zorder=2, rasterized=True)
        ax.set(
            title=f"{layer}: r = {correlations[layer]:.3f}",
            xlabel="contribution in the target",
            aspect="equal",
        )
        if index == 0:
            ax.set_ylabel("contribution in its best component")
        light_grid(ax, "both")
    return figure


@styled
def feature_responses(
    responses: Mapping[str, Float[np.ndarray, " d_out"]], feature: int, *, value: float = 1.0
) -> Figure:
    """Outputs of several models to one feature on its own, a series a model; the feature itself is marked."""
    figure, axes = panels(1, 1, width=6.4, height=2.6)
    ax = axes[0, 0]
    markers = ("x", "o", ".", "+", "s")
    for index, (name, output) in enumerate(responses.items()):
        ax.plot(output, markers[index % len(markers)], ms=4.5, color=colour(index), label=name, mfc="none")
    ax.axvline(feature, color=FAINT, lw=0.8, ls=":", zorder=0)
    ax.axhline(0, color=FAINT, lw=0.6, zorder=0)
    ax.set(xlabel="output", ylabel=f"response to feature {feature} = {value:g}")
    ax.set_xticks(integer_ticks(len(next(iter(responses.values())))))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=len(responses))
    return figure


@styled
def per_feature_performance(losses: Mapping[str, Float[np.ndarray, " n_features"]]) -> Figure:
    """Loss per feature for several models, features sorted by the first model's loss (log axis)."""
    figure, axes = panels(1, 1, width=6.4, height=2.6)
    ax = axes[0, 0]
    order = np.argsort(next(iter(losses.values())))
    for index, (name, values) in enumerate(losses.items()):
        ax.plot(
            values[order],
            "o-" if index == 0 else "o",
            ms=2.6,
            lw=0.8,
            color=colour(index),
            label=f"{name} (mean {values.mean():.2e})",
        )
    ax.set(xlabel="feature, by rank", ylabel="MSE with only this feature on", yscale="log")
    light_grid(ax)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=min(3, len(losses)))
    return figure


@styled
def scrub_histogram(
    losses: Mapping[str, Float[np.ndarray, " _"]], *, baselines: Mapping[str, float] | None = None
) -> Figure:
    """Histograms of losses per input on a log axis, means dashed: active components, scrubbed, anti-scrubbed.

    ``baselines`` are drawn as vertical lines (such as the loss of a monosemantic solution).
    Source: APD paper figure 8.
    """
    figure, axes = panels(1, 1, width=6.0, height=2.7)
    ax = axes[0, 0]
    values = np.concatenate([v[v > 0] for v in losses.values()]) if losses else np.ones(1)
    low, high = (values.min(), values.max()) if values.size else (1e-8, 1.0)
    edges = np.geomspace(low * 0.9, high * 1.1, 60)
    for index, (name, sample) in enumerate(losses.items()):
        shade = colour(index)
        label = f"{name} (mean {sample.mean():.2e})"
        ax.hist(np.clip(sample, edges[0], None), edges, histtype="step", lw=1.6, color=shade, label=label)
        if sample.mean() > 0:
            ax.axvline(sample.mean(), color=shade, ls="--", lw=1.0)
    for index, (name, value) in enumerate((baselines or {}).items()):
        ax.axvline(value, color=PALETTE[6], lw=1.1, ls=("-", ":")[index % 2], label=name)
    ax.set(xscale="log", xlabel="MSE against the target's output", ylabel="inputs")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


@styled
def virtual_weights(
    through: Float[np.ndarray, "n_features n_features"], direct: Float[np.ndarray, "n_features n_features"]
) -> Figure:
    """Feature-to-feature weights through the MLP (nonlinearity left out) and through the residual stream."""
    figure, axes = panels(1, 2, width=3.6, height=3.0)
    for ax, values, title in (
        (axes[0, 0], through, "Through the MLP"),
        (axes[0, 1], direct, "Residual stream"),
    ):
        heatmap(
            ax,
            values,
            signed=True,
            x_label="output feature",
            y_label="input feature",
            title=title,
            scale_label="weight",
            equal=True,
        )
    return figure
