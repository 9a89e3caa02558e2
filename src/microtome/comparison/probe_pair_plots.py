"""Pictures of the probes of two arms: both over depth, their difference, code lengths, onset."""

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from microtome.comparison.layer_axis import layer_axis, short_names
from microtome.comparison.probe_arrays import key
from microtome.comparison.probe_panels import (
    Drawn,
    band,
    curve,
    task_panels,
    untrained_curve,
)
from microtome.plotting.style import FAINT, INK, colour, integer_ticks, light_grid, panels, styled


def draw_pair(drawn: Drawn, a: str, b: str, folder: str, *, first: bool) -> Iterator[tuple[str, Figure]]:
    """Pictures of one pair; the first pair's have the names of the original tools."""
    yield f"{folder}/{a}_vs_{b}_linear_probe.png", both_figure(drawn, a, b, "linear")
    if drawn.rows("MLP accuracy", a) and drawn.rows("MLP accuracy", b):
        yield f"{folder}/{a}_vs_{b}_nonlinear_probe.png", both_figure(drawn, a, b, "MLP")
    name = f"{a}_advantage_by_layer" if first else f"{a}_advantage_over_{b}_by_layer"
    yield f"{folder}/{name}.png", advantage_figure(drawn, a, b)
    yield f"{folder}/{a}_vs_{b}_selectivity.png", selectivity_figure(drawn, a, b)
    if drawn.rows("description length", a) and drawn.rows("description length", b):
        yield f"{folder}/{a}_vs_{b}_description_length.png", code_figure(drawn, a, b)
    if drawn.rows("decodable from layer", a) or drawn.rows("decodable from layer", b):
        yield f"{folder}/{a}_vs_{b}_decodable_from.png", decodable_figure(drawn, a, b)


@styled
def both_figure(drawn: Drawn, a: str, b: str, kind: str) -> Figure:
    """Accuracy of both arms over depth, a panel a label, above untrained networks and permuted labels."""
    figure, axes = task_panels(drawn, f"{kind[0].upper()}{kind[1:]} probes: {a} and {b}")
    for ax, task in zip(axes, drawn.tasks, strict=False):
        if kind == "linear":
            band(ax, drawn.null_band(task, a), FAINT, "permuted labels (95 %)")
        else:
            chance = drawn.part.arrays[key(task, "chance")][0]
            ax.axhline(chance, color=FAINT, linestyle=":", label="most frequent class")
        for i, arm in enumerate((a, b)):
            curve(ax, drawn.of_layers(drawn.rows(f"{kind} accuracy", arm, task)), colour(i), arm)
        _untrained(ax, drawn, a, b, task, kind)
        layer_axis(ax, drawn.layers)
        ax.set(title=task, ylabel="held-out accuracy")
    axes[0].legend(loc="best")
    return figure


def _untrained(ax: Axes, drawn: Drawn, a: str, b: str, task: str, kind: str) -> None:
    """One dashed curve where both arms share their untrained networks, else one an arm."""
    values = [drawn.part.arrays.get(key(task, arm, kind, "untrained")) for arm in (a, b)]
    if values[0] is not None and values[1] is not None and np.array_equal(values[0], values[1]):
        untrained_curve(ax, drawn, task, a, kind, FAINT)
        return
    for i, arm in enumerate((a, b)):
        untrained_curve(ax, drawn, task, arm, kind, colour(i), f"{arm}, untrained")


@styled
def advantage_figure(drawn: Drawn, a: str, b: str) -> Figure:
    """Accuracy of a minus that of b with its interval, beside what two untrained networks differ by."""
    figure, axes = task_panels(drawn, f"Accuracy of linear probes: {a} minus {b}")
    for ax, task in zip(axes, drawn.tasks, strict=False):
        noise = drawn.part.arrays.get(key(task, a, b, "noise"))
        if noise is not None and len(noise):
            band(ax, np.stack([-noise, noise]), FAINT, "two untrained networks (95 %)")
        ax.axhline(0, color=INK, linewidth=0.8)
        rows = drawn.of_layers(drawn.rows("linear accuracy difference", a, task, b))
        curve(ax, rows, colour(0), "linear (95 % interval)")
        mlp = drawn.of_layers(drawn.rows("MLP accuracy difference", a, task, b))
        curve(ax, mlp, colour(1), "MLP", ":", shade=0.0)
        layer_axis(ax, drawn.layers)
        reach = max(abs(value) for value in (*ax.get_ylim(), 0.02))
        ax.set(title=task, ylabel=f"{a} − {b}", ylim=(-reach, reach))
    axes[0].legend(loc="best")
    return figure


