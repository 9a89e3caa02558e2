"""How a decomposition went: losses over steps, and what each seed recovered."""

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
    light_grid,
    note,
    panels,
    remove_unused,
    styled,
)


@styled
def loss_curves(
    steps: Float[np.ndarray, " T"],
    losses: Mapping[str, Float[np.ndarray, "T _"]],
) -> Figure:
    """One panel a loss term over training steps: a thin line a seed, the mean over seeds bold.

    Axes are logarithmic but for counts (names that begin with ``l0/``).
    Terms keep their order; values that are not positive leave gaps (nan when a step did not log them).
    """
    rows, columns = grid_shape(len(losses), 4)
    figure, axes = panels(rows, columns, width=2.7, height=1.9, sharex=True)
    for index, (ax, (name, values)) in enumerate(zip(axes.ravel(), losses.items(), strict=False)):
        positive = np.where(values > 0, values, np.nan)
        known = np.isfinite(positive).any(axis=1)
        shade = PALETTE[6] if name == "total" else colour(index % 6)
        ax.set_title(name.replace("_", " "))
        if index + columns >= len(losses):
            ax.set_xlabel("step")
            ax.tick_params(labelbottom=True)
        if not known.any():
            note(ax, "0 throughout")
            ax.set_yticks([])
            continue
        where, lines = steps[known], positive[known]
        if lines.shape[1] > 1:
            ax.plot(where, lines, color=shade, lw=0.6, alpha=0.35)
        mean = np.nanmean(lines, axis=1)
        ax.plot(where, mean, color=shade, lw=1.6, marker="o" if len(where) == 1 else None)
        # Counts of components can be 0 and span no decades.
        ax.set(ylim=(0, None)) if name.startswith("l0/") else ax.set_yscale("log")
        ax.xaxis.set_major_locator(MaxNLocator(4))
        light_grid(ax)
    remove_unused(axes, len(losses))
    n_seeds = max((v.shape[1] for v in losses.values()), default=1)
    if n_seeds > 1:
        figure.supxlabel(f"thin: {n_seeds} seeds, bold: their mean", fontsize=8, color=FAINT)
    return figure


@styled
def recovery_over_seeds(
    cosine: Float[np.ndarray, "K n_features"],
    ratio: Float[np.ndarray, "K n_features"],
    *,
    recovered: Sequence[int] | None = None,
    reference: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """Per seed the cosine and length ratio of every feature's mechanism (dots) and their mean (bar).

    ``recovered[k]`` mechanisms are printed above seed k; ``reference`` draws published values:
    ``{"SPD paper": (mmcs, ml2r)}``.
    """
    n_seeds, n_features = cosine.shape
    figure, axes = panels(1, 2, width=max(3.1, 0.45 * n_seeds + 1.4), height=2.7)
    jitter = np.linspace(-0.22, 0.22, n_features) if n_features > 1 else np.zeros(1)
    for side, (ax, values, title, label) in enumerate(
        (
            (axes[0, 0], cosine, "Direction (mean: MMCS)", "cosine with best component"),
            (axes[0, 1], ratio, "Length (mean: ML2R)", "component's length / target's"),
        )
    ):
        known = np.where(np.isfinite(values), values, np.nan)
        for k in range(n_seeds):
            ax.plot(k + jitter, known[k], "o", ms=3.2, color=colour(0), alpha=0.55, mew=0)
            if np.isfinite(known[k]).any():
                ax.hlines(np.nanmean(known[k]), k - 0.36, k + 0.36, color=PALETTE[6], lw=1.8)
        for index, (name, numbers) in enumerate((reference or {}).items()):
            words = f"{name}: MMCS {numbers[0]:.3f}, ML2R {numbers[1]:.3f}"
            ax.axhline(numbers[side], color=colour(index + 1), ls="--", lw=1.1, label=words)
        low = min(0.9, float(np.nanmin(known, initial=1.0)))
        high = max(1.02, float(np.nanmax(known, initial=1.0)))
        room = 0.08 * (high - low)
        ax.set(title=title, ylabel=label, xlabel="seed", xticks=range(n_seeds), xlim=(-0.6, n_seeds - 0.4))
        ax.set_ylim(low - room, high + (3 if recovered is not None and side == 0 else 1) * room)
        light_grid(ax)
    if recovered is not None:
        ax = axes[0, 0]
        ax.set_xlabel("seed (above: mechanisms recovered)")
        for k, count in enumerate(recovered):
            ax.text(
                k,
                0.985,
                f"{count}/{n_features}",
                transform=ax.get_xaxis_transform(),
                ha="center",
                va="top",
                fontsize=8,
            )
    if reference:
        figure.legend(
            *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(reference)
        )
    return figure
