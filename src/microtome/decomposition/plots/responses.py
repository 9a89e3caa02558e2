"""Answers to one or two features: outputs, curves, ablations, signal to noise."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from microtome.plotting.style import (
    FAINT,
    LINES,
    PALETTE,
    SEQUENTIAL,
    colour,
    integer_ticks,
    light_grid,
    line_colours,
    panels,
    styled,
)

INPUT_LABEL = "index of the feature that is on"


def _scatter_outputs(ax: Axes, outputs: np.ndarray, shown: np.ndarray, expected: np.ndarray | None) -> None:
    """Every output of every row as a faint dot in the row's colour; the row's own output is large."""
    n, n_out = outputs.shape
    shades = np.array(line_colours(n, LINES))
    where = np.tile(np.arange(n_out), n)
    each = np.repeat(np.arange(n), n_out)
    values = (outputs - shown).ravel()
    order = np.random.default_rng(0).permutation(len(where))
    dots = {"s": 3, "c": shades[each[order]], "alpha": 0.35, "linewidths": 0, "rasterized": True}
    ax.scatter(where[order], values[order], zorder=1, **dots)
    own = np.arange(min(n, n_out))
    ax.scatter(own, (outputs - shown)[own, own], s=14, c=shades[own], linewidths=0, zorder=2)
    if expected is not None:
        ax.plot(own, expected[own], "x", color=PALETTE[1], ms=3.5, mew=0.8, zorder=3)


@styled
def individual_feature_responses(
    one: Mapping[str, Float[np.ndarray, "n n_out"]],
    spread: Mapping[str, Float[np.ndarray, "n n_out"]],
    spread_values: Float[np.ndarray, " n"],
    *,
    one_label: Float[np.ndarray, " n"] | None = None,
    spread_label: Float[np.ndarray, " n"] | None = None,
    subtract_inputs: bool = True,
) -> Figure:
    """Outputs when one feature at a time is on; columns are models, rows its value: 1, or spread out.

    The input is taken away when ``subtract_inputs``. Large dots: the output of the feature itself; crosses:
    what it should be. Source: APD code's ``individual_feature_responses``.
    """
    n = len(spread_values)
    figure, axes = panels(2, len(one), width=3.6, height=2.5)
    for row_axes in axes:
        for ax in row_axes[1:]:
            ax.sharey(row_axes[0])
            ax.tick_params(labelleft=False)
    rows = ((one, np.ones(n), one_label), (spread, spread_values, spread_label))
    for row, (models, values, label) in enumerate(rows):
        shown = np.diag(values) if subtract_inputs else np.zeros((n, n))
        expected = None if label is None else label - values * subtract_inputs
        for column, (name, outputs) in enumerate(models.items()):
            ax = axes[row, column]
            _scatter_outputs(ax, outputs, shown, expected)
            ax.set(title=name if row == 0 else "", xlabel="output" if row else "")
            ax.set_xticks(integer_ticks(n))
    low, high = float(spread_values[0]), float(spread_values[-1])
    what = "output - input" if subtract_inputs else "output"
    axes[0, 0].set_ylabel(f"{what}, feature at 1")
    axes[1, 0].set_ylabel(f"{what}, feature i\nat {low:g} to {high:g}")
    _feature_bar(figure, axes, n)
    if one_label is not None:
        figure.supxlabel("Large dots: the feature's own output. Crosses: its label.", fontsize=8, color=FAINT)
    return figure


def _feature_bar(figure: Figure, axes: np.ndarray, n: int) -> None:
    shades = ListedColormap(line_colours(max(n, 1), LINES))
    bar = figure.colorbar(
        ScalarMappable(Normalize(-0.5, n - 0.5), shades), ax=axes.ravel().tolist(), fraction=0.03, pad=0.01
    )
    bar.set_label(INPUT_LABEL, fontsize=8)
    bar.set_ticks(integer_ticks(n, 6))
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(labelsize=7)


@styled
def response_and_curve(
    values: Float[np.ndarray, " G"],
    outputs: Mapping[str, Float[np.ndarray, " n_out"]],
    curves: Mapping[str, Float[np.ndarray, " G"]],
    feature: int,
) -> Figure:
    """Left: all outputs when one feature is at 1. Right: its own output against its value.

    Source: APD paper appendix, ``resid_mlp_feature_response_single``.
    """
    figure, axes = panels(1, 2, width=3.6, height=2.7, sharey=True)
    shades = {"target": colour(0), "chosen components": colour(1), "label": PALETTE[6]}
    marks = {"target": ("o", "none"), "chosen components": (".", None), "label": ("x", None)}
    for name, output in outputs.items():
        marker, fill = marks[name]
        axes[0, 0].plot(output, marker, ms=4, mfc=fill, color=shades[name], label=name)
    for name, curve in curves.items():
        style = ":" if name == "label" else "-" if name == "target" else "--"
        axes[0, 1].plot(values, curve, style, color=shades[name], label=name)
    axes[0, 0].set(xlabel="output", ylabel="output value", title=f"x[{feature}] = 1, all other inputs 0")
    axes[0, 0].set_xticks(integer_ticks(len(next(iter(outputs.values())))))
    axes[0, 1].set(xlabel=f"x[{feature}]", title=f"output {feature}")
    for ax in axes.ravel():
        ax.axhline(0, color=FAINT, lw=0.6, zorder=0)
        light_grid(ax)
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


@styled
def responses_and_curves(
    one: Float[np.ndarray, "n n_out"],
    values: Float[np.ndarray, " G"],
    curves: Float[np.ndarray, "n G"],
    label: Float[np.ndarray, "n G"] | None,
    *,
    model: str = "target",
) -> Figure:
    """Left: all outputs for every feature at 1. Right: every feature's own output against its value.

    Source: APD paper appendix, ``resid_mlp_feature_response_multi``.
    """
    figure, axes = panels(1, 2, width=3.8, height=2.8, sharey=True)
    n = len(one)
    _scatter_outputs(axes[0, 0], one, np.zeros_like(one), None)
    for curve, shade in zip(curves, line_colours(n, LINES), strict=True):
        axes[0, 1].plot(values, curve, color=shade, lw=0.8, alpha=0.7)
    if label is not None:
        for index, one_label in enumerate(np.unique(np.round(label, 6), axis=0)):
            words = "label" if index == 0 else None
            axes[0, 1].plot(values, one_label, ":", color=PALETTE[1], lw=1.4, label=words)
        axes[0, 1].legend(loc="upper left")
    axes[0, 0].set(xlabel="output", ylabel=f"output of the {model}", title="one feature at 1")
    axes[0, 0].set_xticks(integer_ticks(n))
    axes[0, 1].set(xlabel="value of the feature that is on", title="its own output")
    for ax in axes.ravel():
        light_grid(ax)
    _feature_bar(figure, axes, n)
    return figure


@styled
def feature_response_with_subnets(
    target: Float[np.ndarray, " n_out"],
    bands: Mapping[str, tuple[Float[np.ndarray, " n_out"], Float[np.ndarray, " n_out"]]],
    feature: int,
) -> Figure:
    """What the components add to each output for one feature at 1, under random ablations (mean, 1 sd).

    ``bands``: name to (mean, standard deviation) over ablations. Source: APD paper, figure 7.
    """
    figure, axes = panels(1, 1, width=6.6, height=2.8)
    ax = axes[0, 0]
    where = np.arange(len(target))
    shifts = np.linspace(-0.15, 0.15, len(bands))
    for index, (name, (mean, sd)) in enumerate(bands.items()):
        style = {"fmt": "o", "ms": 2.6, "lw": 0.8, "color": colour((2, 4, 3)[index % 3])}
        ax.errorbar(where + shifts[index], mean, yerr=sd, label=name, **style)
    ax.plot(where, target, "x", ms=4.5, mew=1.0, color=colour(0), label="target", zorder=4)
    ax.axvline(feature, color=FAINT, lw=0.8, ls=":", zorder=0)
    ax.axhline(0, color=FAINT, lw=0.6, zorder=0)
    ticks = [tick for tick in integer_ticks(len(target)) if abs(tick - feature) > 0.03 * len(target)]
    ax.set_xticks(sorted([*ticks, feature]))
    ax.set(xlabel="output", ylabel="output - output without components")
    ax.set_title(f"x[{feature}] = 1, all other inputs 0")
    light_grid(ax)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=1 + len(bands))
    return figure


@styled
def signal_to_noise(
    equal: Float[np.ndarray, "n n"], opposite: Float[np.ndarray, "n n"] | None = None
) -> Figure:
    """Signal to noise ratios with two features on: heatmaps, and the ratios with one feature above.

    Source: APD code's ``plot_2d_snr``.
    """
    pairs = [(equal, "both at 1"), *([] if opposite is None else [(opposite, "one at 1, the other at -1")])]
    n = len(equal)
    figure = Figure(figsize=(3.7 * len(pairs) + 0.5, 4.2))
    grid = figure.add_gridspec(2, len(pairs), height_ratios=(1, 2.6))
    top = figure.add_subplot(grid[0, :])
    top.bar(range(n), np.diag(equal), color=colour(0), width=0.8)
    top.set(xlabel="feature, alone at 1", ylabel="signal / noise", xticks=integer_ticks(n))
    light_grid(top)
    off = ~np.eye(n, dtype=bool)
    limit = max((float(np.nanmax(v[off])) for v, _ in pairs if off.any()), default=1.0)
    for index, (values, title) in enumerate(pairs):
        ax = figure.add_subplot(grid[1, index])
        image = ax.imshow(np.where(off, values, np.nan), cmap=SEQUENTIAL, vmin=0, vmax=limit, aspect="auto")
        ax.set(xlabel="second feature", ylabel="first feature" if index == 0 else "", title=title)
        ax.set(xticks=integer_ticks(n, 8), yticks=integer_ticks(n, 8))
        if index == len(pairs) - 1:
            bar = figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02)
            bar.set_label("signal / noise", fontsize=8)
    return figure


@styled
def resid_vs_mlp_out(
    direct: Float[np.ndarray, "F n_out"],
    models: Mapping[str, Float[np.ndarray, "F n_out"]],
    features: Sequence[int],
    correlations: Mapping[str, Float[np.ndarray, " F"]],
) -> Figure:
    """For one feature a row: what the residual stream brings to each output, and what the MLPs add.

    ``correlations`` are with the residual contribution, over the other outputs. Source: APD code.
    """
    figure, axes = panels(len(features), 1, width=6.6, height=1.7, sharex=True)
    for row, (ax, feature) in enumerate(zip(axes.ravel(), features, strict=True)):
        ax.plot(direct[row], color=FAINT, lw=1.2, label="residual stream" if row == 0 else None)
        words = []
        for index, (name, values) in enumerate(models.items()):
            style = "-" if index == 0 else "--"
            ax.plot(values[row], style, color=colour(index), lw=1.1, label=name if row == 0 else None)
            words.append(f"{correlations[name][row]:.2f} ({name})")
        ax.set_title(
            f"x[{feature}] = 1; correlation with the residual stream: {', '.join(words)}", fontsize=8
        )
        ax.set(ylabel="to the output")
        light_grid(ax)
    axes[-1, 0].set(xlabel="output", xticks=integer_ticks(direct.shape[1]))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=1 + len(models))
    return figure
