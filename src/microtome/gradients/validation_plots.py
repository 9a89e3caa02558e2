"""Pictures of a validation: do the scores predict what ablations do?"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from microtome.gradients.validation import LayerValidation
from microtome.plotting.style import FAINT, INK, colour, light_grid, note, panels, styled


@styled
def validation_figure(validation: LayerValidation, noun: str = "feature") -> Figure:
    """Predicted against true change, rank correlations, nudges, and removing more and more."""
    title = (
        f"Layer {validation.layer}: removing {len(validation.features)} {noun}s one by one,"
        f" {validation.tokens:,} tokens, loss {validation.loss:.3f} nats"
    )
    figure, axes = panels(2, 2, width=4.4, height=3.2, title=title)
    _predictions(axes[0, 0], validation, noun)
    _correlations(axes[0, 1], validation)
    _nudges(axes[1, 0], validation, noun)
    _removals(axes[1, 1], validation, noun)
    return figure


def _predictions(ax: Axes, v: LayerValidation, noun: str) -> None:
    limit = max(np.abs(v.change).max(initial=0), np.abs(v.predicted).max(initial=0)) * 1.3 or 1.0
    ax.plot([-limit, limit], [-limit, limit], color=FAINT, linewidth=0.8, linestyle="--")
    ax.plot(v.predicted, v.change, "o", color=colour(0), markersize=3.5, alpha=0.7, markeredgewidth=0)
    smallest = np.quantile(np.abs(v.change), 0.3)
    threshold = max(float(smallest), limit * 1e-5)
    for axis in ("x", "y"):
        getattr(ax, f"set_{axis}scale")("symlog", linthresh=threshold)
        getattr(ax, f"set_{axis}lim")(-limit, limit)
    _few_ticks(ax, limit, threshold)
    ax.set(
        xlabel="Predicted by attribution (nats per token)",
        ylabel="True change of the loss (nats per token)",
        title=f"One {noun} removed: prediction and truth",
    )


def _few_ticks(ax: Axes, limit: float, threshold: float) -> None:
    top = 10.0 ** np.floor(np.log10(limit))
    low = 10.0 ** np.ceil(np.log10(threshold))
    middle = [low] if low < top / 9 else []
    ticks = [-top, *(-m for m in middle), 0.0, *middle, top]
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(ticks)
        axis.set_minor_locator(NullLocator())


def _correlations(ax: Axes, v: LayerValidation) -> None:
    names = list(v.spearman)[::-1]
    values = [v.spearman[name] for name in names]
    colours = [colour(0) if "attribution" in name else FAINT for name in names]
    ax.barh(range(len(names)), np.nan_to_num(values), color=colours, height=0.65)
    for place, value in enumerate(values):
        ax.text(max(np.nan_to_num(value), 0) + 0.02, place, f"{value:.2f}", va="center", fontsize=8)
    ax.axvspan(-v.chance, v.chance, color=FAINT, alpha=0.15, linewidth=0)
    ax.axvline(0, color=INK, linewidth=0.7)
    ax.set_yticks(range(len(names)), names)
    ax.set_xlim(min(-0.25, *(np.nan_to_num(values) - 0.05)), 1.12)
    ax.set(xlabel="Spearman with the true change (grey: chance)", title="Which score predicts")


def _nudges(ax: Axes, v: LayerValidation, noun: str) -> None:
    factor, change, predicted = v.nudges.T
    order = np.argsort(np.append(factor, 0.0))
    x = 100 * np.append(factor, 0.0)[order]
    ax.axhline(0, color=FAINT, linewidth=0.7)
    ax.plot(x, np.append(predicted, 0.0)[order], "--", color=FAINT, label="gradient's prediction")
    ax.plot(x, np.append(change, 0.0)[order], "o-", color=colour(0), markersize=4, label="measured")
    ax.set(
        xlabel=f"Change of the 10 strongest {noun}s together (%)",
        ylabel="Change of the loss (nats per token)",
        title="Nudging: does the loss move as the gradient says?",
    )
    ax.legend()
    light_grid(ax)


def _removals(ax: Axes, v: LayerValidation, noun: str) -> None:
    styles = {"attribution": ("o", colour(0)), "random": ("^", colour(4))}
    for name, rows in v.removed.items():
        if not len(rows):
            continue
        n, change, predicted = rows.T
        marker, shade = styles.get(name, ("s", colour(1)))
        ax.plot(
            n,
            change,
            f"{marker}-",
            color=shade,
            markersize=4,
            label=f"by {name}" if name != "random" else name,
        )
        if name == "attribution":
            ax.plot(n, predicted, "--", color=FAINT, label="sum of predictions")
    ax.set_xscale("symlog", linthresh=1)
    most = max((rows[-1, 0] for rows in v.removed.values() if len(rows)), default=1)
    ticks = [t for t in (0, 1, 2, 5, 10, 20, 50, 100, 200) if t <= most]
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.set_xlim(0, most * 1.1)
    ax.set(
        xlabel=f"{noun.capitalize()}s removed together",
        ylabel="Change of the loss (nats per token)",
        title="Removing more and more",
    )
    ax.legend()
    light_grid(ax)
    if not v.removed:
        note(ax, "nothing removed")
