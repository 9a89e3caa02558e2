"""The unified grid: neurons, output, causal importances, gate outputs and gate inputs against magnitude."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from microtome.plotting.style import (
    FAINT,
    LINES,
    LINES_IMPORTANCE,
    PALETTE,
    light_grid,
    line_colours,
    note,
    styled,
)

COLUMNS = 10
# An overview panel is as wide and as high as two of the small ones.
SPAN = 2
MAX_COMPONENTS = 10
X_LABEL = "input magnitude"


@dataclass(frozen=True)
class GridData:
    """Responses of one site to one feature, over S magnitudes; ``neurons`` and the gate arrays may be None.

    ``components`` are the indices of the columns of the gate arrays, ``neuron_names`` those of ``neurons``.
    ``importance_note`` says why no component is drawn.
    """

    magnitudes: Float[np.ndarray, " S"]
    outputs: Float[np.ndarray, "S d_out"]
    neurons: Float[np.ndarray, "S N"] | None
    neuron_names: Int[np.ndarray, " N"]
    components: Int[np.ndarray, " c"]
    importance: Float[np.ndarray, "S c"] | None
    gate_outputs: Float[np.ndarray, "S c"] | None
    gate_inputs: Float[np.ndarray, "S c"] | None
    importance_note: str = ""
    nonlinear: bool = True  # whether a nonlinearity changes the neurons


@styled
def unified_grid(
    data: GridData,
    *,
    feature: int,
    site: str,
    figsize_per_subplot: tuple[float, float] = (2.0, 1.5),
    pre_activation: bool = False,
    summary_only: bool = False,
    ci_threshold: float = 0.1,
    seed_name: str = "",
) -> Figure:
    """An overview row (one panel a family, a line a neuron or component), then a panel each.

    Neurons are coloured by index in viridis, components in plasma, in both parts alike. Neurons share one
    scale, importances run from 0 to 1, gate outputs and gate inputs share a scale each.
    """
    families = _families(data, pre_activation, ci_threshold, feature)
    blocks = (
        [] if summary_only else [f for f in families if f.each and f.values is not None and f.values.size]
    )
    rows = [SPAN] + [-(-block.values.shape[1] // COLUMNS) for block in blocks if block.values is not None]
    figure, slots = _layout(rows, figsize_per_subplot)
    top = 1 - 0.12 / figure.get_figheight()
    heading = ", ".join(filter(None, (f"Feature {feature}", site, seed_name)))
    figure.suptitle(heading, x=0.01, y=top, ha="left", va="top")
    for slot, family in zip(range(0, COLUMNS, SPAN), families, strict=True):
        ax = figure.add_subplot(slots[0][:, slot : slot + SPAN])
        _overview(ax, family, data.magnitudes, feature)
    if len(data.components):
        _name_components(figure, data.components, families[2].colours, top)
    for slot, block in zip(slots[1:], blocks, strict=True):
        _one_each(figure, slot, block, data.magnitudes)
    return figure


def _name_components(figure: Figure, components: np.ndarray, colours: Sequence[Any], top: float) -> None:
    """A legend of the components on the title's line, where it covers no data."""
    figure.legend(
        [Line2D([], [], color=colour, lw=2) for colour in colours],
        [f"component {c}" for c in components],
        loc="upper right",
        bbox_to_anchor=(1 - 0.2 / figure.get_figwidth(), top),
        ncols=MAX_COMPONENTS,
        borderaxespad=0,
    )


@dataclass(frozen=True)
class _Family:
    title: str
    label: str
    values: np.ndarray | None
    names: Sequence[str]
    colours: Sequence[Any]
    each: bool
    limits: tuple[float, float] | None
    missing: str = ""
    threshold: float | None = None


def _families(data: GridData, pre_activation: bool, threshold: float, feature: int) -> list[_Family]:
    stage = "before" if pre_activation else "after"
    n_neurons = len(data.neuron_names)
    parts = [str(c) for c in data.components]
    plasma = line_colours(len(parts), LINES_IMPORTANCE)
    outputs = data.outputs.shape[1]
    lines = [PALETTE[1] if i == feature else "#c9cdd2" for i in range(outputs)]
    missing = data.importance_note
    return [
        _Family(
            f"Neurons, {stage} the nonlinearity" if data.nonlinear else "Neurons",
            "activation",
            data.neurons,
            [str(i) for i in data.neuron_names],
            line_colours(n_neurons, LINES),
            True,
            _limits(data.neurons),
            "this layer's outputs are\nno neurons",
        ),
        _Family(
            f"Outputs (output {feature} coloured)",
            "output",
            data.outputs,
            [str(i) for i in range(outputs)],
            lines,
            False,
            None,
        ),
        _Family(
            f"Causal importance (if > {threshold:g})",
            "causal importance",
            data.importance,
            parts,
            plasma,
            True,
            _importance_limits(data.importance),
            missing,
            threshold,
        ),
        _Family(
            "Gate output, before the sigmoid",
            "gate output",
            data.gate_outputs,
            parts,
            plasma,
            True,
            _limits(data.gate_outputs),
            missing,
        ),
        _Family(
            "Gate input (inner activation)",
            "gate input",
            data.gate_inputs,
            parts,
            plasma,
            True,
            _limits(data.gate_inputs),
            missing,
        ),
    ]


