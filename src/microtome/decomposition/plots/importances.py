"""Causal importances: which component answers to which input, how often, how sharply."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from microtome.plotting.style import (
    FAINT,
    PALETTE,
    colour,
    grid_shape,
    heatmap,
    light_grid,
    panels,
    remove_unused,
    shortened,
    styled,
)


@styled
def causal_importances(
    importances: Mapping[str, Float[np.ndarray, "n _"]],
    *,
    component_names: Mapping[str, Sequence[str]] | None = None,
    totals: Mapping[str, int] | None = None,
    upper_leaky: bool = False,
    input_label: str = "feature that is on (x = 0.75)",
) -> Figure:
    """One heatmap a site of importances ``[inputs, components]``, columns as given (permuted by the caller).

    ``component_names[site]`` are the original indices of the columns, ``totals[site]`` the number of
    components before columns were cropped. The scale is 0 to 1 for both leaky sigmoids; values above
    one (upper leaky) saturate. Source: SPD paper, figures 3 and following.
    """
    rows, columns = grid_shape(len(importances), 4)
    figure, axes = panels(rows, columns, width=3.6, height=2.9)
    for ax, (site, values) in zip(axes.ravel(), importances.items(), strict=False):
        shown = values.shape[1]
        total = shown if totals is None else totals[site]
        heatmap(
            ax,
            values,
            limit=1.0,
            x_label="component" if shown == total else f"component ({shown} of {total} shown)",
            y_label=input_label,
            title=site,
            scale_label="upper-leaky causal importance" if upper_leaky else "causal importance",
            x_ticks=None if component_names is None else component_names[site],
        )
    remove_unused(axes, len(importances))
    return figure


@styled
def importance_histograms(
    counts: Mapping[str, Float[np.ndarray, " bins"]], edges: Float[np.ndarray, " bins+1"]
) -> Figure:
    """Histogram a site of causal importances over inputs and components (counts on a log axis).

    ``counts[site][b]`` lie in ``[edges[b], edges[b + 1]]``. Sharp decompositions have two peaks, at 0 and 1.
    """
    rows, columns = grid_shape(len(counts), 4)
    figure, axes = panels(rows, columns, width=2.9, height=2.2, sharey=True)
    for index, (ax, (site, heights)) in enumerate(zip(axes.ravel(), counts.items(), strict=False)):
        ax.stairs(heights, edges, fill=True, color=colour(0), alpha=0.85)
        ax.set(title=shortened(site, 34, 0.6), xlabel="causal importance", yscale="log", ylim=(0.7, None))
        if index % columns == 0:
            ax.set_ylabel("entries (input, component)")
        light_grid(ax)
    remove_unused(axes, len(counts))
    return figure


@styled
def mean_component_activation_counts(
    frequencies: Mapping[str, Float[np.ndarray, "K _"]], *, threshold: float = 0.1
) -> Figure:
    """Share of the inputs on which each component is active, sorted, a thin line a seed and the mean bold."""
    rows, columns = grid_shape(len(frequencies), 4)
    figure, axes = panels(rows, columns, width=2.9, height=2.2)
    for index, (ax, (site, values)) in enumerate(zip(axes.ravel(), frequencies.items(), strict=False)):
        ordered = -np.sort(-values, axis=1)
        rank = np.arange(1, ordered.shape[1] + 1)
        for line in ordered:
            ax.plot(rank, line, color=colour(0), lw=0.7, alpha=0.4)
        ax.plot(rank, ordered.mean(axis=0), color=colour(0), marker="o" if len(rank) <= 30 else None, ms=3)
        ax.set(title=site, xlabel="component, by rank", ylim=(0, None), xlim=(0.5, len(rank) + 0.5))
        if index % columns == 0:
            ax.set_ylabel(f"share of inputs with\ncausal importance > {threshold:g}")
        light_grid(ax)
    remove_unused(axes, len(frequencies))
    return figure


@styled
def varying_importance_minimality(
    importances: Sequence[Mapping[str, Float[np.ndarray, "n _"]]], coefficients: Sequence[float]
) -> Figure:
    """Causal importances under several minimality coefficients, a row each; columns are sites.

    Source: SPD paper, figure 8 (``varying_importance_minimality_coeff``).
    """
    sites = list(importances[0])
    figure, axes = panels(len(importances), len(sites), width=3.0, height=2.0)
    for row, (by_site, coefficient) in enumerate(zip(importances, coefficients, strict=True)):
        for column, site in enumerate(sites):
            last = row == len(importances) - 1
            heatmap(
                axes[row, column],
                by_site[site],
                limit=1.0,
                title=site if row == 0 else "",
                x_label="component" if last else "",
                y_label=f"coefficient {coefficient:g}\nfeature" if column == 0 else "",
                scale_label="causal importance" if column == len(sites) - 1 else None,
            )
    return figure


@styled
def subnet_categories(
    counts: Mapping[str, Mapping[str, int]], n_components: Mapping[str, int], n_features: int, *, rule: str
) -> Figure:
    """Bars, a panel a set of components: how many are dead or serve one feature, two, or more.

    ``represented``: features that any component serves. ``rule`` says when a component serves a feature.
    Source: APD code's ``subnet_categories``.
    """
    names = {
        "dead": "dead\n(no feature)",
        "mono": "mono\n(1 feature)",
        "duo": "duo\n(2 features)",
        "poly": "poly\n(3 or more)",
        "represented": "features\nrepresented",
    }
    rows, columns = grid_shape(len(counts), 3)
    figure, axes = panels(rows, columns, width=4.4, height=2.6)
    shades = [FAINT, PALETTE[2], PALETTE[4], PALETTE[1], PALETTE[0]]
    for ax, (site, found) in zip(axes.ravel(), counts.items(), strict=False):
        heights = [found[name] for name in names]
        bars = ax.bar(list(names.values()), heights, color=shades, width=0.65)
        ax.bar_label(bars, fontsize=8.5)
        ax.axvline(3.5, color=FAINT, lw=0.7)
        ax.set(ylabel=f"of {n_components[site]} components", ylim=(0, 1.15 * max(*heights, 1)))
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        own = f"{found['own']} of {n_features} features have a component of their own"
        ax.set_title(own if site == "all" else f"{site}\n{own}", fontsize=8.5)
        ax.tick_params(axis="x", labelsize=7.5)
        light_grid(ax)
    remove_unused(axes, len(counts))
    figure.supxlabel(rule, fontsize=8, color=FAINT)
    return figure
