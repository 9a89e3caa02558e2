"""Pictures of the comparison of features, from the arrays and rows of its part."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from microtome.comparison.feature_matching import KINDS
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

FOLDER = "autoencoder_analysis"
ROW = 1.55  # height of a row of cards, in pictures
# Colours of the kinds: shared, one network's only, everyone's, unstable.
SHADES = ("#009E73", "#D55E00", "#B7BCC4", "#E6E8EB")
WORDS = ("shared", "this network's only", "untrained networks have them too", "not found a second time")


def draw(part: Part) -> Iterator[tuple[str, Figure]]:
    """Every picture: its path in the output folder, and the figure."""
    layers = [str(name) for name in part.arrays.get("layers", ())]
    if not layers:
        return
    yield f"{FOLDER}/features_by_layer.png", by_layer(part, layers)
    yield f"{FOLDER}/feature_kinds.png", kinds(part, layers)
    yield f"{FOLDER}/crosscoder_decoder_norms.png", decoder_norms(part, layers)
    for layer in layers:
        if f"card/{layer}/0/kind" in part.arrays:
            yield f"{FOLDER}/feature_cards_{_file(layer)}.png", cards(part, layer)
        for arm in _arms(part):
            yield f"{FOLDER}/ae_weight_dist_{arm}_{_file(layer)}.png", encoder_weights(part, layer, arm)
            yield f"{FOLDER}/ae_feature_sparsity_{arm}_{_file(layer)}.png", activity(part, layer, arm)
            yield f"{FOLDER}/{arm}_ae_losses_{_file(layer)}.png", losses(part, layer, arm)


def _file(name: str) -> str:
    return name.replace(".", "_")


def _arms(part: Part) -> list[str]:
    return [str(name) for name in part.arrays["arms"]]


def _rows(part: Part, statistic: str, arm: str, other: str = "") -> dict[str, Row]:
    return {
        row.layer: row
        for row in part.rows
        if row.statistic == statistic and row.arm == arm and row.other == other
    }


# -- over all layers -----------------------------------------------------------------------------------------


@styled
def by_layer(part: Part, layers: Sequence[str]) -> Figure:
    """Sharing between floor and ceiling, and what the dictionaries explain beside principal components."""
    arms = _arms(part)
    figure, axes = panels(1, 2, width=4.8, height=3.2)
    _sharing(axes[0, 0], part, layers, arms)
    ax = axes[0, 1]
    for i, arm in enumerate(arms):
        found = _rows(part, "explained variance", arm)
        pca = _rows(part, "explained variance of as many components", arm)
        places = np.arange(len(layers)) + (i - (len(arms) - 1) / 2) * 0.14
        values = [found[layer].value for layer in layers]
        ax.plot(places, values, "o", color=colour(i), markersize=5, label=f"{arm}: dictionary")
        ax.vlines(
            places,
            [_or_nan(found[layer].low) for layer in layers],
            [_or_nan(found[layer].high) for layer in layers],
            color=colour(i),
            linewidth=1.0,
        )
        ax.plot(
            places,
            [pca[layer].value for layer in layers],
            "_",
            color=colour(i),
            markersize=10,
            markeredgewidth=1.6,
            label=f"{arm}: as many components",
        )
    floor = [_or_nan(_rows(part, "explained variance", arms[0])[layer].floor) for layer in layers]
    ax.plot(range(len(layers)), floor, "D", color=FAINT, markersize=3.5, label="untrained: dictionary")
    low = min(0.0, ax.get_ylim()[0])
    ax.set(
        ylim=(low, 1.62), ylabel="explained variance", title="On held-out images, as many features at a time"
    )
    ax.set_yticks([tick / 4 for tick in range(-8, 5) if tick / 4 >= low])
    ax.legend(loc="upper left", ncols=2, fontsize=7.5)
    for ax in axes.flat:
        layer_axis(ax, layers)
        light_grid(ax)
    return figure


def _sharing(ax: Axes, part: Part, layers: Sequence[str], arms: Sequence[str]) -> None:
    rows = _rows(part, "matched features' correlation", arms[0], arms[1])
    between = _rows(part, "matched features' correlation of two seeds", arms[0], arms[1])
    for place, layer in enumerate(layers):
        row, first = rows[layer], place == 0
        marks = (
            (row.ceiling, "--", colour(2), "the same network, dictionary trained again"),
            (between[layer].value if layer in between else None, "-.", colour(3), "two seeds of one arm"),
            (row.floor, "-", FAINT, "with an untrained network"),
            (row.null, ":", FAINT, "inputs shuffled"),
        )
        for value, style, shade, words in marks:
            if value is not None:
                ax.plot(
                    [place - 0.32, place + 0.32],
                    [value] * 2,
                    style,
                    color=shade,
                    linewidth=1.9,
                    label=words if first else None,
                )
        if row.low is not None and row.high is not None:
            ax.plot([place] * 2, [row.low, row.high], color=colour(0), linewidth=1.2)
        ax.plot(
            [place],
            [row.value],
            "o",
            color=colour(0),
            markersize=5,
            label=f"{arms[0]} and {arms[1]}" if first else None,
        )
    top = max(row.ceiling or 0 for row in rows.values())
    ax.set(
        ylim=(0, max(top * 1.75, 0.1)),
        ylabel="mean correlation of matched features",
        title="Features in common",
    )
    ax.legend(loc="upper left", fontsize=7.5)


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


@styled
def kinds(part: Part, layers: Sequence[str]) -> Figure:
    """Shares of every kind of feature of each of the first two arms, layer by layer."""
    arms = _arms(part)[:2]
    figure, axes = panels(1, 2, width=4.4, height=0.9 + 0.32 * len(layers), sharey=True)
    for ax, (arm, other) in zip(axes.flat, ((arms[0], arms[1]), (arms[1], arms[0])), strict=True):
        left = np.zeros(len(layers))
        for i, kind in enumerate(KINDS):
            rows = _rows(part, f"{kind} features", arm, other)
            share = np.array([rows[layer].value for layer in layers])
            ax.barh(range(len(layers)), share, left=left, color=SHADES[i], height=0.7, label=WORDS[i])
            for place, (start, width) in enumerate(zip(left, share, strict=True)):
                if width >= 0.09:
                    shade = "white" if i < 2 else "#1f2328"
                    ax.text(
                        start + width / 2,
                        place,
                        f"{width:.0%}",
                        ha="center",
                        va="center",
                        fontsize=7.5,
                        color=shade,
                    )
            left += share
        ax.set(
            xlim=(0, 1), xlabel=f"share of the features of {arm} that act", title=f"{arm}, seen from {other}"
        )
        ax.set_yticks(range(len(layers)), [shortened(name) for name in layers])
        ax.invert_yaxis() if ax is axes[0, 0] else None
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figure


@styled
def decoder_norms(part: Part, layers: Sequence[str]) -> Figure:
    """Whose features the cross-coder found: the second network's part of the decoder's length."""
    arms = _arms(part)
    rows, columns = grid_shape(len(layers), 4)
    figure, axes = panels(rows, columns, width=2.5, height=1.9, sharex=True)
    edges = np.linspace(0, 1, 31)
    for i, (ax, layer) in enumerate(zip(axes.flat, layers, strict=False)):
        for kind, shade, words in (
            ("ratio_floor", FAINT, f"{arms[0]} and an untrained network"),
            ("ratio", colour(0), f"{arms[0]} and {arms[1]}"),
        ):
            values = part.arrays[f"{kind}/{layer}/{arms[0]}/{arms[1]}"]
            counts = np.histogram(values, edges)[0] / max(len(values), 1)
            ax.stairs(
                counts,
                edges,
                color=shade,
                fill=kind == "ratio_floor",
                alpha=0.45 if kind == "ratio_floor" else 1,
                linewidth=1.3,
                label=words if i == 0 else None,
            )
        ax.set_title(shortened(layer))
        ax.set_xlim(0, 1)
        ax.tick_params(labelbottom=True)
        light_grid(ax)
    remove_unused(axes, len(layers))
    figure.supxlabel(f"decoder norm ratio: 0 {arms[0]}'s alone, 0.5 both, 1 the other's alone", fontsize=9)
    figure.supylabel("share of features", fontsize=9)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


# -- one layer -----------------------------------------------------------------------------------------------


@styled
def cards(part: Part, layer: str) -> Figure:
    """Features side by side: the images on which each acts most, in either network."""
    arms, found = _arms(part), _cards(part, layer)
    count = found[0]["images"].shape[1]
    words = {"shared": "shared", "first": f"{arms[0]} only", "second": f"{arms[1]} only"}
    across, down = 2 * count + 0.6, len(found) * ROW
    figure = Figure(figsize=(0.62 * across + 0.2, 0.62 * down + 0.45), layout="none")  # pyright: ignore[reportArgumentType]
    ax = figure.add_axes((0.01, 0.01, 0.98, 1 - 0.45 / figure.get_figheight()))
    ax.set_axis_off()
    ax.set(xlim=(0, across), ylim=(down, 0))
    for row, card in enumerate(found):
        for side in (0, 1):
            left, top = side * (count + 0.6), row * ROW
            title = _card_title(card, side, arms[side], words)
            ax.text(left, top + 0.3, title, fontsize=7.5, va="bottom")
            _strip(ax, part, card, side, left, top + 0.36)
    title = f"{layer}: images on which features act most (bar: how strongly, the first = 1)"
    figure.suptitle(title, x=0.01, ha="left", fontsize=9.5)
    return figure


def _strip(ax: Axes, part: Part, card: dict[str, np.ndarray], side: int, left: float, top: float) -> None:
    """One row of pictures, each with its bar."""
    places = {int(row): i for i, row in enumerate(part.arrays["thumbnail_rows"])}
    for i, (image, value) in enumerate(zip(card["images"][side], card["values"][side], strict=True)):
        if image < 0:
            continue
        x = left + i
        pixels = part.arrays["thumbnails"][places[int(image)]]
        ax.imshow(pixels, extent=(x, x + 0.94, top + 0.94, top), interpolation="nearest", aspect="auto")
        ax.plot([x, x + 0.94 * value], [top + 1.01] * 2, color=colour(side), linewidth=2.0)
    ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())


def _cards(part: Part, layer: str) -> list[dict[str, np.ndarray]]:
    found = []
    while f"card/{layer}/{len(found)}/kind" in part.arrays:
        key = f"card/{layer}/{len(found)}"
        found.append({name: part.arrays[f"{key}/{name}"] for name in ("kind", "numbers", "images", "values")})
    return found


def _card_title(card: dict[str, np.ndarray], side: int, arm: str, words: dict[str, str]) -> str:
    kind, numbers = str(card["kind"]), card["numbers"]
    owner = 1 if kind == "second" else 0
    told = f"again {numbers[3]:.2f}, untrained {numbers[4]:.2f}"
    if side == owner:
        return f"{arm} feature {int(numbers[side])}   ({words[kind]}; {told})"
    nearest = "" if kind == "shared" else "nearest, "
    return f"{arm} feature {int(numbers[side])}   ({nearest}r = {numbers[2]:.2f})"


@styled
def encoder_weights(part: Part, layer: str, arm: str) -> Figure:
    """Distribution of a dictionary's encoder weights."""
    figure, ax = _placed()
    counts = part.arrays[f"encoder/{layer}/{arm}"]
    top = float(part.arrays[f"encoder_range/{layer}/{arm}"])
    edges = np.linspace(-top, top, len(counts) + 1)
    ax.stairs(counts / (counts.sum() * (edges[1] - edges[0])), edges, fill=True, color=colour(0), alpha=0.8)
    ax.set(xlabel="encoder weight", ylabel="density", title=f"{arm} {shortened(layer)}: dictionary's encoder")
    return figure


