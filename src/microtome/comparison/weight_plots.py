"""Pictures of the comparison of weights, from the arrays and rows of its part."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from microtome.comparison.layer_axis import layer_axis
from microtome.comparison.part import Part, Row
from microtome.plotting.style import (
    FAINT,
    colour,
    grid_shape,
    light_grid,
    note,
    panels,
    remove_unused,
    shortened,
    styled,
)

FOLDER = "weight_analysis"
MOST_POINTS = 2000


def draw(part: Part) -> Iterator[tuple[str, Figure]]:
    """Every picture: its path in the output folder, and the figure."""
    arrays = part.arrays
    if not len(arrays.get("layers", ())):
        return
    yield f"{FOLDER}/weights_by_layer.png", by_layer(part)
    yield f"{FOLDER}/spectra.png", spectra(part)
    if any(key.startswith("path/") for key in arrays):
        yield f"{FOLDER}/interpolation.png", interpolation(part)
    for layer in _drawn(part):
        kind = str(arrays[f"kind/{layer}"])
        yield f"{FOLDER}/pca_comparison_{kind}_{_file(layer)}.png", components(part, layer)
    for key in arrays:
        if key.startswith("edges/"):
            parameter = key.removeprefix("edges/")
            yield f"{FOLDER}/weight_stats_{_file(parameter)}.png", distributions(part, parameter)


def _file(name: str) -> str:
    return name.replace(".", "_")


def _drawn(part: Part) -> list[str]:
    return [key.removeprefix("kind/") for key in part.arrays if key.startswith("kind/")]


def _arms(part: Part) -> list[str]:
    return [str(name) for name in part.arrays["arms"]]


# -- over all layers -----------------------------------------------------------------------------------------


@styled
def by_layer(part: Part) -> Figure:
    """What two networks have in common in every layer, beside untrained ones; ranks; change."""
    layers, arms = [str(name) for name in part.arrays["layers"]], _arms(part)
    moved = any(row.statistic == "angle to initialisation" for row in part.rows)
    figure, axes = panels(2, 2, width=4.6, height=2.9)
    first, second = arms[0], arms[1] if len(arms) > 1 else ""
    ax = axes[0, 0]
    _pair_line(ax, part, layers, first, second, "aligned cosine", f"{first} and {second}, units renumbered")
    plain = _values(part, "cosine", layers, first, second)
    ax.plot(range(len(layers)), plain, "x", color=colour(1), markersize=5, label="units as they are")
    ax.set(
        ylabel="cosine of weights",
        title="Weights in common",
        ylim=(min(-0.05, np.nanmin(plain) - 0.05), 1.45),
    )
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    ax.legend(loc="upper left", ncols=1)
    ax = axes[0, 1]
    _pair_line(ax, part, layers, first, second, "overlap of principal directions", f"{first} and {second}")
    ax.set(
        ylabel="mean squared cosine of angles",
        title="Principal directions of filters in common",
        ylim=(-0.05, 1.45),
    )
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    ax.legend(loc="upper left")
    _arm_lines(axes[1, 0], part, layers, arms, "effective rank", relative=True)
    axes[1, 0].set(ylabel="effective rank, untrained = 1", title="Directions that weights use")
    if moved:
        _arm_lines(axes[1, 1], part, layers, arms, "angle to initialisation", relative=False)
        axes[1, 1].set(ylabel="degrees", title="Turned away from the own initialisation", ylim=(0, 118))
        axes[1, 1].axhline(90, color=FAINT, linewidth=0.8, linestyle=":")
        axes[1, 1].set_yticks([0, 30, 60, 90])
    else:
        _arm_lines(axes[1, 1], part, layers, arms, "hoyer sparsity", relative=False)
        axes[1, 1].set(ylabel="Hoyer sparsity", title="Sparsity (0 even, 1 a single weight)")
    for ax in axes.flat:
        layer_axis(ax, layers)
        light_grid(ax)
    return figure


def _rows(part: Part, statistic: str, arm: str, other: str = "") -> dict[str, Row]:
    return {
        row.layer: row
        for row in part.rows
        if row.statistic == statistic and row.arm == arm and row.other == other and row.layer
    }


def _values(part: Part, statistic: str, layers: Sequence[str], arm: str, other: str = "") -> np.ndarray:
    rows = _rows(part, statistic, arm, other)
    return np.array([rows[layer].value if layer in rows else np.nan for layer in layers], dtype=float)


def _pair_line(
    ax: Axes, part: Part, layers: Sequence[str], arm: str, other: str, statistic: str, label: str
) -> None:
    rows = _rows(part, statistic, arm, other)
    for place, layer in enumerate(layers):
        row = rows.get(layer)
        if row is None:
            continue
        named = place == next(i for i, name in enumerate(layers) if name in rows)
        if row.ceiling is not None:
            words = "two seeds of one arm" if named else None
            ax.plot([place - 0.32, place + 0.32], [row.ceiling] * 2, "--", color=colour(2), label=words)
        if row.floor is not None:
            words = "with an untrained network" if named else None
            ax.plot([place - 0.32, place + 0.32], [row.floor] * 2, color=FAINT, linewidth=2.2, label=words)
        low, high = row.low, row.high
        if low is not None and high is not None:
            ax.plot(
                [place] * 2, [max(low, -0.04), min(high, 1.04)], color=colour(0), linewidth=1.0, alpha=0.7
            )
        ax.plot([place], [row.value], "o", color=colour(0), markersize=5, label=label if named else None)
    if not rows:
        note(ax, "no layers of equal shape")


def _arm_lines(
    ax: Axes, part: Part, layers: Sequence[str], arms: Sequence[str], statistic: str, relative: bool
) -> None:
    for i, arm in enumerate(arms):
        rows = _rows(part, statistic, arm)
        values, low, high = [], [], []
        for layer in layers:
            row = rows.get(layer)
            scale = row.floor if row is not None and relative and row.floor else 1.0
            values.append(row.value / scale if row is not None else np.nan)
            low.append(row.low / scale if row is not None and row.low is not None else np.nan)
            high.append(row.high / scale if row is not None and row.high is not None else np.nan)
        places = np.arange(len(layers)) + (i - (len(arms) - 1) / 2) * 0.12
        ax.plot(places, values, "o-", color=colour(i), markersize=4, label=arm)
        ax.vlines(places, low, high, color=colour(i), linewidth=1.0, alpha=0.7)
    if relative:
        ax.axhline(1.0, color=FAINT, linewidth=1.6, label="untrained")
    else:
        floor = [row.floor for row in (_rows(part, statistic, arms[0]).get(layer) for layer in layers) if row]
        if statistic != "angle to initialisation" and len(floor) == len(layers) and None not in floor:
            ax.plot(range(len(layers)), floor, color=FAINT, linewidth=1.6, label="untrained")  # pyright: ignore[reportArgumentType]
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.3 * (high - low))
    ax.legend(loc="upper left", ncols=3)


@styled
def spectra(part: Part) -> Figure:
    """Singular values of every layer, in units of their root mean square, against untrained weights."""
    layers, arms = _drawn(part)[:20], _arms(part)
    rows, columns = grid_shape(len(layers), 4)
    figure, axes = panels(rows, columns, width=2.5, height=1.95)
    for ax, layer in zip(axes.flat, layers, strict=False):
        keys = [key for key in part.arrays if key.startswith(f"spectrum/{layer}/")]
        for key in sorted(keys, key=lambda k: k.rpartition("/")[2] in arms):
            name = key.rpartition("/")[2]
            values = part.arrays[key] / max(float(np.sqrt(np.mean(part.arrays[key] ** 2))), 1e-30)
            known = name in arms
            ax.plot(
                np.arange(1, len(values) + 1) / len(values),
                values,
                color=colour(arms.index(name)) if known else FAINT,
                linewidth=1.4 if known else 2.4,
                label=name if known else "untrained",
                marker="o" if len(values) < 12 else None,
                markersize=3,
            )
        ax.set_title(shortened(layer))
        ax.set_ylim(bottom=0)
        light_grid(ax)
    remove_unused(axes, len(layers))
    figure.supxlabel("index of the singular value / their number", fontsize=9)
    figure.supylabel("singular value / root mean square", fontsize=9)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figure


@styled
def interpolation(part: Part) -> Figure:
    """Rise of the loss on the way from one network to another, as they are and with units renumbered."""
    keys = [key for key in part.arrays if key.startswith("path/plain/")]
    rows, columns = grid_shape(len(keys), 3)
    figure, axes = panels(rows, columns, width=4.4, height=2.9)
    kinds = {(row.arm, row.other): row.label for row in part.rows if row.statistic == "barrier"}
    for ax, key in zip(axes.flat, keys, strict=False):
        a, b = key.removeprefix("path/plain/").split("/")
        for i, (kind, words) in enumerate((("plain", "units as they are"), ("aligned", "units renumbered"))):
            points, rise = part.arrays[f"path/{kind}/{a}/{b}"]
            ax.plot(points, rise, "o-", color=colour(1 - i), markersize=4, label=words)
            floor = part.arrays.get(f"path_floor/{kind}/{a}/{b}")
            if floor is not None:
                label = f"untrained, {'renumbered' if i else 'as they are'}"
                ax.plot(floor[0], floor[1], "--" if i else ":", color=FAINT, label=label)
        ax.axhline(0, color=FAINT, linewidth=0.7)
        ax.set(xlabel=f"from {a} (0) to {b} (1)", ylabel=f"rise, {kinds.get((a, b), '')}")
        ax.set_title("Networks between the two, batch norms re-estimated")
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.35 * (high - low))
        ax.legend(loc="upper left", ncols=2)
        light_grid(ax)
    remove_unused(axes, len(keys))
    return figure


# -- one layer -----------------------------------------------------------------------------------------------


@styled
def components(part: Part, layer: str) -> Figure:
    """The filters of a layer on two principal components: each network's own, and common ones."""
    arms, arrays = _arms(part), part.arrays
    joint = arrays.get(f"joint/{layer}")
    count = len(arms) + (joint is not None)
    figure, axes = _placed(count, 0.16, 0.28, 3.0)
    for i, arm in enumerate(arms):
        ax, scores, ratio = axes[0, i], arrays[f"pca/{layer}/{arm}"], arrays[f"pca_ratio/{layer}/{arm}"]
        _scatter(ax, scores, colour(i))
        _component_labels(ax, ratio)
        ax.set_title(f"{arm}: {shortened(layer)}, own axes")
    if joint is not None:
        ax, n = axes[0, -1], len(arrays[f"pca/{layer}/{arms[0]}"])
        for i, points in enumerate((joint[: min(n, len(joint))], joint[min(n, len(joint)) :])):
            _scatter(ax, points, colour(i))
        _component_labels(ax, arrays[f"joint_ratio/{layer}"])
        ax.set_title("common axes, units renumbered")
    return figure


