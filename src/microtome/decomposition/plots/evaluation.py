"""What an evaluation found: outputs under masks, how many components matter, how much each does."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from scipy import stats

from microtome.plotting.style import (
    FAINT,
    PALETTE,
    colour,
    grid_shape,
    light_grid,
    note,
    panels,
    remove_unused,
    shortened,
    styled,
)

MASKING_NAMES = {
    "target": "target",
    "unmasked": "all components",
    "ci": "causal importances",
    "rounded": "importances rounded",
    "stochastic": "random, important kept",
    "pgd": "adversarial, shared",
    "pgd_per_input": "adversarial, each input",
    "random": "random",
    "other_inputs": "another input's",
    "ablated": "none",
}
MEASURE_NAMES = {
    "ce": "cross-entropy (nats)",
    "kl": "KL to the target (nats)",
    "mse": "MSE to the target",
    "accuracy": "accuracy",
}


@styled
def outputs_under_masks(measures: Mapping[str, Mapping[str, Float[np.ndarray, "n K"]]]) -> Figure:
    """A panel a measure, a row a kind of mask: a dot a seed with its 95 % interval over the n batches."""
    names = [name for name in MASKING_NAMES if any(name in found for found in measures.values())]
    figure, axes = panels(
        1, len(measures), width=2.6 if len(measures) > 1 else 4.2, height=0.27 * len(names) + 0.8, sharey=True
    )
    for ax, (measure, found) in zip(axes[0], measures.items(), strict=True):
        log = measure in ("mse", "kl")
        lowest = _lowest(found) if log else 0.0
        for row, name in enumerate(names):
            if name in found:
                _dots(ax, row, np.maximum(found[name], lowest), colour(_shade(name)))
        if log:
            ax.set_xscale("log")
            _log_ticks(ax)
        else:
            ax.xaxis.set_major_locator(MaxNLocator(4))
        if measure == "accuracy":
            ax.set_xlim(-0.03, 1.03)
        ax.set(xlabel=MEASURE_NAMES[measure])
        light_grid(ax, "both")
    axes[0, 0].set_yticks(range(len(names)), [MASKING_NAMES[name] for name in names])
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    axes[0, 0].set_ylabel("components kept on")
    return figure


def _log_ticks(ax: Axes) -> None:
    """Powers of ten; where the axis spans few of them, numbers in between too."""
    low, high = ax.get_xlim()
    if high < 30 * low:
        few = high > 5 * low
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if few else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    else:
        ax.xaxis.set_major_locator(LogLocator(numticks=5))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _shade(name: str) -> int:
    """Sound masks, adversarial ones, and those that should hurt."""
    if name in ("target", "random", "other_inputs", "ablated"):
        return 6
    return 1 if name.startswith("pgd") else 0


def _lowest(found: Mapping[str, np.ndarray]) -> float:
    """A little below the smallest value above 0, where zeros are drawn on a log axis."""
    positive = np.concatenate([values[values > 0] for values in found.values()])
    return float(positive.min()) / 2 if len(positive) else 1e-12


def _dots(ax, row: int, values: np.ndarray, shade: str) -> None:
    n, k = values.shape
    mean = values.mean(0)
    where = row + (np.linspace(-0.22, 0.22, k) if k > 1 else np.zeros(1))
    if n > 1:
        half = stats.t.ppf(0.975, n - 1) * values.std(0, ddof=1) / np.sqrt(n)
        low = np.maximum(mean - half, mean / 100) if ax.get_xscale() == "log" else mean - half
        ax.hlines(where, np.minimum(low, mean), mean + half, color=shade, lw=1.0, alpha=0.8)
    ax.plot(mean, where, "o", ms=4 if k <= 5 else 2.5, color=shade, mew=0)


@styled
def l0_by_site(l0: Mapping[str, Float[np.ndarray, "n K"]], components: Mapping[str, int]) -> Figure:
    """A bar a site: components that matter for an input, mean over seeds; the line spans the seeds."""
    figure, axes = panels(1, 1, width=6.2, height=0.23 * len(l0) + 0.75)
    ax = axes[0, 0]
    rows = np.arange(len(l0))
    means = np.stack([values.mean(0) for values in l0.values()])
    ax.barh(rows, means.mean(1), color=colour(0), height=0.62, alpha=0.85)
    if means.shape[1] > 1:
        ax.hlines(rows, means.min(1), means.max(1), color=PALETTE[6], lw=1.2)
    top = max(float(means.max()), 1e-9)
    for row, (name, found) in enumerate(zip(l0, means, strict=True)):
        words = f"{found.mean():.3g} of {components[name]:,}"
        ax.text(found.max() + 0.012 * top, row, words, va="center", fontsize=7.5, color="#444a52")
    ax.set_yticks(rows, [shortened(name, 40, 0.6) for name in l0])
    ax.set(xlabel="components that matter for an input (L0)", xlim=(0, 1.2 * top), ylim=(len(l0) - 0.4, -0.6))
    ax.tick_params(axis="y", length=0)
    light_grid(ax, "x")
    if means.shape[1] > 1:
        figure.supxlabel(
            f"black lines: from the lowest to the highest of {means.shape[1]} seeds", fontsize=8, color=FAINT
        )
    return figure


@styled
def sorted_by_site(values: Mapping[str, Float[np.ndarray, "K _"]], label: str) -> Figure:
    """A panel a site: a value a component, sorted, on a log axis; a thin line a seed, their mean bold."""
    rows, columns = grid_shape(len(values), 4)
    positive = np.concatenate([found[found > 0].ravel() for found in values.values()])
    floor = max(float(positive.min()), 1e-6) if len(positive) else 1e-6
    top = 2 * float(positive.max()) if len(positive) else 1.0
    figure, axes = panels(
        rows, columns, width=2.1 if columns > 1 else 3.6, height=1.5 if rows > 1 else 2.3, sharey=True
    )
    for index, (ax, (site, found)) in enumerate(zip(axes.ravel(), values.items(), strict=False)):
        ordered = -np.sort(-found, axis=1)
        shown = np.where(ordered >= floor, ordered, np.nan)
        rank = np.arange(1, found.shape[1] + 1)
        mark = "o" if len(rank) <= 30 else None
        if len(shown) > 1:
            ax.plot(rank, shown.T, color=colour(0), lw=0.6, alpha=0.35)
        mean = ordered.mean(0)
        ax.plot(rank, np.where(mean >= floor, mean, np.nan), color=colour(0), marker=mark, ms=2.5)
        if not (found >= floor).any():
            note(ax, "0 throughout")
        ax.set_title(shortened(site, 30 if columns > 1 else 60, 0.6), fontsize=8)
        ax.set(yscale="log", ylim=(floor / 2, top), xlim=(0.5, len(rank) + 0.5))
        ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        ax.yaxis.set_major_locator(LogLocator(numticks=4))
        ax.yaxis.set_minor_formatter(NullFormatter())
        if index + columns >= len(values):
            ax.set_xlabel("component, by rank")
        light_grid(ax)
    remove_unused(axes, len(values))
    figure.supylabel(label, fontsize=9)
    return figure
