"""Shapes that show small networks: feature vectors in the plane, and nodes joined by weights."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from microtome.plotting.style import FAINT, GRID, INK, category_colours


def draw_polygon(
    ax: Axes,
    vectors: np.ndarray,
    *,
    limit: float | None = None,
    labels: bool = False,
    colours: Sequence[object] | None = None,
) -> None:
    """Draw feature vectors ``[n_features, 2]`` as arrows from the origin, one colour a feature.

    ``limit`` is the half-width of the square; panels to compare share it. ``labels`` numbers the tips.
    """
    shades = category_colours(len(vectors)) if colours is None else list(colours)
    half = limit if limit is not None else 1.15 * max(float(np.abs(vectors).max(initial=0.0)), 1e-6)
    ax.axhline(0, color=GRID, lw=0.7, zorder=0)
    ax.axvline(0, color=GRID, lw=0.7, zorder=0)
    for index, (x, y) in enumerate(vectors):
        ax.plot([0, x], [0, y], color=shades[index], lw=2.0, solid_capstyle="round", zorder=2)
        ax.plot([x], [y], "o", color=shades[index], ms=4.5, zorder=3)
        length = float(np.hypot(x, y))
        if labels and length > 0.1 * half:
            offset = 1 + 0.16 * half / length
            place = {"ha": "center", "va": "center", "fontsize": 7.5, "color": INK}
            number = ax.text(x * offset, y * offset, str(index), clip_on=True, **place)
            number.set_in_layout(False)  # a tip outside the panel would make room for itself beside it
    ax.set(xlim=(-half, half), ylim=(-half, half), aspect="equal", xticks=[], yticks=[])
    for side in ax.spines.values():
        side.set(visible=True, color=GRID)


def draw_network(
    ax: Axes,
    layers: Sequence[np.ndarray],
    *,
    limit: float | None = None,
    colours: Sequence[object] | None = None,
    layer_names: Sequence[str] | None = None,
) -> None:
    """Draw nodes in rows (inputs below) joined by weight matrices ``[d_in, d_out]``.

    Width and opacity of an edge follow ``|weight| / limit``; negative weights are dashed. Edges take the
    colour of the feature at their outer end (input side of the first layer, output side of the last).
    """
    sizes = [layers[0].shape[0], *(w.shape[1] for w in layers)]
    largest = limit if limit is not None else max(float(np.abs(w).max(initial=0.0)) for w in layers)
    largest = largest or 1.0
    shades = category_colours(sizes[0]) if colours is None else list(colours)
    positions = [np.linspace(-1, 1, size) if size > 1 else np.zeros(1) for size in sizes]
    # Narrow layers sit closer together than the wide ones.
    positions = [p * (0.3 + 0.7 * (len(p) / max(sizes))) for p in positions]
    last = len(layers) - 1
    for level, weight in enumerate(layers):
        for i, j in np.ndindex(*weight.shape):
            strength = min(1.0, abs(float(weight[i, j])) / largest)
            if strength < 0.02:
                continue
            outer = i if level == 0 else j if level == last and sizes[-1] == sizes[0] else None
            ax.plot(
                [positions[level][i], positions[level + 1][j]],
                [level, level + 1],
                color=FAINT if outer is None else shades[outer],  # pyright: ignore[reportArgumentType]
                lw=0.4 + 2.4 * strength,
                alpha=0.15 + 0.85 * strength,
                ls="-" if weight[i, j] > 0 else (0, (1.6, 1.2)),
                zorder=1,
            )
    for level, x in enumerate(positions):
        outer_layer = len(x) == sizes[0] and level in (0, len(layers))
        ax.scatter(
            x,
            np.full(len(x), float(level)),
            s=30 if len(x) <= 8 else 12,
            c=shades if outer_layer else [INK] * len(x),  # pyright: ignore[reportArgumentType]
            edgecolors="white",
            linewidths=0.8,
            zorder=2,
        )
    ax.set(xlim=(-1.15, 1.15), ylim=(-0.25, len(layers) + 0.25), xticks=[])
    names = list(layer_names) if layer_names is not None else []
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
