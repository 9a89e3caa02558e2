"""Toy models of superposition taken apart: the papers' first figure, and how well directions match."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from microtome.plotting.networks import draw_network, draw_polygon
from microtome.plotting.style import (
    FAINT,
    PALETTE,
    category_colours,
    colour,
    grid_shape,
    light_grid,
    panels,
    styled,
)

# More nodes than this in a row of a thumbnail cannot be told apart.
MAX_DIAGRAM_NODES = 12
MAX_PANELS_IN_A_ROW = 8


def can_draw_diagram(n_features: int, n_hidden: int) -> bool:
    """Whether the combined diagram is readable at this size: in the plane, or with few nodes."""
    return n_hidden == 2 or max(n_features, n_hidden) <= MAX_DIAGRAM_NODES


@styled
def tms_combined_diagram(
    target: Float[np.ndarray, "n_features n_hidden"],
    total: Float[np.ndarray, "n_features n_hidden"],
    components: Float[np.ndarray, "C n_features n_hidden"],
    *,
    names: Sequence[str] | None = None,
    hidden: Sequence[Sequence[Float[np.ndarray, "n_hidden n_hidden"]]] = (),
    left_out: str = "",
    title: str | None = None,
) -> Figure:
    """Target, sum of all components, and each given component, as vectors and as networks.

    Top row (two hidden units only): the features' rows as arrows. Bottom row (up to 12 nodes a layer):
    features below, hidden units, features above again through the transposed weights. ``hidden[i]`` holds the
    hidden-layer matrices of panel i (target, sum, components). ``left_out`` is printed below.
    Source: APD paper figure 3, SPD paper figure 1.
    """
    matrices = [target, total, *components]
    labels = [
        "Target model",
        "Sum of components",
        *(names or [f"Component {c}" for c in range(len(components))]),
    ]
    n_features, n_hidden = target.shape
    in_plane, as_network = n_hidden == 2, max(n_features, n_hidden) <= MAX_DIAGRAM_NODES
    rows = int(in_plane) + int(as_network)
    bands, columns = grid_shape(len(matrices), MAX_PANELS_IN_A_ROW)
    figure, axes = panels(rows * bands, columns, width=1.45, height=1.6, title=title)
    longest = max(float(np.abs(target).max()), 1e-6)
    # A sum of up to twice the target fits its panel; a longer one leaves it, rather than dwarf the others.
    largest = min(max(longest, float(np.abs(total).max())), 2 * longest)
    shades = category_colours(n_features)
    for panel, (matrix, label) in enumerate(zip(matrices, labels, strict=True)):
        band, column = divmod(panel, columns)
        here = axes[band * rows : (band + 1) * rows, column]
        here[0].set_title(label, fontsize=8.5, loc="center", fontweight="bold" if panel < 2 else None)
        if in_plane:
            draw_polygon(here[0], matrix, limit=1.4 * largest, labels=True, colours=shades)
        if as_network:
            inner = list(hidden[panel]) if hidden else []
            stages = ["in", "hidden", *["hidden"] * len(inner), "out"] if column == 0 else None
            stack = [matrix, *inner, matrix.T]
            draw_network(here[-1], stack, limit=largest, colours=shades, layer_names=stages)
    for unused in axes.reshape(bands, -1, columns)[-1, :, len(matrices) - (bands - 1) * columns :].ravel():
        unused.remove()
    footer = "Solid: positive weight, dashed: negative. " if as_network else ""
    if footer + left_out:
        figure.supxlabel(footer + left_out, fontsize=8, color=FAINT)
    return figure


@styled
def cosine_similarity_analysis(
    norms: Float[np.ndarray, "K C"],
    closest: Float[np.ndarray, "K C"],
    feature_cosine: Float[np.ndarray, "K n_features"],
    feature_ratio: Float[np.ndarray, "K n_features"],
    *,
    seed_names: Sequence[str] | None = None,
) -> Figure:
    """How components and features match, one colour a seed.

    Left: every component's norm (relative to the largest row of the target) against its largest cosine
    with any feature: a good decomposition has points at top right and at norm 0, none between. Middle and
    right: per feature the cosine with its closest component and the ratio of their lengths.
    """
    figure, axes = panels(1, 3, width=3.3, height=2.7)
    names = seed_names or [f"seed {k}" for k in range(len(norms))]
    shades = [colour(k) for k in range(len(norms))]
    for k, name in enumerate(names):
        axes[0, 0].plot(norms[k], closest[k], "o", ms=4, alpha=0.65, color=shades[k], mew=0, label=name)
    axes[0, 0].set(
        xlabel="norm / largest target row", ylabel="largest cosine with a feature", title="Components"
    )
    axes[0, 0].set(xlim=(-0.05, None), ylim=(min(0.0, float(np.nanmin(closest)) - 0.05), 1.05))
    spread = np.linspace(-0.25, 0.25, len(norms)) if len(norms) > 1 else np.zeros(1)
    where: Int[np.ndarray, " n_features"] = np.arange(feature_cosine.shape[1])
    for ax, values, name in (
        (axes[0, 1], feature_cosine, "largest cosine"),
        (axes[0, 2], feature_ratio, "length / target's length"),
    ):
        for k in range(len(values)):
            ax.plot(where + spread[k], values[k], "o", ms=4, alpha=0.8, color=shades[k], mew=0)
        ax.axhline(1.0, color=PALETTE[6], lw=0.8, ls=":")
        ax.set(
            xlabel="feature",
            ylabel=name,
            ylim=(min(0.0, float(np.nanmin(values)) - 0.05), max(1.0, float(np.nanmax(values))) + 0.06),
        )
        if feature_cosine.shape[1] <= 12:
            ax.set_xticks(where)
    axes[0, 1].set_title("Features: direction")
    axes[0, 2].set_title("Features: length")
    for ax in axes.ravel():
        light_grid(ax)
    if 1 < len(names) <= 12:
        figure.legend(
            *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(names), 8)
        )
    return figure