def _scatter(ax: Axes, scores: np.ndarray, shade: str) -> None:
    if scores.shape[1] == 0:
        note(ax, "all filters are alike")
        return
    points = scores[:: -(-len(scores) // MOST_POINTS)]
    y = points[:, 1] if points.shape[1] > 1 else np.zeros(len(points))
    size = 4.5 if len(points) <= 100 else 2.5
    ax.plot(
        points[:, 0],
        y,
        "o",
        color=shade,
        markersize=size,
        alpha=0.6,
        markeredgewidth=0,
        rasterized=len(points) > 500,
    )


def _component_labels(ax: Axes, ratio: np.ndarray) -> None:
    for axis, i in ((ax.set_xlabel, 0), (ax.set_ylabel, 1)):
        axis(f"PC{i + 1} ({ratio[i]:.1%} of variance)" if i < len(ratio) else "")
    light_grid(ax, "both")


@styled
def distributions(part: Part, parameter: str) -> Figure:
    """Density of the values of a weight, and of their absolute values, of all arms."""
    arrays, arms = part.arrays, _arms(part)
    edges, folded = arrays[f"edges/{parameter}"], arrays[f"folded_edges/{parameter}"]
    figure, axes = _placed(2, 0.18, 0.18, 2.6)
    middles = (edges[:-1] + edges[1:]) / 2
    for i, arm in enumerate(arms):
        density = arrays[f"density/{parameter}/{arm}"]
        axes[0, 0].plot(middles, density, color=colour(i), label=arm)
        axes[0, 0].fill_between(middles, density, color=colour(i), alpha=0.15, linewidth=0)
        axes[0, 1].stairs(
            arrays[f"folded/{parameter}/{arm}"], folded, color=colour(i), label=arm, fill=True, alpha=0.3
        )
        axes[0, 1].stairs(arrays[f"folded/{parameter}/{arm}"], folded, color=colour(i), linewidth=1.2)
    axes[0, 0].set(xlabel="weight", ylabel="density", title=f"{parameter}: values")
    axes[0, 1].set(xlabel="absolute weight", ylabel="density", title="Absolute values (50 bins)")
    for ax in axes.flat:
        ax.set_ylim(bottom=0)
        light_grid(ax)
    axes[0, 0].legend(loc="best")
    return figure


def _placed(columns: int, bottom: float, between: float, height: float) -> tuple[Figure, np.ndarray]:
    """Panels with fixed margins: these pictures are many, and finding margins takes longer than drawing."""
    figure = Figure(figsize=(3.9 * columns, height), layout="none")  # pyright: ignore[reportArgumentType]
    axes = figure.subplots(1, columns, squeeze=False)
    left = 0.62 / (3.9 * columns)
    figure.subplots_adjust(left=left, right=0.985, top=0.9, bottom=bottom, wspace=between)
    return figure, axes
