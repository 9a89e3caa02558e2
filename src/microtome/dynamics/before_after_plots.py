"""Pictures of a comparison: changes and similarity of every layer, entropy over time, sampling traces."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from microtome.plotting.style import (
    FAINT,
    INK,
    colour,
    grid_shape,
    light_grid,
    line_colours,
    note,
    panels,
    remove_unused,
    shortened,
    styled,
)

ROUNDING = 1e-6  # of the values: less is no difference
MOST_LAYERS = 24  # rows in one panel that can still be read


@styled
def entropy_figure(
    entropies: Mapping[str, Sequence[float]],
    steps: Sequence[int],
    jump_steps: Sequence[int] = (),
    uniform: float | None = None,
    title: str = "Attention entropy over training",
    log_steps: bool = False,
    mark: str = "jump",
) -> Figure:
    """Entropy of each named series over training steps; dashes at jumps, or whatever ``mark`` names."""
    figure, axes = panels(1, 1, width=5.6, height=3.2)
    ax = axes[0, 0]
    many = len(entropies) > 8
    colours = line_colours(len(entropies)) if many else [colour(i) for i in range(len(entropies))]
    for (name, values), shade in zip(entropies.items(), colours, strict=True):
        ax.plot(steps, list(values), "o-", color=shade, markersize=2.5, label=name or "entropy")
    if uniform is not None:
        ax.axhline(uniform, color=FAINT, linewidth=0.9, linestyle=":", label="even over all keys")
    for index, step in enumerate(jump_steps):
        ax.axvline(step, color=INK, linewidth=0.9, linestyle="--", label=None if index else mark)
    ax.set(xlabel="Training step", ylabel="Entropy (nats)", title=title)
    if log_steps and len(steps) and min(steps) >= 0:
        ax.set_xscale("symlog", linthresh=max(1, min((s for s in steps if s > 0), default=1)))
        ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    light_grid(ax)
    if len(entropies) > 1 or len(jump_steps) or uniform is not None:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def layer_changes_figure(
    measures: Mapping[str, Mapping[str, Mapping[str, float]]], names: tuple[str, str], title: str
) -> Figure:
    """Every layer from before (open) to after (filled), one panel a measure."""
    shown = {name: changes for name, changes in measures.items() if changes}
    layers = list(next(iter(shown.values()), {}))
    kept = layers if len(layers) <= MOST_LAYERS else [layers[i] for i in _spread(len(layers))]
    rows, columns = grid_shape(len(shown), 3)
    figure, axes = panels(
        rows, columns, width=3.3, height=0.9 + 0.19 * max(len(kept), 3), title=title, sharey=True
    )
    for index, (name, changes) in enumerate(shown.items()):
        _dumbbells(axes.ravel()[index], kept, changes, names, name)
    remove_unused(axes, len(shown))
    first = axes.ravel()[0]
    first.set_yticks(range(len(kept)), [shortened(layer, 32, 0.0) for layer in kept])
    first.set_ylim(len(kept) - 0.5, -0.5)
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=2)
    return figure


def _dumbbells(
    ax: Axes, layers: list[str], changes: Mapping[str, Mapping[str, float]], names: tuple[str, str], name: str
) -> None:
    before = np.array([changes[layer]["before"] for layer in layers])
    after = np.array([changes[layer]["after"] for layer in layers])
    places = np.arange(len(layers))
    for place in places:
        ax.plot([before[place], after[place]], [place, place], color=FAINT, linewidth=1.2)
    ax.plot(before, places, "o", color=colour(0), markerfacecolor="white", markersize=5, label=names[0])
    ax.plot(after, places, "o", color=colour(1), markersize=5, label=names[1])
    ax.set(title=name.replace("_", " "))
    ax.margins(x=0.08)
    light_grid(ax, "x")
    known = np.concatenate([before, after])
    known = known[np.isfinite(known)]
    if not known.size:
        note(ax, "not measured")
    elif np.ptp(known) <= ROUNDING * np.abs(known).max():
        ax.set_xlim(known.mean() - 0.5, known.mean() + 0.5)
        note(ax, "nothing but rounding", y=0.03)


@styled
def similarity_figure(representations: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """CKA, Procrustes similarity and subspace overlap between before and after, layer by layer."""
    layers = list(representations)
    kept = layers if len(layers) <= MOST_LAYERS else [layers[i] for i in _spread(len(layers))]
    figure, axes = panels(1, 1, width=6.0, height=1.2 + 0.22 * max(len(kept), 3))
    ax = axes[0, 0]
    places = np.arange(len(kept))
    for index, (key, words, mark) in enumerate(
        (
            ("cka", "CKA (debiased)", "o"),
            ("procrustes", "1 − Procrustes distance", "s"),
            ("subspace_overlap", "overlap of the first 10 directions", "^"),
        )
    ):
        values = np.array([representations[layer].get(key, np.nan) for layer in kept], dtype=float)
        values = 1 - values if key == "procrustes" else values
        ax.plot(values, places + 0.16 * (index - 1), mark, color=colour(index), markersize=5, label=words)
    ax.set_yticks(places, [shortened(layer, 32, 0.0) for layer in kept])
    ax.set(xlabel="Similarity of before and after (1: the same)", title=title)
    ax.set_ylim(len(kept) - 0.5, -0.5)
    ax.set_xlim(min(-0.03, ax.get_xlim()[0]), 1.03)
    light_grid(ax, "x")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return figure


@styled
def trace_figure(
    traces: Mapping[str, Float[np.ndarray, "chains draws"]], title: str = "Local learning coefficient"
) -> Figure:
    """Every chain's running estimate, one panel a step size."""
    figure, axes = panels(1, len(traces), width=2.5, height=2.3, title=title)
    for index, (name, trace) in enumerate(traces.items()):
        ax = axes[0, index]
        for chain, values in enumerate(trace):
            known = np.where(np.isfinite(values), values, np.nan)
            ax.plot(known, color=colour(chain), linewidth=0.8)
        ax.axhline(0, color=FAINT, linewidth=0.7)
        ax.set(xlabel="Draw", ylabel="Estimate of each draw" if index == 0 else "", title=name)
        light_grid(ax)
        if not np.isfinite(trace).all():
            note(ax, "diverged", y=0.9)
    return figure


def _spread(n: int) -> list[int]:
    return np.linspace(0, n - 1, MOST_LAYERS).round().astype(int).tolist()
