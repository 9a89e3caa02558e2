"""Components of a network that reads images: what each one looks for, and for which classes it fires."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from microtome.plotting.style import DIVERGING, FAINT, GRID, INK, colour, grid_shape, styled


@styled
def component_images(
    images: Float[np.ndarray, "C height width"],
    strengths: Float[np.ndarray, "C n_classes"],
    captions: Sequence[str],
    *,
    class_names: Sequence[str] | None = None,
    strength_label: str = "mean causal importance",
    max_columns: int = 6,
) -> Figure:
    """Each component's input weights as an image above bars of its strength for each class.

    Red pixels raise the component's activation, blue ones lower it; every image has its own scale. The
    bars (0 to 1) of the classes that the component fires for (above half of its strongest) are coloured.
    """
    n_components, n_classes = strengths.shape
    names = class_names or [str(i) for i in range(n_classes)]
    rows, columns = grid_shape(n_components, max_columns)
    figure = Figure(figsize=(1.5 * columns + 0.5, 2.35 * rows + 0.35))
    axes = figure.subplots(
        2 * rows, columns, squeeze=False, gridspec_kw={"height_ratios": [1.0, 0.42] * rows}
    )
    for index in range(rows * columns):
        row, column = divmod(index, columns)
        picture, bars = axes[2 * row, column], axes[2 * row + 1, column]
        if index >= n_components:
            picture.remove()
            bars.remove()
            continue
        limit = float(np.abs(images[index]).max()) or 1.0
        picture.imshow(images[index], cmap=DIVERGING, vmin=-limit, vmax=limit)
        picture.set(xticks=[], yticks=[])
        picture.set_title(captions[index], fontsize=8, loc="center")
        for side in picture.spines.values():
            side.set(visible=True, color=GRID)
        strong = strengths[index] > 0.5 * max(float(strengths[index].max()), 1e-12)
        bars.bar(
            range(n_classes), strengths[index], color=[colour(1) if s else FAINT for s in strong], width=0.8
        )
        bars.set(ylim=(0, 1.0), yticks=[0, 1])
        bars.set_xticks(range(n_classes), list(names), fontsize=7, color=INK)
        bars.tick_params(length=0)
        bars.tick_params(axis="y", labelsize=6.5, labelleft=column == 0)
    figure.supylabel(f"weights, and below {strength_label} per class", fontsize=8)
    return figure
