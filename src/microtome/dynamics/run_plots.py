"""One picture of a run: loss, accuracies and a measure of every layer over training, transitions shaded."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from microtome.plotting.style import colour, light_grid, line_colours, panels, styled

SHADE = "#f3d9a4"
APART = 0.07  # of the axis between two labels
MOST_NAMED = 14  # layers in a legend
Series = Mapping[str, tuple[np.ndarray, np.ndarray]]
Spans = Sequence[tuple[float, float, str]]


@styled
def course_figure(
    losses: Series,
    shares: Series,
    layers: Sequence[str],
    steps: np.ndarray,
    values: Float[np.ndarray, "n L"],
    measure: str,
    spans: Spans = (),
    title: str = "",
) -> Figure:
    """Rows of panels over training steps; ``spans`` are shaded (start, end, label).

    ``losses`` are drawn on a logarithmic scale, ``shares`` (accuracies) from 0 to 1; either may be empty.
    """
    kinds = [kind for kind, there in (("loss", losses), ("share", shares), ("measure", True)) if there]
    heights = [1.0 if kind != "measure" else 1.3 for kind in kinds]
    figure, axes = panels(
        len(kinds), 1, width=7.0, height=2.0, title=title or None, sharex=True, height_ratios=heights
    )
    logarithmic = uneven(steps)
    for row, (kind, ax) in enumerate(zip(kinds, axes[:, 0], strict=True)):
        if logarithmic:
            ax.set_xscale("symlog", linthresh=max(1.0, float(steps[steps > 0].min(initial=10**9))))
            ax.set_xlim(left=0)
        _shade(ax, spans, row == 0, float(steps[-1]))
        if kind == "measure":
            _layers(ax, layers, steps, values)
            ax.set_ylabel(measure.replace("_", " ").capitalize())
        else:
            _lines(ax, losses if kind == "loss" else shares)
            ax.set_ylabel("Loss" if kind == "loss" else "Accuracy")
            if kind == "share":
                ax.set_ylim(-0.03, 1.03)
            elif all((known > 0).all() for _, known in losses.values()):
                ax.set_yscale("log")
        light_grid(ax)
    axes[-1, 0].set_xlabel("Training step")
    return figure


def uneven(steps: np.ndarray) -> bool:
    """Whether records lie evenly in the logarithm of the step rather than in the step."""
    later = steps[steps > 0]
    return len(later) > 3 and bool(np.median(later) < later[-1] / 4)


def _lines(ax: Axes, series: Series) -> None:
    for index, (name, (steps, values)) in enumerate(series.items()):
        thick = 1.4 if len(values) < 500 else 0.8
        ax.plot(steps, values, color=colour(index), linewidth=thick, label=name.replace("_", " "))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _layers(ax: Axes, layers: Sequence[str], steps: np.ndarray, values: np.ndarray) -> None:
    shades = line_colours(len(layers)) if len(layers) > 8 else [colour(i) for i in range(len(layers))]
    for place, layer in enumerate(layers):
        ax.plot(steps, values[:, place], color=shades[place], linewidth=1.2, label=layer)
    if len(layers) <= MOST_NAMED:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
    else:
        ax.text(
            1.01, 0.5, f"{len(layers)} layers,\nfirst dark,\nlast pale", transform=ax.transAxes, va="center"
        )


def _shade(ax: Axes, spans: Spans, named: bool, length: float) -> None:
    """``length``: training steps along the axis; labels that would overlap one before them are left out."""
    placed: list[float] = []
    for start, end, label in spans:
        ax.axvspan(start, end, color=SHADE, alpha=0.6, linewidth=0)
        middle = (start + end) / 2
        if named and all(abs(middle - other) > APART * length for other in placed):
            placed.append(middle)
            ax.annotate(
                label,
                (middle, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
            )
