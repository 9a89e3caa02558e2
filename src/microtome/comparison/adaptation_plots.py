"""Pictures of what adaptation changes."""

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from microtome.comparison.part import Part
from microtome.plotting.style import FAINT, colour, light_grid, panels, styled


def draw(part: Part) -> Iterator[tuple[str, Figure]]:
    """``adaptation/similarity_before_after.png``, and where measured ``few_shot_accuracy.png``."""
    names = [str(name) for name in part.arrays["arms"]]
    layers = [str(layer) for layer in part.arrays["layers"]]
    values = [part.arrays[f"similarity/{i}"] for i in range(len(names))]
    yield "adaptation/similarity_before_after.png", similarity(names, layers, values)
    if "accuracy/0" in part.arrays:
        accuracies = [part.arrays[f"accuracy/{i}"] for i in range(len(names))]
        words = next(row.statistic for row in part.rows if row.statistic.endswith("accuracy"))
        yield "adaptation/few_shot_accuracy.png", accuracy(names, accuracies, words)


def _ink(name: str, place: int) -> str:
    return FAINT if name.startswith("untrained") else colour(place)


@styled
def similarity(names: list[str], layers: list[str], values: list[np.ndarray]) -> Figure:
    """How alike each layer is to itself before adaptation; one line a seed."""
    figure, axes = panels(1, 1, width=max(4.4, 0.6 * len(layers) + 2.4), height=3.2)
    ax = axes[0, 0]
    for place, (name, rows) in enumerate(zip(names, values, strict=True)):
        for seed, row in enumerate(rows):
            ax.plot(row, "o-", ms=4, color=_ink(name, place), alpha=0.8, label=name if seed == 0 else None)
    ax.set_xticks(range(len(layers)), layers, rotation=30, ha="right")
    ax.set(ylabel="debiased CKA", title="Each layer before and after adaptation")
    light_grid(ax)
    ax.legend()
    return figure


@styled
def accuracy(names: list[str], values: list[np.ndarray], words: str) -> Figure:
    """Few-shot accuracy of each network with its 95 % interval over episodes."""
    figure, axes = panels(1, 1, width=4.4, height=0.45 * len(names) + 1.4)
    ax = axes[0, 0]
    for place, (name, rows) in enumerate(zip(names, values, strict=True)):
        for seed, row in enumerate(rows):
            y = place + 0.12 * (seed - (len(rows) - 1) / 2)
            half = 1.96 * row.std(ddof=1) / np.sqrt(len(row))
            ax.errorbar(row.mean(), y, xerr=half, fmt="o", ms=4, color=_ink(name, place), capsize=2)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel=words, ylim=(len(names) - 0.5, -0.5))
    light_grid(ax, "x")
    return figure
