"""Causal importances of all components: a panel a feature, and a map of where each component turns on."""

import numpy as np
from jaxtyping import Float, Int
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from microtome.magnitude.small_multiples import SmallMultiples, block_axes
from microtome.plotting.style import FAINT, LINES, LINES_IMPORTANCE, integer_ticks, note, styled

COLUMNS = 10
LEFT, RIGHT, TOP, BOTTOM, GAP = 0.75, 0.9, 0.6, 0.45, (0.16, 0.28)
INACTIVE = "#d0d7de"
MANY_LINES = 20_000  # beyond this, components below the threshold are drawn as the band that they fill
NAMED = 2


@styled
def importance_grid(
    magnitudes: Float[np.ndarray, " S"],
    values: Float[np.ndarray, "F S C"],
    features: Int[np.ndarray, " F"],
    *,
    site: str,
    ci_threshold: float = 0.1,
    panel: tuple[float, float] = (1.6, 1.2),
    seed_name: str = "",
) -> Figure:
    """A panel a feature, a line a component.

    Components above the threshold somewhere in a panel are coloured by their index (the same colour in all
    panels) and the strongest are named; the others are grey. Every panel has the same axes.
    """
    count, columns = len(features), min(COLUMNS, max(len(features), 1))
    size = grid_size(count, panel)
    figure = Figure(figsize=size)
    figure.set_layout_engine("none")
    height = -(-count // columns) * panel[1]
    ax = block_axes(figure, LEFT, BOTTOM, columns * panel[0], height)
    ends = float(magnitudes[0]), float(magnitudes[-1])
    small = SmallMultiples(ax, count, columns, panel, GAP, ends, (_lowest(values), 1.04))
    largest = values.max(1)
    above = largest > ci_threshold
    titles = [_title(f, of, ci_threshold) for f, of in zip(features.tolist(), largest, strict=True)]
    small.furniture(titles, "magnitude", "importance")
    small.level(ci_threshold)
    _inactive(small, magnitudes, values, above)
    shades = colormaps[LINES_IMPORTANCE]
    scale = Normalize(0, max(values.shape[-1] - 1, 1) / 0.9)  # the palest tenth of the colours is left out
    rows, active = np.nonzero(above)
    small.curves(magnitudes, values[rows, :, active], rows, shades(scale(active)), lw=1.1, zorder=3)
    _heading(figure, f"{site}: causal importance against input magnitude", above, seed_name)
    _index_bar(figure, values.shape[-1], scale)
    return figure


def grid_size(count: int, panel: tuple[float, float]) -> tuple[float, float]:
    """Width and height in inches of ``importance_grid`` with so many panels."""
    columns = min(COLUMNS, max(count, 1))
    return (
        LEFT + columns * panel[0] + RIGHT,
        TOP + -(-count // columns) * panel[1] + BOTTOM,
    )


def panel_for(count: int, figure: tuple[float, float]) -> tuple[float, float]:
    """The panel size with which ``importance_grid`` is as large as ``figure``, in inches."""
    columns = min(COLUMNS, max(count, 1))
    width = (figure[0] - LEFT - RIGHT) / columns
    height = (figure[1] - TOP - BOTTOM) / -(-count // columns)
    return max(width, 0.2), max(height, 0.2)


def _lowest(values: np.ndarray) -> float:
    # The lower-leaky sigmoid goes below 0, for strongly negative gates too far to show.
    return max(min(0.0, float(np.nanmin(values))), -0.1) - 0.04


def _title(feature: int, largest: Float[np.ndarray, " C"], threshold: float) -> str:
    active = int((largest > threshold).sum())
    best = np.argsort(-largest, kind="stable")[: min(active, NAMED)]
    more = f" +{active - len(best)}" if active > len(best) else ""
    return f"input {feature}: " + (", ".join(map(str, best)) + more if active else "none")


def _heading(figure: Figure, words: str, above: np.ndarray, seed_name: str) -> None:
    height = figure.get_figheight()
    alive = int(above.any(0).sum())
    figure.suptitle(
        ", ".join(filter(None, (words, seed_name))), x=0.01, y=1 - 0.1 / height, ha="left", va="top"
    )
    said = (
        f"input: components that turn on, strongest first.  {alive} of {above.shape[1]} components turn on."
    )
    figure.text(0.01, 1 - 0.33 / height, said, ha="left", va="top", fontsize=8, color="#656d76")


def _index_bar(figure: Figure, n_components: int, scale: Normalize) -> None:
    """What colour stands for which component, beside the panels."""
    width, height = figure.get_size_inches()
    tall = min(3.0, height - TOP - BOTTOM)
    box = (1 - 0.68 / width, (height - TOP - tall) / height, 0.12 / width, tall / height)
    ax = figure.add_axes(box)
    bar = figure.colorbar(ScalarMappable(scale, LINES_IMPORTANCE), cax=ax)
    bar.ax.set_ylim(0, max(n_components - 1, 1))
    bar.set_ticks(integer_ticks(n_components, 6))
    bar.set_label("component", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


def _inactive(small: SmallMultiples, magnitudes: np.ndarray, values: np.ndarray, above: np.ndarray) -> None:
    rows, idle = np.nonzero(~above)
    if len(rows) <= MANY_LINES:
        small.curves(magnitudes, values[rows, :, idle], rows, INACTIVE, lw=0.5, zorder=2)
        return
    covered = np.where(above[:, None, :], np.nan, values)
    some = (~above).any(1)
    low, high = np.nanmin(covered[some], axis=-1), np.nanmax(covered[some], axis=-1)
    small.bands(magnitudes, low, high, np.flatnonzero(some), INACTIVE)


@styled
def onset_map(
    onsets: Float[np.ndarray, "F C"],
    features: Int[np.ndarray, " F"],
    *,
    site: str,
    ci_threshold: float = 0.1,
    seed_name: str = "",
) -> Figure:
    """The magnitude at which each component turns on for each feature; blank where it never does.

    Components that never turn on are left out; the others stand in the order of the feature that turns them
    on first, so that one component a feature is a diagonal.
    """
    alive = np.flatnonzero(np.isfinite(onsets).any(0))
    first = np.where(np.isfinite(onsets), onsets, np.inf)[:, alive].argmin(0)
    order = alive[np.argsort(first, kind="stable")]
    figure = Figure(figsize=map_size(len(features), len(order)), layout="constrained")
    ax = figure.add_subplot()
    left_out = onsets.shape[1] - len(alive)
    title = ", ".join(filter(None, (f"{site}: where components turn on", seed_name)))
    ax.set_title(title, pad=18)
    said = f"importance > {ci_threshold:g}, from magnitude 0 up" + (
        f"; {left_out} components that never do are left out" if left_out else ""
    )
    ax.annotate(
        said, (0, 1), (0, 6), "axes fraction", textcoords="offset points", fontsize=8, color="#656d76"
    )
    ax.set(xlabel="component", ylabel="feature")
    if not len(order):
        note(ax, "no component turns on")
        ax.set(xticks=[], yticks=[])
        return figure
    image = ax.imshow(onsets[:, order], cmap=LINES, aspect="auto", vmin=0.0)
    across, down = integer_ticks(len(order), 20), integer_ticks(len(features), 20)
    ax.set_xticks(across, [str(order[i]) for i in across], rotation=90 if len(order) > 12 else 0)
    ax.set_yticks(down, [str(features[i]) for i in down])
    ax.set_facecolor("#f3f5f7")
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_edgecolor(FAINT)
    bar = figure.colorbar(image, ax=ax, fraction=0.04, pad=0.02)
    bar.set_label("magnitude at which it turns on", fontsize=8)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure


def map_size(n_features: int, n_components: int) -> tuple[float, float]:
    """Width and height in inches of ``onset_map``."""
    return min(max(0.07 * n_components + 2.2, 4.2), 14.0), min(max(0.065 * n_features + 1.6, 3.2), 12.0)
