"""One look for every figure: type, colours that colour-blind readers can tell apart, heatmaps with scales.

Figures are built as objects, never through pyplot, so that no display and no global state is needed.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

INK = "#1f2328"
FAINT = "#8a9099"
GRID = "#e6e8eb"

# Okabe and Ito (2008), neighbours far apart; their yellow, too pale on white, is replaced by Tol's wine.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")
SEQUENTIAL = "Blues"
DIVERGING = "RdBu_r"
LINES = "viridis"
LINES_IMPORTANCE = "plasma"

RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 6.0,
    "axes.titley": 1.0,  # a title placed by itself measures every tick first, a tenth of the time of a figure
    "axes.labelsize": 9.0,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.prop_cycle": cycler(color=PALETTE),
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.4,
    "figure.titlesize": 11.0,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "image.interpolation": "nearest",
}


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """A drawing function that runs under this style and leaves matplotlib's settings as they were."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(RC):
            return draw(*args, **kwargs)

    return inside


def colour(index: int) -> str:
    """Colour of series ``index``; after eight they repeat."""
    return PALETTE[index % len(PALETTE)]


def line_colours(n: int, colormap: str = LINES) -> list[tuple[float, float, float, float]]:
    """``n`` colours along a colormap, its palest tenth left out."""
    shades: Colormap = matplotlib.colormaps[colormap]
    return [shades(position) for position in np.linspace(0.0, 0.9, max(n, 1))][:n]


def category_colours(n: int) -> list[Any]:
    """``n`` colours for unordered things: the palette while it lasts, then a colormap."""
    return list(PALETTE[:n]) if n <= len(PALETTE) else list(line_colours(n, "turbo"))


@styled
def panels(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = 3.2,
    height: float = 2.4,
    title: str | None = None,
    sharex: bool = False,
    sharey: bool = False,
    **grid: Any,
) -> tuple[Figure, np.ndarray]:
    """A figure of ``rows x columns`` axes, each about ``width x height`` inches; axes come as a 2-D array."""
    figure = Figure(figsize=(width * columns, height * rows + (0.35 if title else 0.0)))
    axes = figure.subplots(
        rows, columns, squeeze=False, sharex=sharex, sharey=sharey, gridspec_kw=grid or None
    )
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure, axes


def grid_shape(n: int, max_columns: int = 5) -> tuple[int, int]:
    """Rows and columns that hold ``n`` panels, as even as ``max_columns`` allows."""
    rows = max(1, -(-n // max_columns))
    return rows, max(1, -(-n // rows))


def remove_unused(axes: np.ndarray, used: int) -> None:
    """Take the axes after the first ``used`` out of their figure."""
    for ax in axes.ravel()[used:]:
        ax.remove()


def symmetric_limit(*arrays: np.ndarray) -> float:
    """Largest absolute finite value of all arrays, 1 when there is none: the limit of a diverging scale."""
    largest = max((float(np.nanmax(np.abs(a))) for a in arrays if np.isfinite(a).any()), default=0.0)
    return largest if largest > 0 and np.isfinite(largest) else 1.0


def shortened(name: str, most: int = 18, beginning: float = 0.5) -> str:
    """``name`` in at most ``most`` signs, its middle left out; ``beginning`` is the start's share of them."""
    if len(name) <= most:
        return name
    first = round((most - 1) * beginning)
    return f"{name[:first]}…{name[len(name) - (most - 1 - first) :]}"


def integer_ticks(n: int, most: int = 12) -> list[int]:
    """Ticks for indices 0..n-1: all of them when few, otherwise evenly spaced round numbers."""
    if n <= most:
        return list(range(n))
    steps = [s * 10**k for k in range(6) for s in (1, 2, 5)]
    step = next(s for s in steps if n / s <= most)
    return list(range(0, n, step))


def heatmap(
    ax: Axes,
    values: np.ndarray,
    *,
    x_label: str = "",
    y_label: str = "",
    title: str = "",
    signed: bool = False,
    limit: float | None = None,
    scale_label: str | None = None,
    x_ticks: Sequence[str] | None = None,
    y_ticks: Sequence[str] | None = None,
    equal: bool = False,
    most_ticks: int = 12,
) -> Any:
    """Draw a matrix with labelled axes; rows run downwards.

    ``signed`` takes the diverging map, symmetric about 0; otherwise the scale starts at 0. ``limit`` is
    the end of the scale (default: the largest value). A colour bar is added when ``scale_label`` is given;
    an axis has at most ``most_ticks`` ticks.
    """
    top = symmetric_limit(values) if limit is None else limit
    image = ax.imshow(
        values,
        cmap=DIVERGING if signed else SEQUENTIAL,
        vmin=-top if signed else 0.0,
        vmax=top,
        aspect="equal" if equal else "auto",
    )
    for side in ("top", "right"):
        ax.spines[side].set_visible(True)
    ax.set(xlabel=x_label, ylabel=y_label, title=title)
    for axis, length, names in (
        (ax.xaxis, values.shape[1], x_ticks),
        (ax.yaxis, values.shape[0], y_ticks),
    ):
        ticks = integer_ticks(length, most_ticks)
        axis.set_ticks(ticks, [names[i] for i in ticks] if names is not None else [str(i) for i in ticks])
    if scale_label is not None:
        bar = ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02)
        bar.set_label(scale_label, fontsize=8)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        bar.ax.tick_params(labelsize=7)
    return image


def light_grid(ax: Axes, axis: str = "y") -> None:
    """Faint grid lines behind the data."""
    ax.grid(True, axis=axis)  # pyright: ignore[reportArgumentType]


def note(ax: Axes, text: str, x: float = 0.5, y: float = 0.5) -> None:
    """Faint words inside a panel, in axes coordinates: why nothing is drawn, or what was left out."""
    ax.text(
        x, y, text, transform=ax.transAxes, ha="center", va="center", color=FAINT, fontsize=8.5, wrap=True
    )
