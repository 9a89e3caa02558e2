"""Components of two decompositions held against each other."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from microtome.plotting.style import PALETTE, SEQUENTIAL, colour, integer_ticks, light_grid, panels, styled

MAX_SHOWN = 60


@styled
def similarity_matrices(
    matched: Mapping[str, Float[np.ndarray, "_ _"]],
    largest: Mapping[str, Float[np.ndarray, " _"]],
    chance: Mapping[str, tuple[float, float]],
    *,
    names: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    current: str,
    reference: str,
) -> Figure:
    """Above, a site a column: absolute cosines of matched components, best pairs first (at most 60).

    Below: each alive component's largest cosine with any of the reference's, sorted, and the mean that random
    rotations of the reference reach (band: 2 standard deviations).
    """
    figure, axes = panels(2, len(matched), width=3.3, height=2.6)
    image = None
    for column, (site, values) in enumerate(matched.items()):
        ax = axes[0, column]
        shown = values[:MAX_SHOWN, :MAX_SHOWN]
        image = ax.imshow(shown, cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="equal")
        ticks = integer_ticks(len(shown), 8)
        ax.set_yticks(ticks, [names[site][0][i] for i in ticks])
        ax.set_xticks(ticks, [names[site][1][i] for i in ticks])
        ax.set(title=site, xlabel="reference's component", ylabel="current component" if column == 0 else "")
        ax = axes[1, column]
        rank = np.arange(1, len(largest[site]) + 1)
        ax.plot(rank, largest[site], "o-", ms=3, lw=1, color=colour(0), label="this pair of runs")
        ax.axhline(largest[site].mean(), color=colour(0), lw=0.9, ls=":")
        mean, sd = chance[site]
        ax.axhspan(mean - 2 * sd, mean + 2 * sd, color=colour(1), alpha=0.2, lw=0)
        ax.axhline(mean, color=PALETTE[1], lw=1.0, ls="--", label="mean by chance (rotated reference)")
        ax.set(xlabel="alive component, by rank", ylim=(0, 1.05), xlim=(0.5, len(rank) + 0.5))
        if len(rank) <= 12:
            ax.set_xticks(rank)
        if column == 0:
            ax.set_ylabel("largest |cosine|")
        light_grid(ax)
    if image is not None:
        bar = figure.colorbar(image, ax=axes[0].tolist(), fraction=0.03, pad=0.02)
        bar.set_label("|cosine|", fontsize=8)
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle(f"current: {current}\nreference: {reference}", x=0.01, ha="left", fontsize=8)
    return figure
