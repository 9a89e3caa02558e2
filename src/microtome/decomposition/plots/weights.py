"""Weights of components: the factors U and V, and the matrices they make."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from microtome.plotting.style import (
    FAINT,
    grid_shape,
    heatmap,
    panels,
    remove_unused,
    styled,
    symmetric_limit,
)


@styled
def uv_matrices(
    left: Mapping[str, Float[np.ndarray, "_ _"]],
    right: Mapping[str, Float[np.ndarray, "_ _"]],
    *,
    component_names: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """For each site its V ``[d_in, C]`` and U ``[C, d_out]`` as heatmaps, columns and rows as given.

    The length of each component is shared out evenly between its two halves by the caller or not at all;
    the scale of each panel is its own. Source: SPD paper code's UV_matrices.
    """
    figure, axes = panels(len(left), 2, width=3.9, height=2.7)
    for row, (site, v) in enumerate(left.items()):
        u = right[site]
        names = None if component_names is None else component_names[site]
        heatmap(
            axes[row, 0],
            v,
            signed=True,
            x_label="component",
            y_label="input dimension",
            title=f"{site}: V",
            scale_label="weight",
            x_ticks=names,
        )
        heatmap(
            axes[row, 1],
            u,
            signed=True,
            x_label="output dimension",
            y_label="component",
            title=f"{site}: U",
            scale_label="weight",
            y_ticks=names,
        )
    return figure


@styled
def component_weights(
    target: Float[np.ndarray, "d_in d_out"],
    total: Float[np.ndarray, "d_in d_out"],
    components: Float[np.ndarray, "C d_in d_out"],
    *,
    names: Sequence[str] | None = None,
    site: str = "",
    left_out: str = "",
    transpose: bool = False,
) -> Figure:
    """Heatmaps on one signed scale: target weight, sum of components, their difference, and the components.

    Components much smaller than the target are drawn with their values multiplied, which the line below
    says. ``transpose`` shows outputs downwards. Source: APD paper code's component_weights.
    """
    limit = symmetric_limit(target)
    factor = _magnification(limit, symmetric_limit(components)) if components.size else 1
    shown = [target, total, target - total, *components]
    labels = ["Target", "Sum of components", "Target - sum"]
    labels += [f"Component {name}" for name in (names or range(len(components)))]
    rows, columns = grid_shape(len(shown), 6)
    d_in, d_out = target.shape[::-1] if transpose else target.shape
    height = float(np.clip(1.5 * d_in / d_out, 1.1, 2.4)) + 0.35
    figure, axes = panels(rows, columns, width=1.75, height=height, title=site or None)
    for index, (ax, values, label) in enumerate(zip(axes.ravel(), shown, labels, strict=False)):
        end = limit if index < 3 else limit / factor
        turned = values.T if transpose else values
        heatmap(ax, turned, signed=True, limit=end, title=label, most_ticks=5)
        ax.title.set(fontsize=8.5, fontweight="bold" if index < 3 else "normal")
        ax.tick_params(labelsize=6.5)
        last_row = index + columns >= len(shown)
        ax.set_xlabel(("input" if transpose else "output") if last_row else "", fontsize=8)
        ax.set_ylabel(("output" if transpose else "input") if index % columns == 0 else "", fontsize=8)
    remove_unused(axes, len(shown))
    bar = figure.colorbar(
        axes[0, 0].get_images()[0], ax=axes.ravel()[: len(shown)].tolist(), fraction=0.02, pad=0.01
    )
    bar.set_label("weight", fontsize=8)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(labelsize=7)
    magnified = f"Components are drawn {factor} times enlarged in value. " if factor > 1 else ""
    if magnified + left_out:
        figure.supxlabel(magnified + left_out, fontsize=8, color=FAINT)
    return figure


def _magnification(target: float, components: float) -> int:
    """A round factor that brings the components near the target's scale; 1 within half of it."""
    factors = [1, 2, 5, 10, 20, 50, 100, 1000]
    return max(f for f in factors if f == 1 or f * components <= target)
