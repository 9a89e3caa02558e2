"""Component matrices and activation patterns (the SPD code's component_visualization)."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
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

MANY = 100_000


@styled
def component_matrices(
    sums: Mapping[str, Float[np.ndarray, "_ _"]], *, figsize: tuple[float, float] = (8.0, 6.0)
) -> Figure:
    """The sum of all components of every site, one signed scale; ``figsize`` in inches is that of a panel.

    The original script drew these sums too, but called them rank-one matrices.
    """
    rows, columns = grid_shape(len(sums), 3)
    # Panels larger than twice a readable size are drawn smaller; type would be lost in them.
    scale = max(1.0, figsize[0] / 4.0)
    figure, axes = panels(rows, columns, width=figsize[0] / scale, height=figsize[1] / scale)
    limit = symmetric_limit(*sums.values())
    for ax, (site, values) in zip(axes.ravel(), sums.items(), strict=False):
        heatmap(
            ax,
            values,
            signed=True,
            limit=limit,
            x_label="output dimension",
            y_label="input dimension",
            title=f"{site}: sum of all components",
            scale_label="weight",
        )
    remove_unused(axes, len(sums))
    return figure


@styled
def each_component(
    components: Float[np.ndarray, "C d_in d_out"],
    names: Sequence[str],
    share: Float[np.ndarray, " C"],
    *,
    site: str,
) -> Figure:
    """Every given component's own matrix ``V_c U_c`` as a heatmap, one signed scale, inputs downwards.

    Above each: its index, norm and the share of the inputs that it is active on.
    """
    rows, columns = grid_shape(len(components), 10)
    d_in, d_out = components.shape[1:]
    height = float(np.clip(1.05 * d_in / max(d_out, 1), 0.55, 1.9)) + 0.38
    figure, axes = panels(rows, columns, width=1.15, height=height)
    limit, beyond = symmetric_limit(components), ""
    if components.size > MANY:  # a few large entries would leave all others white
        limit = float(np.quantile(np.abs(components), 0.999)) or limit
        beyond = " (0.1 % of the entries are beyond the scale)"
    for index, (ax, values) in enumerate(zip(axes.ravel(), components, strict=False)):
        heatmap(ax, values, signed=True, limit=limit)
        norm = float(np.sqrt(np.square(values).sum()))
        ax.set_title(f"{names[index]}:  {norm:.2g}  {share[index]:.0%}", fontsize=7, pad=2.5)
        ax.set(xticks=[], yticks=[])
    remove_unused(axes, len(components))
    shown = axes.ravel()[: len(components)].tolist()
    bar = figure.colorbar(axes[0, 0].get_images()[0], ax=shown, fraction=0.02, pad=0.01, aspect=30)
    bar.set_label(f"weight{beyond}", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(f"{site}: each component ({d_in} inputs down, {d_out} outputs across)", x=0.01, ha="left")
    words = "Above each: component, norm, share of the inputs on which it is active."
    figure.supxlabel(words, fontsize=8, color=FAINT)
    return figure


@styled
def activation_pattern(
    strength: Mapping[float, Float[np.ndarray, "n C"]],
    order: Int[np.ndarray, " C"],
    site: str,
    measure: str,
    *,
    most: int = 150,
) -> Figure:
    """How strongly each component fires for each input, a panel a magnitude; columns in the given ``order``.

    ``order`` holds the columns' component indices; at most 150 columns are shown.
    """
    rows, columns = grid_shape(len(strength), 4)
    figure, axes = panels(rows, columns, width=3.7 if len(strength) == 1 else 2.8, height=3.0)
    for index, (ax, (magnitude, values)) in enumerate(zip(axes.ravel(), strength.items(), strict=False)):
        last = index + columns >= len(strength)
        heatmap(
            ax,
            values[:, :most],
            limit=1.0,
            title=f"one feature at {magnitude:g}" if len(strength) > 1 else "",
            x_label="component" if last else "",
            y_label="input" if index % columns == 0 else "",
            x_ticks=[str(c) for c in order[:most]],
            most_ticks=8,
        )
    remove_unused(axes, len(strength))
    shown = axes.ravel()[: len(strength)].tolist()
    bar = figure.colorbar(axes[0, 0].get_images()[0], ax=shown, fraction=0.04, pad=0.02)
    bar.set_label(measure, fontsize=8)
    figure.suptitle(f"{site}: which component fires for which input", x=0.01, ha="left")
    return figure