def _limits(values: np.ndarray | None) -> tuple[float, float] | None:
    if values is None or not values.size:
        return None
    low, high = float(values.min()), float(values.max())
    room = 0.06 * ((high - low) or 1.0)
    return low - room, high + room


def _importance_limits(values: np.ndarray | None) -> tuple[float, float]:
    # The lower-leaky sigmoid goes below 0, for strongly negative gates too far to show.
    lowest = 0.0 if values is None or not values.size else min(0.0, float(values.min()))
    return max(lowest, -0.1) - 0.04, 1.04


def _layout(rows: Sequence[int], panel: tuple[float, float]) -> tuple[Figure, list[Any]]:
    """A figure with one grid of slots a block; margins are inches, so that any panel size reads alike."""
    width, height = panel
    left, right, top, bottom, between, gap_x, gap_y = 0.85, 0.2, 0.75, 0.5, 0.85, 0.22, 0.32
    total_width = left + COLUMNS * width + right
    total = top + sum(n * height for n in rows) + between * (len(rows) - 1) + bottom
    figure = Figure(figsize=(total_width, total))
    figure.set_layout_engine("none")
    grids, upper = [], total - top
    for block, n in enumerate(rows):
        grid = figure.add_gridspec(
            n,
            COLUMNS,
            left=left / total_width,
            right=1 - right / total_width,
            top=upper / total,
            bottom=(upper - n * height) / total,
            wspace=(1.0 if block == 0 else gap_x) / width,
            hspace=gap_y / height,
        )
        grids.append(grid)
        upper -= n * height + between
    return figure, grids


def _overview(ax: Axes, family: _Family, magnitudes: np.ndarray, feature: int) -> None:
    ax.set(title=family.title, xlabel=X_LABEL)
    ax.set_xlim(magnitudes[0], magnitudes[-1])
    if family.values is None or not family.values.size:
        note(ax, family.missing or "nothing to draw")
        ax.set(xticks=[], yticks=[])
        return
    for index, line in enumerate(family.values.T):
        own = not family.each and index == feature
        width = 2.0 if own else 1.1 if family.each else 0.6
        ax.plot(magnitudes, line, color=family.colours[index], lw=width, zorder=3 if own else 2)
    ax.set_ylabel(family.label)
    if family.limits is not None:
        ax.set_ylim(*family.limits)
    if family.threshold is not None:
        ax.axhline(family.threshold, color=FAINT, lw=0.8, ls=":")
    light_grid(ax)


def _one_each(figure: Figure, slots: Any, family: _Family, magnitudes: np.ndarray) -> None:
    """A small panel a line: same axes throughout, labelled on the outer ones only."""
    values = family.values
    assert values is not None
    count = values.shape[1]
    first: Axes | None = None
    for index in range(count):
        row, column = divmod(index, COLUMNS)
        ax = figure.add_subplot(slots[row, column], sharex=first, sharey=first)
        first = first or ax
        shade = family.colours[index]
        ax.plot(magnitudes, values[:, index], color=shade, lw=1.4)
        if family.threshold is not None:
            ax.axhline(family.threshold, color=FAINT, lw=0.7, ls=":")
        kind = "component" if family.label != "activation" else "neuron"
        ax.set_title(f"{kind} {family.names[index]}", fontsize=7.5, pad=2.0, loc="left")
        ax.tick_params(labelsize=6.5)
        # Ticks are most of the drawing time, and the outer panels carry them for all.
        if column == 0:
            ax.set_ylabel(family.label, fontsize=7.5)
        else:
            ax.yaxis.set_visible(False)
        if index + COLUMNS >= count:
            ax.set_xlabel(X_LABEL, fontsize=7.5)
        else:
            ax.xaxis.set_visible(False)
    assert first is not None
    first.set_xlim(magnitudes[0], magnitudes[-1])
    first.xaxis.set_major_locator(MaxNLocator(2))
    if family.limits is not None:
        first.set_ylim(*family.limits)
