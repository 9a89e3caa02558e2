"""Pictures of few-shot training. Arrays in, Figure out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from microtome.data.same_different import PROBLEMS, image
from microtome.plotting.style import FAINT, PALETTE, grid_shape, light_grid, panels, remove_unused, styled

# Head -> colour and words.
HEADS = {
    "own": (PALETTE[0], "own head"),
    "fresh": (PALETTE[1], "fresh head"),
    "centroid": (PALETTE[2], "class centroids"),
}


@styled
def training_curves(metrics: Sequence[Mapping[str, Any]], what: str) -> Figure:
    """Training loss and accuracy against step, from the rows of ``metrics.jsonl``; ``what`` was measured."""
    figure, axes = panels(1, 2, width=3.5, height=2.5)
    steps = [row["step"] + 1 for row in metrics]
    for ax, name, label in zip(
        axes[0], ("loss", "accuracy"), (f"loss of {what} (nats)", f"accuracy of {what}"), strict=True
    ):
        ax.plot(steps, [row[name] for row in metrics], color=PALETTE[0])
        ax.set(xlabel="step", ylabel=label, xlim=(0, None))
        light_grid(ax)
    axes[0, 0].set_ylim(0, None)
    axes[0, 1].set_ylim(0, 1)
    return figure


@styled
def adaptation(rows: Sequence[Mapping[str, Any]], ways: int) -> Figure:
    """Held-out accuracy against steps of adaptation, trained and untrained, with 95 % bands.

    ``rows`` are those of ``summary.json``; one panel a number of shots.
    """
    shots = sorted({row["shots"] for row in rows})
    figure, axes = panels(1, len(shots), width=3.5, height=2.9, sharey=True)
    for ax, count in zip(axes[0], shots, strict=True):
        ax.axhline(1 / ways, color=FAINT, lw=1, ls=(0, (4, 3)), label="chance")
        for head, (colour, words) in HEADS.items():
            own = [row for row in rows if row["shots"] == count and row["head"] == head]
            _curve(ax, own, "trained", colour, "-", f"trained, {words}")
            _curve(ax, own, "untrained", colour, ":", f"untrained, {words}", skip=head == "own")
        ax.set(title=f"{count} image{'s' * (count > 1)} a class", xlabel="gradient steps")
        light_grid(ax)
    axes[0, 0].set(ylabel=f"accuracy on new classes ({ways}-way)", ylim=(0, 1.02))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _curve(
    ax: Any,
    rows: Sequence[Mapping[str, Any]],
    which: str,
    colour: str,
    line: str,
    label: str,
    skip: bool = False,
) -> None:
    shown = [row for row in rows if which in row]
    if not shown or skip:
        return
    steps = np.array([row["steps"] for row in shown])
    mean, low, high = (np.array([row[which][key] for row in shown]) for key in ("mean", "low", "high"))
    if len(shown) == 1:  # no steps: a level
        filled = colour if which == "trained" else "white"
        spread = np.stack([mean - low, high - mean])
        ax.errorbar(steps, mean, spread, fmt="o", ms=5, color=colour, mfc=filled, label=label)
        return
    ax.plot(steps, mean, color=colour, ls=line, label=label)
    ax.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)


@styled
def problem_sheet(size: int = 96, examples: int = 3) -> Figure:
    """Every same-different problem: images of class 1 above, of class 0 below, and what tells them apart."""
    rows, columns = grid_shape(len(PROBLEMS), max_columns=4)
    figure, axes = panels(rows, columns, width=2.5, height=2.15)
    for ax, problem in zip(axes.flat, PROBLEMS.values(), strict=False):
        above, below = (
            np.concatenate([_framed(problem.number, 2 * i + holds, size) for i in range(examples)], axis=1)
            for holds in (1, 0)
        )
        ax.imshow(np.concatenate([above, below]), cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
        ax.set(xticks=[], yticks=[], title=f"{problem.number}: {problem.holds}")
        ax.set_xlabel(problem.broken, loc="left", labelpad=4)
        for side in ax.spines.values():
            side.set_visible(False)
    remove_unused(axes, len(PROBLEMS))
    figure.get_layout_engine().set(hspace=0.09, wspace=0.04)  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
    return figure


def _framed(problem: int, index: int, size: int) -> np.ndarray:
    """One image with a grey frame."""
    return np.pad(np.pad(image(problem, index, size), 1, constant_values=150), 2, constant_values=255)