@styled
def activity(part: Part, layer: str, arm: str) -> Figure:
    """How often each feature acts, most active first; features that never act are counted."""
    figure, ax = _placed()
    density = np.sort(part.arrays[f"density/{layer}/{arm}"])[::-1]
    alive = density[density > 0]
    dead = len(density) - len(alive)
    if len(alive):
        ax.plot(np.arange(1, len(alive) + 1), alive, color=colour(0))
        ax.set_yscale("log")
        ax.set_ylim(min(float(alive.min()), 0.01) * 0.6, 1.3)
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        note(ax, "no feature ever acts")
    ax.axvspan(len(alive) + 0.5, len(density) + 0.5, color="#E6E8EB", lw=0)
    ax.set_xlim(0.5, len(density) + 0.5)
    title = f"{arm} {shortened(layer)}: {dead} of {len(density)} features dead"
    ax.set(xlabel="feature (grey: never acts)", ylabel="share of inputs it acts on", title=title)
    return figure


@styled
def losses(part: Part, layer: str, arm: str) -> Figure:
    """The dictionary's error while it learned, and on held-out images beside principal components."""
    figure, ax = _placed()
    fvu = part.arrays[f"fvu/{layer}/{arm}"]
    held, pca = float(part.arrays[f"held_fvu/{layer}/{arm}"]), float(part.arrays[f"pca_fvu/{layer}/{arm}"])
    ax.plot(np.arange(1, len(fvu) + 1), fvu, color=colour(0), linewidth=1.0, label="training batches")
    ax.axhline(held, color=colour(1), linestyle="--", label=f"held-out images, {held:.3f}")
    if np.isfinite(pca):
        ax.axhline(pca, color=FAINT, linestyle=":", label=f"as many principal components, {pca:.3f}")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.yaxis.set_minor_formatter(lambda *_: "")
    ax.set(xlabel="step", ylabel="variance unexplained", title=f"{arm} {shortened(layer)}: dictionary")
    ax.set_ylim(top=max(float(fvu.max()), held, np.nan_to_num(pca)) * 6)  # room for the legend
    ax.legend(loc="upper right")
    return figure


def _placed() -> tuple[Figure, Axes]:
    """One panel with fixed margins: the pictures are many, and finding margins takes longer than drawing."""
    figure = Figure(figsize=(4.4, 2.6), layout="none")  # pyright: ignore[reportArgumentType]
    ax = figure.subplots()
    figure.subplots_adjust(left=0.17, right=0.97, top=0.9, bottom=0.19)
    light_grid(ax)
    return figure, ax
