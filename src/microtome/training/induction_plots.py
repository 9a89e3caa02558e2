"""The picture of a trained induction-head toy. Arrays in, Figure out."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from microtome.plotting.style import heatmap, panels, styled


@styled
def attention_patterns(
    attention: Sequence[np.ndarray],
    scores: Sequence[Sequence[tuple[float, float]]],
    repeats_from: int | None = None,
) -> Figure:
    """Attention of one sequence: ``attention[layer] [heads, T, T]``, a row of panels for each layer.

    ``scores[layer][head]``: mean attention to the previous token and to what came after the same token
    before. ``repeats_from``: the first position whose token stood before, drawn as a line.
    """
    n_layers, n_heads = len(attention), len(attention[0])
    single = n_heads == 1
    shape = (1, n_layers) if single else (n_layers, n_heads)
    figure, axes = panels(*shape, width=3.4, height=3.5)
    for layer, heads in enumerate(attention):
        for head, pattern in enumerate(heads):
            ax = axes[0, layer] if single else axes[layer, head]
            previous, induction = scores[layer][head]
            heatmap(
                ax,
                pattern,
                x_label="position looked at",
                y_label="position",
                title=f"layer {layer}, head {head}\nprevious token {previous:.2f}, induction {induction:.2f}",
                limit=1.0,
                scale_label="attention"
                if head + 1 == n_heads and (not single or layer + 1 == n_layers)
                else None,
                equal=True,
            )
            if repeats_from is not None:
                ax.axhline(repeats_from - 0.5, color="0.35", lw=0.8, ls=(0, (3, 2)))
    if repeats_from is not None:
        figure.suptitle("below the dashed line every token has been seen before", fontsize="medium")
    return figure
