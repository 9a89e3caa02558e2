"""Pictures of mechanisms: which components act together, what they pass on, what happens without them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from microtome.plotting.style import FAINT, INK, colour, heatmap, light_grid, note, panels, shortened, styled

MOST_COMPONENTS = 300  # rows of a matrix of components that can still be told apart
MOST_OF_ONE = 40  # of a cluster, where there are more


MEASURES = {
    "mse": "mean squared error",
    "kl": "KL from the target (nats)",
    "cross_entropy": "cross-entropy (nats)",
    "accuracy": "accuracy",
}


@styled
def merge_costs(
    names: Float[np.ndarray, " C"],
    weights: Float[np.ndarray, " C"],
    best: int,
    chance: Sequence[Float[np.ndarray, " C"]] = (),
) -> Figure:
    """Bits an input against the number of clusters, fewer to the right: both parts, their sum and its least.

    ``chance``: the sum for firings that were shuffled.
    """
    figure, axes = panels(1, 1, width=5.2, height=3.0)
    ax = axes[0, 0]
    k = np.arange(len(names), 0, -1)
    for i, one in enumerate(chance):
        ax.plot(k, one, color=FAINT, lw=1.0, ls="--", label="sum, firings shuffled" if i == 0 else None)
    ax.plot(k, names, color=colour(5), label="to name the clusters that fire")
    ax.plot(k, weights, color=colour(1), label="to send their components")
    ax.plot(k, names + weights, color=colour(0), lw=2.0, label="sum")
    least = float((names + weights)[best])
    ax.plot(k[best], least, "o", color=colour(0), ms=6)
    ax.axvline(k[best], color=FAINT, lw=0.8, zorder=0)
    top = float((names + weights)[0]) * 1.6
    ax.set(xlabel="clusters left", ylabel="bits an input", title=f"shortest with {k[best]} clusters")
    ax.set_ylim(0, max(top, least * 1.6) or 1.0)
    if len(k) > 1:
        ax.set_xlim(len(k) + 0.5, 0.5)
    light_grid(ax)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled
def component_clusters(
    firing: Bool[np.ndarray, "N C"], labels: Int[np.ndarray, " C"], names: Sequence[str]
) -> Figure:
    """How much components overlap (Jaccard index of the inputs they fire on), cluster by cluster.

    Clusters of two or more components are framed; they come first. Of more than 300
    components at most 40 of each cluster, and 300 in all, are drawn.
    """
    order = np.argsort(labels, kind="stable")
    if len(order) > MOST_COMPONENTS:
        order = order[_place_in_cluster(labels[order]) < MOST_OF_ONE][:MOST_COMPONENTS]
    rows = firing[:, order].astype(np.float64)
    both = rows.T @ rows
    either = both.diagonal()[:, None] + both.diagonal()[None, :] - both
    overlap = both / np.maximum(either, 1)
    n = len(order)
    side = float(np.clip(0.16 * n + 1.2, 3.4, 7.0))
    figure, axes = panels(1, 1, width=side + 1.6, height=side)
    ax = axes[0, 0]
    few = n <= 40
    ticks = [shortened(names[int(i)], 22, 0.5) for i in order] if few else None
    heatmap(
        ax,
        overlap,
        x_label="component",
        y_label="" if few else "component, by cluster",
        scale_label="overlap of firing (Jaccard)",
        limit=1.0,
        y_ticks=ticks,
        equal=True,
        most_ticks=n if few else 12,
    )
    ax.set_xticks([])
    if few:
        ax.tick_params(axis="y", labelsize=6.5)
    start = 0
    for cluster in dict.fromkeys(labels[order].tolist()):
        size = int((labels[order] == cluster).sum())
        if size > 1:
            ax.add_patch(Rectangle((start - 0.5, start - 0.5), size, size, fill=False, ec=colour(1), lw=1.3))
        start += size
    if len(labels) > n:
        ax.set_title(f"{n} of {len(labels)} components")
    return figure


def _place_in_cluster(labels: np.ndarray) -> np.ndarray:
    """0, 1, 2, .. within every run of equal labels."""
    start = np.flatnonzero(np.diff(labels, prepend=labels[0] - 1))
    return np.arange(len(labels)) - np.repeat(start, np.diff(start, append=len(labels)))


@styled
def ablation(rows: Sequence[Mapping[str, Any]], random: Mapping[str, np.ndarray]) -> Figure:
    """The chosen set against random ones, a panel a measure: removed above, alone below."""
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    figure, axes = panels(1, len(measures), width=3.4, height=2.0)
    for ax, measure in zip(axes[0], measures, strict=True):
        for height, change in ((1, "removed"), (0, "only")):
            row = next(r for r in rows if r["measure"] == measure and r["change"] == change)
            others = random[f"{change}/{measure}"]
            spread = np.linspace(-0.22, 0.22, len(others)) if len(others) > 1 else np.zeros(len(others))
            ax.plot(others, height + spread, ".", color=FAINT, ms=4, label="random sets" if height else None)
            ax.errorbar(
                [row["value"]],
                [height],
                xerr=[row["standard_error"]],
                fmt="D",
                color=colour(1),
                ms=6,
                label="chosen" if height else None,
            )
        target = next(r["target"] for r in rows if r["measure"] == measure)
        ax.axvline(target, color=colour(0), lw=1.2, label="target")
        ax.set(xlabel=MEASURES.get(measure, measure), yticks=[1, 0], yticklabels=["removed", "only these"])
        ax.set_ylim(-0.5, 1.5)
        ax.tick_params(axis="y", labelcolor=INK)
        light_grid(ax, "x")
        if not any(len(random[f"{change}/{measure}"]) for change in ("removed", "only")):
            note(ax, "no random sets: too few other components", 0.5, 0.5)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