@styled
def selectivity_figure(drawn: Drawn, a: str, b: str) -> Figure:
    """Accuracy above that on control labels, a panel a label."""
    figure, axes = task_panels(drawn, "Selectivity: accuracy above that on control labels")
    for ax, task in zip(axes, drawn.tasks, strict=False):
        for i, arm in enumerate((a, b)):
            curve(ax, drawn.of_layers(drawn.rows("linear selectivity", arm, task)), colour(i), arm)
        ax.axhline(0, color=INK, linewidth=0.8)
        layer_axis(ax, drawn.layers)
        ax.set(title=task, ylabel="selectivity")
    axes[0].legend(loc="best")
    return figure


@styled
def code_figure(drawn: Drawn, a: str, b: str) -> Figure:
    """Bits a label of the online code over depth; less is more decodable, and sooner."""
    figure, axes = task_panels(drawn, "Description length of the labels (less is easier to decode)")
    for ax, task in zip(axes, drawn.tasks, strict=False):
        uniform = float(np.log2(1 / drawn.part.arrays[key(task, "chance")][1]))
        ax.axhline(uniform, color=FAINT, linestyle=":", label="uniform code")
        for i, arm in enumerate((a, b)):
            rows = drawn.of_layers(drawn.rows("description length", arm, task))
            curve(ax, rows, colour(i), arm)
            if i == 0 and all(row.floor is not None for row in rows):
                floors = np.array([row.floor for row in rows], dtype=float)
                ax.plot(floors, "--", color=FAINT, linewidth=1.1, label="untrained networks")
        layer_axis(ax, drawn.layers)
        ax.set(title=task, ylabel="bits a label", ylim=(0, None))
    axes[0].legend(loc="best")
    return figure


@styled
def decodable_figure(drawn: Drawn, a: str, b: str) -> Figure:
    """The first layer from which each label is decodable, with its interval, in both arms."""
    height = 1.2 + 0.55 * len(drawn.tasks)
    figure, axes = panels(1, 1, width=6.2, height=height, title="Decodable from which layer on")
    ax = axes[0, 0]
    for i, arm in enumerate((a, b)):
        rows = {row.label: row for row in drawn.rows("decodable from layer", arm)}
        places = [(j, rows[task]) for j, task in enumerate(drawn.tasks) if task in rows]
        offset = (i - 0.5) * 0.24
        for j, row in places:
            ax.plot([row.low, row.high], [j + offset] * 2, color=colour(i), linewidth=3, alpha=0.35)
        heights = [j + offset for j, _ in places]
        ax.plot([row.value for _, row in places], heights, "o", color=colour(i), label=arm)
        floors = [(r.floor, j + offset) for j, r in places if r.floor is not None]
        label = "untrained networks" if i == 1 else None
        ax.plot([f for f, _ in floors], [y for _, y in floors], "x", color=FAINT, markersize=5, label=label)
    ax.set_yticks(range(len(drawn.tasks)), list(drawn.tasks))
    ax.set_ylim(len(drawn.tasks) - 0.4, -0.6)
    ticks = integer_ticks(len(drawn.layers), 12)
    short = short_names(drawn.layers, 14)
    names = [short[i] for i in ticks]
    ax.set_xticks([i + 1 for i in ticks], names, rotation=30 if sum(map(len, names)) > 60 else 0)
    ax.set_xlim(0.6, len(drawn.layers) + 0.4)
    light_grid(ax, "x")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
