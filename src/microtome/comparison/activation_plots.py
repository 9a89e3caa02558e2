"""Pictures of activations and of similarity, drawn from what the two analyses found."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from microtome.comparison.layer_axis import layer_axis
from microtome.comparison.part import Part, Row
from microtome.plotting.style import (
    FAINT,
    INK,
    SEQUENTIAL,
    category_colours,
    colour,
    grid_shape,
    integer_ticks,
    light_grid,
    panels,
    remove_unused,
    shortened,
    styled,
)

BINS = 60
UNITS_DRAWN = 4000
MARKERS = "osD^vP*X"
CLASSES_NAMED = 10


def draw(part: Part) -> Iterator[tuple[str, Figure]]:
    """All pictures of one of the two analyses, by their paths in the output folder."""
    if part.name == "similarity":
        yield from _draw_similarity(part)
    else:
        yield from _draw_activations(part)


def _draw_activations(part: Part) -> Iterator[tuple[str, Figure]]:
    arms, layers = _texts(part, "arms"), _texts(part, "layers")
    for arm in arms:
        for layer in layers:
            name = str(part.arrays[f"name/{arm}/{layer}"])
            folder = f"activation_analysis/{arm}"
            yield f"{folder}/pca_activations_{name}.png", pca_of_one(part, arm, layer)
            yield f"{folder}/act_stats_{name}.png", unit_statistics(part, arm, layer)
    yield "activation_analysis/joint_pca.png", joint_pca(part)
    yield "activation_analysis/statistics_by_layer.png", statistics_by_layer(part)


def _texts(part: Part, key: str) -> list[str]:
    return [str(text) for text in part.arrays[key]]


@styled
def pca_of_one(part: Part, arm: str, layer: str) -> Figure:
    """Images on the first two principal components of one network alone, coloured by class."""
    figure, axes = _plain_panels(1, 4.9, 3.6, right=0.86)
    ax = axes[0, 0]
    scores, shares = part.arrays[f"pca/{arm}/{layer}"], part.arrays[f"pca share/{arm}/{layer}"]
    _points(ax, scores, part.arrays["classes"], _texts(part, "class names"))
    _component_labels(ax, scores, shares)
    ax.set_title(f"{arm}: {part.arrays[f'name/{arm}/{layer}']}, before the nonlinearity")
    _legend_below(ax, _texts(part, "class names"))
    return figure


def _component_labels(ax: Axes, scores: np.ndarray, shares: np.ndarray) -> None:
    ax.set_xlabel(f"PC 1 ({100 * shares[0]:.0f} % of variance)")
    ax.set_ylabel(f"PC 2 ({100 * shares[1]:.0f} % of variance)" if scores.shape[1] > 1 else "")


def _points(ax: Axes, scores: np.ndarray, classes: np.ndarray, names: list[str]) -> None:
    second = scores[:, 1] if scores.shape[1] > 1 else np.zeros(len(scores))
    colours = category_colours(max(len(names), int(classes.max()) + 1))
    for number in np.unique(classes):
        rows = classes == number
        marker = MARKERS[number % len(MARKERS)] if len(names) <= len(MARKERS) else "o"
        label = names[number] if number < len(names) else str(number)
        ax.scatter(
            scores[rows, 0], second[rows], s=11, marker=marker, color=[colours[number]], alpha=0.7,
            linewidths=0, label=label,
        )  # fmt: skip
    ax.ticklabel_format(style="sci", scilimits=(-2, 3))


def _legend_below(ax: Axes, names: list[str]) -> None:
    if 1 < len(names) <= CLASSES_NAMED:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.1)
    elif len(names) > CLASSES_NAMED:
        ax.text(
            1.0, 1.01, f"{len(names)} classes", transform=ax.transAxes, ha="right", color=FAINT, fontsize=8
        )


@styled
def unit_statistics(part: Part, arm: str, layer: str) -> Figure:
    """How mean and standard deviation over images are spread over a layer's units, before and after."""
    figure, axes = _plain_panels(2, 3.5, 2.9, bottom=0.26)
    for ax, what in zip(axes[0], ("mean", "std"), strict=True):
        for index, (site, words) in enumerate((("pre", "before"), ("post", "after the nonlinearity"))):
            key = f"unit {what}/{site}/{arm}/{layer}"
            if key in part.arrays:
                _histogram(ax, part.arrays[key], colour(index), words)
        ax.set(xlabel=f"{'mean' if what == 'mean' else 'standard deviation'} of a unit over images")
        ax.set_ylim(bottom=0)
        light_grid(ax)
    axes[0, 0].set(ylabel="share of units", title=f"{arm}: {part.arrays[f'name/{arm}/{layer}']}")
    handles, words = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, words, loc="lower center", ncols=2)
    return figure


