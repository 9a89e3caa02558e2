"""Residual MLPs taken apart: neuron contributions, responses and losses per feature."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from microtome.plotting.style import (
    FAINT,
    PALETTE,
    colour,
    heatmap,
    integer_ticks,
    light_grid,
    panels,
    styled,
    symmetric_limit,
)

LAYER_MARKERS = ("o", "^", "s", "D")


def _contribution_dots(
    ax: Axes, layers: Sequence[np.ndarray], labelled_above: float, *, by_neuron: bool = False
) -> None:
    """Neurons as dots in a column a feature, a colour a layer; the large ones carry their number.

    Neurons are numbered through the layers. ``by_neuron``: columns are neurons, numbers features.
    """
    table = np.concatenate(layers, axis=1)
    values = table.T if by_neuron else table
    layer_of = np.repeat(np.arange(len(layers)), [layer.shape[1] for layer in layers])
    size = 9 if len(values) <= 40 else 5
    for layer in range(len(layers)):
        chosen = values[layer_of == layer] if by_neuron else values[:, layer_of == layer]
        columns = np.flatnonzero(layer_of == layer) if by_neuron else np.arange(len(values))
        where = np.repeat(columns, chosen.shape[1])
        marks = {"marker": LAYER_MARKERS[layer % 4], "s": size, "linewidths": 0, "alpha": 0.8}
        ax.scatter(where, chosen.ravel(), color=colour(layer), zorder=2, label=f"layer {layer}", **marks)
    if len(values) <= 24:
        _number_large_dots(ax, values, labelled_above)
        for i in range(len(values)):
            ax.axvline(i + 0.5, color="#e6e8eb", lw=0.7, zorder=0)
    ax.axhline(0, color=FAINT, lw=0.6, zorder=1)
    ax.set(xlim=(-0.6, len(values) - 0.4))


def _number_large_dots(ax: Axes, values: np.ndarray, labelled_above: float) -> None:
    close = 0.055 * float(np.ptp(values))
    for i in range(len(values)):
        previous, side = -np.inf, -1
        for k in sorted(np.flatnonzero(values[i] > labelled_above), key=lambda k: values[i, k]):
            # Numbers of neighbours stand on either side of the column.
            side = -side if values[i, k] - previous < close else 1
            previous = values[i, k]
            align = "left" if side > 0 else "right"
            ax.text(i + 0.12 * side, previous, str(k), fontsize=6.5, va="center", ha=align, zorder=3)


@styled
def neuron_contributions(
    target: Mapping[str, Float[np.ndarray, "n_features _"]],
    best: Mapping[str, Float[np.ndarray, "n_features _"]],
    component_names: Sequence[str],
    *,
    feature_names: Sequence[str] | None = None,
    labelled_above: float = 0.12,
) -> Figure:
    """Contributions of every neuron to a few features: target model above, best components below.

    Each dot is a neuron, its colour the layer (numbered when large); below, the ticks name the components,
    one a layer, that serve the feature. Source: APD paper figure 6, SPD paper's ``resid_mlp_weights``.
    """
    n_features = len(next(iter(target.values())))
    width = float(np.clip(0.5 * n_features + 1.2, 5.0, 14.0))
    figure, axes = panels(2, 1, width=width, height=2.4, sharey=True)
    for ax, layers, title in (
        (axes[0, 0], target, "Target model"),
        (axes[1, 0], best, "Component that contributes most to the feature"),
    ):
        _contribution_dots(ax, list(layers.values()), labelled_above)
        ax.set(ylabel="neuron contribution", title=title)
    axes[0, 0].set_xticks(range(n_features), list(feature_names or map(str, range(n_features))))
    axes[0, 0].set_xlabel("input feature")
    crowded = n_features > 16 or max(map(len, component_names), default=0) > 5
    axes[1, 0].set_xticks(range(n_features), list(component_names), rotation=90 if crowded else 0)
    each = "component" if len(target) == 1 else "components (one a layer)"
    axes[1, 0].set_xlabel(f"{each} of each feature, in the order above")
    if len(target) > 1:
        handles = axes[0, 0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper right", ncols=len(target))
    return figure


@styled
def relu_contributions(
    rows: Mapping[str, Sequence[Float[np.ndarray, "n_features _"]]],
    *,
    by_neuron: bool,
    labelled_above: float = 0.15,
) -> Figure:
    """Neuron contributions of several models, a row each, with features or neurons as columns.

    ``rows[name][layer]`` as in ``measures.neuron_contributions``. By feature: how much each ReLU contributes
    to it. By neuron: how much each feature routes through it. Source: APD code's ``relu_contributions``.
    """
    first = next(iter(rows.values()))
    n_columns = sum(layer.shape[1] for layer in first) if by_neuron else len(first[0])
    width = float(np.clip(0.11 * n_columns + 2.0, 5.5, 12.0))
    figure, axes = panels(len(rows), 1, width=width, height=1.7, sharex=True, sharey=True)
    for ax, (name, layers) in zip(axes.ravel(), rows.items(), strict=True):
        _contribution_dots(ax, layers, labelled_above, by_neuron=by_neuron)
        ax.set_title(name)
    axes[-1, 0].set_xlabel("neuron, numbered through the layers" if by_neuron else "feature")
    axes[-1, 0].set_xticks(integer_ticks(n_columns, 21))
    figure.supylabel("neuron contribution", fontsize=9)
    if len(first) > 1:
        handles = axes[0, 0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper right", ncols=len(first))
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
def scrub_histogram(
    losses: Mapping[str, Float[np.ndarray, " _"]], *, baselines: Mapping[str, float] | None = None
) -> Figure:
    """Histograms of losses per input on a log axis, means dashed: active components, scrubbed, anti-scrubbed.

    ``baselines`` are drawn as vertical lines (such as the loss of a monosemantic solution). Losses of 0 are
    in the lowest bin.
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
    zeros = " (0 is in the lowest bin)" if any((sample <= 0).any() for sample in losses.values()) else ""
    ax.set(xscale="log", xlabel=f"MSE against the target's output{zeros}", ylabel="inputs")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


@styled
def virtual_weights(
    target: Mapping[str, Float[np.ndarray, "_ _"]],
    components: Mapping[str, Float[np.ndarray, "_ _"]],
    direct: Float[np.ndarray, "n_features n_features"],
) -> Figure:
    """Weights seen through the embedding, neurons of all layers side by side: target above, sum below.

    ``read`` = W_E W_in, ``write`` = (W_out W_U)^T, ``through`` = read times write, the nonlinearity left
    out (one a layer summed); at the right what the residual stream carries past the layers.
    """
    figure, axes = panels(2, 4, width=2.7, height=2.5)
    shown = (
        ("read", "W_E W_in: read", "neuron"),
        ("write", "W_out W_U: write", "neuron"),
        ("through", "through the MLPs", "output feature"),
    )
    for row, (model, values) in enumerate((("target", target), ("sum of components", components))):
        for column, (key, title, x_label) in enumerate(shown):
            limit = symmetric_limit(target[key], components[key])
            last = row == 1
            heatmap(
                axes[row, column],
                values[key],
                signed=True,
                limit=limit,
                title=title if row == 0 else "",
                x_label=x_label if last else "",
                y_label=f"{model}\ninput feature" if column == 0 else "",
                scale_label="weight" if column == 2 else None,
                most_ticks=6,
            )
    heatmap(
        axes[0, 3],
        direct,
        signed=True,
        title="residual stream: W_E W_U",
        x_label="output feature",
        scale_label="weight",
        most_ticks=6,
    )
    axes[1, 3].remove()
    return figure
