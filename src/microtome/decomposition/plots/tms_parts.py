"""Toy models of superposition, layer by layer: vectors, whole networks, hidden layers."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from microtome.plotting.networks import draw_network, draw_polygon
from microtome.plotting.style import (
    FAINT,
    category_colours,
    grid_shape,
    heatmap,
    panels,
    remove_unused,
    styled,
    symmetric_limit,
)

MAX_COLUMNS = 8


@styled
def tms_vectors(
    matrices: Sequence[Float[np.ndarray, "n_features 2"]], titles: Sequence[str], *, left_out: str = ""
) -> Figure:
    """Rows of each matrix as arrows in the plane, a colour a feature: target, sum, components.

    Source: SPD paper code's ``tms_vectors``.
    """
    rows, columns = grid_shape(len(matrices), MAX_COLUMNS)
    figure, axes = panels(rows, columns, width=1.5, height=1.6)
    longest = max(float(np.abs(matrices[0]).max()), 1e-6)
    largest = min(max(longest, float(np.abs(matrices[1]).max())), 2 * longest)
    for index, (ax, matrix) in enumerate(zip(axes.ravel(), matrices, strict=False)):
        draw_polygon(ax, matrix, limit=1.4 * largest, labels=True)
        ax.set_title(titles[index], fontsize=8.5, loc="center", fontweight="bold" if index < 2 else None)
    remove_unused(axes, len(matrices))
    if left_out:
        figure.supxlabel(left_out, fontsize=8, color=FAINT)
    return figure


@styled
def tms_full_network(
    stacks: Sequence[Sequence[Float[np.ndarray, "_ _"]]], titles: Sequence[str], *, left_out: str = ""
) -> Figure:
    """Every layer of each panel as a network, inputs below: target, sum, components of any layer.

    ``stacks[i]`` holds the matrices of panel i from input to output; a layer that a component does not touch
    is zero and has no edges. Source: SPD paper code's ``tms_full_network``.
    """
    n_layers = len(stacks[0])
    rows, columns = grid_shape(len(stacks), MAX_COLUMNS)
    figure, axes = panels(rows, columns, width=1.5, height=0.75 + 0.55 * n_layers)
    limits = [symmetric_limit(stack) for stack in stacks[0]]
    shades = category_colours(len(stacks[0][0]))
    for index, (ax, stack) in enumerate(zip(axes.ravel(), stacks, strict=False)):
        scaled = [matrix / limit for matrix, limit in zip(stack, limits, strict=True)]
        names = ["in", *[f"hidden {i + 1}" for i in range(n_layers - 1)], "out"]
        draw_network(
            ax, scaled, limit=1.0, colours=shades, layer_names=names if index % columns == 0 else None
        )
        ax.set_title(titles[index], fontsize=8.5, loc="center", fontweight="bold" if index < 2 else None)
    remove_unused(axes, len(stacks))
    footer = ["Solid: positive, dashed: negative; width relative to the layer's largest.", left_out]
    figure.supxlabel("\n".join(filter(None, footer)), fontsize=8, color=FAINT)
    return figure


@styled
def tms_hidden_layers(
    matrices: Sequence[Float[np.ndarray, "n_hidden n_hidden"]],
    titles: Sequence[str],
    *,
    site: str,
    left_out: str = "",
) -> Figure:
    """Heatmaps of a hidden layer on one signed scale: target, sum of components, components by size.

    Source: SPD paper code's ``tms_hidden_layers``.
    """
    rows, columns = grid_shape(len(matrices), 6)
    figure, axes = panels(rows, columns, width=1.65, height=1.8, title=site)
    limit = symmetric_limit(*matrices)
    for index, (ax, matrix) in enumerate(zip(axes.ravel(), matrices, strict=False)):
        heatmap(ax, matrix, signed=True, limit=limit, equal=True, most_ticks=5)
        ax.set_title(titles[index], fontsize=8.5, loc="center", fontweight="bold" if index < 2 else None)
        ax.set_xlabel("output" if index + columns >= len(matrices) else "", fontsize=8)
        ax.set_ylabel("input" if index % columns == 0 else "", fontsize=8)
    remove_unused(axes, len(matrices))
    image = axes[0, 0].get_images()[0]
    bar = figure.colorbar(image, ax=axes.ravel()[: len(matrices)].tolist(), fraction=0.03, pad=0.01)
    bar.set_label("weight", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    if left_out:
        figure.supxlabel(left_out, fontsize=8, color=FAINT)
    return figure