def _plain_panels(
    columns: int, width: float, height: float, *, right: float = 0.98, bottom: float = 0.13
) -> tuple[Figure, np.ndarray]:
    """Panels with fixed margins: there are many such pictures, and fitting margins takes half the time."""
    figure = Figure(figsize=(width * columns, height), layout="none")  # pyright: ignore[reportArgumentType]
    axes = figure.subplots(1, columns, squeeze=False)
    figure.subplots_adjust(left=0.56 / (width * columns), right=right, top=0.91, bottom=bottom, wspace=0.2)
    return figure, axes


def _histogram(ax: Axes, values: np.ndarray, shade: str, label: str) -> None:
    low, high = np.percentile(values, (0.5, 99.5)) if len(values) > BINS else (values.min(), values.max())
    if not high > low:
        low, high = low - 0.5, low + 0.5
    counts, edges = np.histogram(np.clip(values, low, high), min(BINS, max(8, len(values) // 8)), (low, high))
    ax.stairs(counts / len(values), edges, fill=True, alpha=0.25, color=shade)
    ax.stairs(counts / len(values), edges, color=shade, linewidth=1.2, label=label)


@styled
def joint_pca(part: Part) -> Figure:
    """Every layer: all arms' images in one basis, after the nonlinearity."""
    arms, layers = _texts(part, "arms"), _texts(part, "layers")
    rows, columns = grid_shape(len(layers), 3 if len(layers) <= 6 else 6)
    size = 2.5 if len(layers) <= 24 else 1.6
    figure, axes = panels(rows, columns, width=size, height=size)
    for ax, layer in zip(axes.ravel(), layers, strict=False):
        scores = [part.arrays[f"joint pca/{arm}/{layer}"] for arm in arms]
        for index, (arm, points) in enumerate(zip(arms, scores, strict=True)):
            second = points[:, 1] if points.shape[1] > 1 else np.zeros(len(points))
            ax.scatter(points[:, 0], second, s=6, alpha=0.55, linewidths=0, color=colour(index),
                       marker=MARKERS[index % len(MARKERS)], label=arm)  # fmt: skip
        shares = [100 * part.arrays[f"joint pca share/{arm}/{layer}"][:2].sum() for arm in arms]
        small = {"fontsize": 8} if len(layers) <= 24 else {"fontsize": 6.5}
        ax.set_title(f"{layer}\n{' / '.join(f'{share:.0f}' for share in shares)} % of variance", **small)
        ax.set(xticks=[], yticks=[])
    remove_unused(axes, len(layers))
    figure.suptitle("Joint components 1 and 2 of all networks", fontsize=9.5)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(arms), markerscale=1.8)
    return figure


@styled
def statistics_by_layer(part: Part) -> Figure:
    """Sparsity, dimension and selectivity over depth, one colour an arm, untrained networks as bands."""
    arms, layers = _texts(part, "arms"), _texts(part, "layers")
    titles = {
        "share of zeros": "Zeros after the nonlinearity (share)",
        "effective dimension": "Effective dimension (participation ratio)",
        "variance between classes": "Variance between classes (share)",
        "class selectivity": "Class selectivity of units",
    }
    shown = [name for name in titles if any(key.startswith(f"{name}/") for key in part.arrays)]
    wide = max(3.4, min(0.16 * len(layers), 5.0))
    figure, axes = panels(-(-len(shown) // 2), min(2, len(shown)), width=wide, height=_height(layers))
    for ax, statistic in zip(axes.ravel(), shown, strict=False):
        bands = _bands(part, statistic, arms, layers)
        for index, (low, high) in enumerate(bands):
            alone = len(bands) == 1
            shade, words = (
                (FAINT, "untrained networks") if alone else (colour(index), f"untrained {arms[index]}")
            )
            ax.fill_between(range(len(layers)), low, high, color=shade, alpha=0.25, linewidth=0, label=words)
        for index, arm in enumerate(arms):
            _curve(ax, part, statistic, arm, layers, colour(index), MARKERS[index % len(MARKERS)])
        layer_axis(ax, layers)
        ax.set_title(titles[statistic])
        ax.set_ylim(bottom=0)
        light_grid(ax)
    remove_unused(axes, len(shown))
    handles, names = axes.ravel()[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4)
    return figure


def _bands(
    part: Part, statistic: str, arms: list[str], layers: list[str]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Range of the untrained networks of every arm, once where all arms have the same ones."""
    found = []
    for arm in arms:
        floors = [part.arrays.get(f"{statistic} floor/{arm}/{layer}", np.zeros(0)) for layer in layers]
        low = np.array([f.min() if len(f) else np.nan for f in floors])
        found.append((low, np.array([f.max() if len(f) else np.nan for f in floors])))
    same = all(np.array_equal(each, found[0], equal_nan=True) for each in found)
    found = found[:1] if same else found
    return [] if all(np.isnan(low).all() for low, _ in found) else found


def _curve(
    ax: Axes, part: Part, statistic: str, arm: str, layers: list[str], shade: str, marker: str
) -> None:
    at = [i for i, layer in enumerate(layers) if f"{statistic} interval/{arm}/{layer}" in part.arrays]
    if not at:
        return
    intervals = np.array([part.arrays[f"{statistic} interval/{arm}/{layers[i]}"] for i in at])
    errors = np.abs(intervals[:, 1:].T - intervals[:, 0])
    ax.errorbar(
        at, intervals[:, 0], errors, color=shade, marker=marker, markersize=4, linewidth=1.2, label=arm
    )
    for i in at:
        seeds = part.arrays[f"{statistic}/{arm}/{layers[i]}"]
        if len(seeds) > 1:
            ax.scatter(np.full(len(seeds), i), seeds, s=5, color=shade, alpha=0.6, linewidths=0)


def _height(layers: list[str]) -> float:
    """Inches of a panel: long names of layers, written aslant below, need room."""
    return 2.5 if max(len(name) for name in layers) <= 10 else 3.3


def _draw_similarity(part: Part) -> Iterator[tuple[str, Figure]]:
    for a, b in part.arrays["pairs"]:
        yield f"similarity/cka_{a}_{b}.png", cka_heatmap(part, str(a), str(b))
        yield f"similarity/by_layer_{a}_{b}.png", similarity_by_layer(part, str(a), str(b))


@styled
def cka_heatmap(part: Part, a: str, b: str) -> Figure:
    """CKA of every layer of a with every layer of b; what images at random reach too is hatched."""
    layers = _texts(part, "layers")
    values, error = part.arrays[f"cka/{a}/{b}"], part.arrays[f"cka error/{a}/{b}"]
    null = part.arrays[f"cka null/{a}/{b}"]
    n = len(layers)
    size = float(np.clip(0.55 * n + 1.6, 3.6, 8.0))
    figure, axes = panels(width=size + 0.9, height=size)
    ax = axes[0, 0]
    image = ax.imshow(values, cmap=SEQUENTIAL, vmin=0.0, vmax=1.0)
    for i, j in zip(*np.nonzero(values - 1.96 * error <= null), strict=True):
        ax.add_patch(
            Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="////", edgecolor=FAINT, linewidth=0)
        )
    if n <= 12:
        for i in range(n):
            for j in range(n):
                shade = "white" if values[i, j] > 0.55 else INK
                ax.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=8, color=shade)
    ticks = integer_ticks(n, 30)
    names = [shortened(layers[i], 22, 0.0) for i in ticks]
    ax.set_xticks(ticks, names, rotation=60 if n > 4 else 0, ha="right" if n > 4 else "center")
    ax.set_yticks(ticks, names)
    ax.set(xlabel=f"layer of {b}", ylabel=f"layer of {a}", title="Debiased CKA (hatched: not beyond chance)")
    bar = figure.colorbar(image, ax=ax, fraction=0.045, pad=0.02)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure


@styled
def similarity_by_layer(part: Part, a: str, b: str) -> Figure:
    """Each measure of similarity over depth, beside untrained networks and other seeds of one arm."""
    layers = _texts(part, "layers")
    names = list(dict.fromkeys(r.statistic for r in part.rows if (r.arm, r.other) == (a, b) and not r.label))
    wide = max(3.4, min(0.16 * len(layers), 5.0))
    figure, axes = panels(-(-len(names) // 2), min(2, len(names)), width=wide, height=_height(layers))
    for ax, statistic in zip(axes.ravel(), names, strict=False):
        rows = {r.layer: r for r in part.rows if (r.statistic, r.arm, r.other) == (statistic, a, b)}
        _similarity_curves(ax, [rows[layer] for layer in layers], f"{a} and {b}")
        layer_axis(ax, layers)
        ax.set_title(statistic[:1].upper() + statistic[1:])
        low, high = ax.get_ylim()
        ax.set_ylim(min(low, 0.0), max(high, 1.02))
        light_grid(ax)
    remove_unused(axes, len(names))
    handles, words = axes.ravel()[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=4)
    return figure


def _similarity_curves(ax: Axes, rows: list[Row], words: str) -> None:
    at = np.arange(len(rows))
    value = np.array([row.value for row in rows])
    errors = np.array(
        [[row.value - (row.low or row.value), (row.high or row.value) - row.value] for row in rows]
    )
    ax.errorbar(at, value, np.maximum(errors.T, 0), color=colour(0), marker="o", markersize=4, label=words)
    for what, shade, style, label in (
        ("ceiling", colour(2), "--", "seeds of one arm"),
        ("floor", FAINT, "-.", "untrained networks"),
        ("null", colour(1), ":", "images at random"),
    ):
        line = _numbers(rows, what)
        if np.isfinite(line).any():
            ax.plot(at, line, color=shade, linestyle=style, linewidth=1.3, label=label)


def _numbers(rows: list[Row], what: str) -> Float[np.ndarray, " layers"]:
    return np.array(
        [np.nan if getattr(row, what) is None else getattr(row, what) for row in rows], dtype=float
    )
