"""Pictures of the probes of every arm; those of pairs of arms are drawn in a room of their own."""

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from microtome.comparison.layer_axis import layer_axis, short_names
from microtome.comparison.part import Part, Row
from microtome.comparison.probe_arrays import SHRINKAGES, key
from microtome.comparison.probe_pair_plots import draw_pair
from microtome.comparison.probe_panels import (
    Drawn,
    band,
    curve,
    task_panels,
    untrained_curve,
)
from microtome.plotting.style import (
    FAINT,
    colour,
    heatmap,
    integer_ticks,
    light_grid,
    note,
    panels,
    shortened,
    styled,
)

FOLDER = "probe_analysis"
MOST_LAYER_PICTURES = 48  # of one arm; above, layers are taken evenly
MOST_CELLS = 60  # numbers are written into a heatmap of so many cells


def draw(part: Part) -> Iterator[tuple[str, Figure]]:
    """Every picture of the part: its path in the output folder, and the figure."""
    drawn = Drawn.of(part)
    if not drawn.tasks:
        return
    for arm in drawn.arms:
        place = f"{FOLDER}/{arm}_probing"
        yield f"{place}/probe_accuracy_summary.png", summary_figure(drawn, arm)
        yield f"{place}/probe_accuracy_by_depth.png", depth_figure(drawn, arm)
        every = max(1, -(-len(drawn.layers) * len(drawn.tasks) // MOST_LAYER_PICTURES))
        for layer in drawn.layers[::every]:
            for task in drawn.tasks:
                yield (
                    f"{place}/probe_{_plain(layer)}_{_plain(task)}.png",
                    layer_figure(drawn, arm, layer, task),
                )
    for i, (a, b) in enumerate(drawn.pairs):
        yield from draw_pair(drawn, a, b, FOLDER, first=i == 0)


def _plain(name: str) -> str:
    return "".join("_" if sign in './\\: \t<>|"?*' else sign for sign in name)


@styled
def summary_figure(drawn: Drawn, arm: str) -> Figure:
    """Accuracy of every layer and label: linear beside MLP probes."""
    kinds = [kind for kind in ("linear", "MLP") if drawn.rows(f"{kind} accuracy", arm)]
    height = min(0.9 + 0.28 * len(drawn.layers), 7.5)
    width = min(2.4 + 0.75 * len(drawn.tasks), 6.0)
    figure, axes = panels(1, len(kinds), width=width, height=height, title=f"What can be decoded from {arm}")
    for ax, kind in zip(axes[0], kinds, strict=True):
        values = np.array(
            [
                [row.value for row in drawn.of_layers(drawn.rows(f"{kind} accuracy", arm, task))]
                for task in drawn.tasks
            ]
        ).T
        heatmap(
            ax,
            values,
            title=f"{kind} probes",
            limit=1.0,
            x_ticks=[shortened(task) for task in drawn.tasks],
            y_ticks=short_names(drawn.layers, 18),
            scale_label="held-out accuracy" if kind == kinds[-1] else None,
            most_ticks=30,
        )
        if len(drawn.tasks) > 2:
            ax.tick_params(axis="x", labelrotation=30)
        if values.size <= MOST_CELLS:
            _numbers(ax, values)
    return figure


def _numbers(ax: Axes, values: np.ndarray) -> None:
    for (i, j), value in np.ndenumerate(values):
        ax.text(
            j,
            i,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if value > 0.6 else "black",
        )


@styled
def depth_figure(drawn: Drawn, arm: str) -> Figure:
    """Accuracy over depth, a panel a label: linear and MLP probes, untrained networks, permuted labels."""
    figure, axes = task_panels(drawn, f"What can be decoded from {arm}, by depth")
    for ax, task in zip(axes, drawn.tasks, strict=False):
        band(ax, drawn.null_band(task, arm), FAINT, "permuted labels (95 %)")
        untrained_curve(ax, drawn, task, arm, "linear", FAINT)
        for i, kind in enumerate(("linear", "MLP", "logistic")):
            curve(ax, drawn.of_layers(drawn.rows(f"{kind} accuracy", arm, task)), colour(i), f"{kind} probe")
        layer_axis(ax, drawn.layers)
        ax.set(title=task, ylabel="held-out accuracy")
    axes[0].legend(loc="best")
    return figure


@styled
def layer_figure(drawn: Drawn, arm: str, layer: str, task: str) -> Figure:
    """One layer and label: accuracies against their controls, how probes were chosen, and the code."""
    # Dozens of these are drawn: fixed margins take half the time of a layout that is worked out.
    figure = Figure(figsize=(9.9, 2.9), layout="none")  # pyright: ignore[reportArgumentType]
    axes = figure.subplots(1, 3, squeeze=False)
    figure.subplots_adjust(left=0.065, right=0.985, bottom=0.2, top=0.8, wspace=0.28)
    figure.suptitle(f"{task} in {layer} of {arm}", x=0.01, ha="left")
    _controls(axes[0, 0], drawn, arm, layer, task)
    _training(axes[0, 1], drawn, arm, layer, task)
    _code(axes[0, 2], drawn, arm, layer, task)
    return figure


def _controls(ax: Axes, drawn: Drawn, arm: str, layer: str, task: str) -> None:
    rows = [row for row in drawn.part.rows if (row.arm, row.layer, row.label) == (arm, layer, task)]
    found = {row.statistic: row for row in rows if not row.other}
    names: list[str] = []
    for kind in ("linear", "MLP", "logistic"):
        row = found.get(f"{kind} accuracy")
        if row is None:
            continue
        _bar(ax, len(names), row)
        names.append(kind)
    linear, selective = found["linear accuracy"], found.get("linear selectivity")
    beside = [("untrained", linear.floor), ("permuted", linear.null)]
    if selective is not None:
        beside.append(("control", linear.value - selective.value))
    for name, value in beside:
        if value is not None:
            ax.bar(len(names), value, color=FAINT, alpha=0.5, width=0.65)
            names.append(name)
    ax.set_xticks(range(len(names)), names, rotation=15)
    ax.set(ylabel="held-out accuracy", ylim=(0, 1.02), title="Against controls")
    light_grid(ax)


def _bar(ax: Axes, place: int, row: Row) -> None:
    ax.bar(place, row.value, color=colour(place), width=0.65)
    if row.low is not None and row.high is not None:
        ax.plot([place, place], [row.low, row.high], color="black", linewidth=1.1)


def _training(ax: Axes, drawn: Drawn, arm: str, layer: str, task: str) -> None:
    """The MLP's loss on training images and on the inner split; without MLPs what shrinkages gave."""
    i, arrays = drawn.layers.index(layer), drawn.part.arrays
    steps = arrays.get(key(task, arm, "MLP steps"))
    if steps is None:
        inner = arrays[key(task, arm, "inner")][i]
        ax.semilogx(arrays[SHRINKAGES], inner, "o-", color=colour(0), markersize=3.5)
        ax.set(xlabel="shrinkage", ylabel="accuracy on inner folds", title="Choice of the shrinkage")
    else:
        for name, what, line in (("training", "train", "-"), ("inner split", "inner", "--")):
            ax.plot(steps[i], arrays[key(task, arm, f"MLP {what}")][i], line, color=colour(1), label=name)
        ax.set(xlabel="step", ylabel="cross-entropy (nats)", title="Training of the MLP")
        ax.set_ylim(bottom=0)
        ax.legend()
    light_grid(ax)


def _code(ax: Axes, drawn: Drawn, arm: str, layer: str, task: str) -> None:
    i, arrays = drawn.layers.index(layer), drawn.part.arrays
    sent = arrays.get(key(task, arm, "sent"))
    ax.set_title("Description length")
    if sent is None:
        note(ax, "not measured")
        return
    known = arrays[key(task, "known")]
    uniform = float(np.log2(1 / arrays[key(task, "chance")][1]))
    ax.axhline(uniform, color=FAINT, linestyle=":", label="uniform code")
    ax.semilogx(known, sent[i], "o-", color=colour(2), markersize=3.5, label="online code")
    ticks = [known[j] for j in integer_ticks(len(known), 6)]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set(xlabel="labels sent", ylabel="bits a label", ylim=(0, max(uniform * 1.18, sent[i].max() * 1.05)))
    ax.legend()
    light_grid(ax)
