"""Pictures of an analysis: each run's course with its transitions, and all runs' jumps and periods."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from microtome.core.atomic import atomic_path
from microtome.plotting.style import (
    FAINT,
    category_colours,
    colour,
    light_grid,
    line_colours,
    note,
    panels,
    shortened,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from microtome.dynamics.analyse import RunAnalysis
    from microtome.dynamics.results import Analysis

MOST_RUNS = 12  # with a picture each
MOST_NAMED = 16  # layers in a legend
SCALARS = ("probe_accuracy", "probe_loss", "loss")
RAMP_COLOUR, JUMP_COLOUR = "#E69F00", "#D55E00"


def draw(result: "Analysis", folder: Path) -> list[Path]:
    """Write the pictures beside the tables: one a run for up to twelve runs, and overviews of all."""
    written = [
        save(transitions(analysis), folder / f"{analysis.run.name}_transitions.png")
        for analysis in result.runs[:MOST_RUNS]
    ]
    for analysis in result.runs[:MOST_RUNS]:
        steps, run = analysis.run.steps(), analysis.run
        if analysis.main_measure and len(steps) > 1:
            points = analysis.convergence["stabilization_points"]
            marks = {layer: step for layer, step in points.items() if step >= 0}
            figure = heatmap(
                run.name, run.layers, steps, run.values[analysis.main_measure].T, marks, analysis.main_measure
            )
            written.append(save(figure, folder / "step1_1" / f"{run.name}_heatmap.png"))
    if len(result.jumps):
        path = folder / "step1_2" / "jump_characterization_overview.png"
        written.append(save(jump_overview(result.jumps), path))
    if len(result.runs) > 1:
        figure = period_overview(result.periods)
        written.append(save(figure, folder / "step1_3" / "critical_periods_overview.png"))
    return written


@styled
def transitions(analysis: "RunAnalysis") -> "Figure":
    """One run: the main measure of every layer, and the scalars, with jumps, ramps and critical periods."""
    run, steps = analysis.run, analysis.run.steps()
    scalars = [name for name in SCALARS if len(run.scalar(name)[0]) > 1][:2]
    found = {ramp.measure for ramp in analysis.ramps} | {jump.measure for jump in analysis.jumps}
    scalars += [str(n) for n in run.scalars().columns if n in found and n not in (*SCALARS, *run.measures)][
        :1
    ]
    rows = 1 + len(scalars)
    counts = {"jump": len(analysis.jumps), "ramp": len(analysis.ramps)}
    title = f"{run.name}: " + ", ".join(f"{n} {word}{'s' * (n != 1)}" for word, n in counts.items())
    figure, axes = panels(rows, 1, width=7.4, height=2.3, title=title, sharex=True)
    main = axes[0, 0]
    if analysis.main_measure and len(steps):
        _layers(main, analysis)
    else:
        note(main, "no measures recorded")
    for ax, name in zip(axes[1:, 0], scalars, strict=True):
        logged, values = run.scalar(name)
        ax.plot(logged, values, color=colour(0), linewidth=1.0)
        ax.set(ylabel=name.replace("_", " "))
        light_grid(ax)
        _marks(ax, analysis, name, scalar=True)
    for period in analysis.coordination.periods:
        main.axvspan(period.start, period.end, ymin=0.97, color=FAINT, linewidth=0)
    marks = "band: ramp, dashed: jump, grey bar above: layers change together"
    axes[-1, 0].set_xlabel(f"training step   ({marks})")
    return figure


def _layers(ax: "Axes", analysis: "RunAnalysis") -> None:
    run, name = analysis.run, analysis.main_measure
    few = len(run.layers) <= MOST_NAMED
    colours = category_colours(len(run.layers)) if len(run.layers) <= 8 else line_colours(len(run.layers))
    for layer, shade, values in zip(run.layers, colours, run.values[name].T, strict=True):
        ax.plot(run.steps(), values, color=shade, linewidth=1.0, label=short(layer))
    if few:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
    ax.set(ylabel=name.replace("_singular_values", "\n(singular values)").replace("_", " "))
    light_grid(ax)
    _marks(ax, analysis, name, scalar=False)


def _marks(ax: "Axes", analysis: "RunAnalysis", measure: str, scalar: bool) -> None:
    for ramp in analysis.ramps:
        if ramp.measure == measure and (not ramp.layer) == scalar:
            ax.axvspan(ramp.start, ramp.end, color=RAMP_COLOUR, alpha=0.2, linewidth=0)
            ax.axvline(ramp.middle, color=RAMP_COLOUR, linewidth=1.2)
    for jump in analysis.jumps:
        if jump.measure == measure and (not jump.layer) == scalar:
            ax.axvline(jump.step, color=JUMP_COLOUR, linewidth=0.9, linestyle="--", alpha=0.8)


@styled
def heatmap(
    name: str, layers: list[str], steps: np.ndarray, values: np.ndarray, marks: dict[str, int], measure: str
) -> "Figure":
    """One run's measure ``[L, n]`` by layer and training step, with the step at which each layer settled."""
    height = max(1.6, 0.24 * len(layers) + 0.9)
    figure, axes = panels(1, 1, width=7.4, height=height, title=f"{name}: {measure.replace('_', ' ')}")
    ax = axes[0, 0]
    edges = np.concatenate([steps[:1], (steps[1:] + steps[:-1]) / 2, steps[-1:]]).astype(float)
    mesh = ax.pcolormesh(edges, np.arange(len(layers) + 1) - 0.5, values, cmap="viridis", rasterized=True)
    ax.set_yticks(range(len(layers)), [short(layer) for layer in layers], fontsize=7)
    ax.invert_yaxis()
    shown = [
        (step, place) for place, layer in enumerate(layers) for step in [marks.get(layer, -1)] if step >= 0
    ]
    if shown:
        ax.scatter(
            *zip(*shown, strict=True),
            marker="*",
            s=50,
            color="#D55E00",
            edgecolor="white",
            linewidth=0.6,
            clip_on=False,
            zorder=3,
        )
    ax.set(xlabel="training step (star: settled)")
    bar = figure.colorbar(mesh, ax=ax, pad=0.02)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(labelsize=7)
    return figure


@styled
def jump_overview(table: "DataFrame") -> "Figure":
    """All jumps: when they happen, how large they are, and which architectures have them."""
    figure, axes = panels(1, 3, width=3.4, height=2.7, title=f"{len(table):,} jumps")
    when, size, where = axes[0]
    when.hist(table["phase"], bins=np.linspace(0, 1, 31), color=colour(0))
    when.set(xlabel="phase (share of the training)", ylabel="jumps", xlim=(0, 1))
    for label, jumps in table.groupby("cluster"):
        size.scatter(
            jumps["phase"],
            np.maximum(jumps["magnitude"], 1e-300),
            s=9,
            alpha=0.6,
            color=colour(int(label)),  # pyright: ignore[reportArgumentType]
            label=f"type {label}",
            linewidth=0,
        )
    size.set(xlabel="phase", ylabel="magnitude", yscale="log", xlim=(0, 1))
    size.legend(fontsize=7, markerscale=1.5)
    names, numbers = np.unique(table["arch_name"].astype(str), return_counts=True)
    order = np.argsort(numbers, kind="stable")[-10:]
    where.barh(np.arange(len(order)), numbers[order], color=colour(2))
    where.set_yticks(np.arange(len(order)), list(names[order]), fontsize=7)
    where.set(xlabel="jumps")
    for ax in (when, size):
        light_grid(ax)
    light_grid(where, "x")
    return figure


@styled
def period_overview(table: "DataFrame") -> "Figure":
    """All runs: how far layers change together, and how often the loss falls when they do."""
    figure, axes = panels(1, 2, width=4.2, height=2.8, title=f"Critical periods of {len(table)} runs")
    together, loss = axes[0]
    x = np.arange(len(table))
    order = np.argsort(-table["max_coordination"].to_numpy(), kind="stable")
    together.plot(
        x, table["max_coordination"].to_numpy()[order], "o", markersize=3, label="largest share of layers"
    )
    if "coordination_by_chance" in table:
        chance = table["coordination_by_chance"].to_numpy()[order]
        together.plot(x, chance, "_", color=FAINT, markersize=5, label="reached by chance in 1 run of 20")
    together.set(xlabel="run", ylabel="layers critical at once", ylim=(0, 1.25))
    together.legend(loc="upper right", fontsize=7)
    loss.hist(table["loss_correlation"].dropna(), bins=20, color=colour(0), label="at critical steps")
    if "loss_base_rate" in table and table["loss_base_rate"].notna().any():
        loss.axvline(float(table["loss_base_rate"].mean()), color=JUMP_COLOUR, label="at all steps (mean)")
    loss.set(xlabel="share of steps at which the loss falls", ylabel="runs")
    loss.legend(fontsize=7)
    for ax in (together, loss):
        light_grid(ax)
    return figure


def short(layer: str) -> str:
    """A layer's name, its beginning left out when it is long."""
    return shortened(layer, 24, 0.0)


def save(figure: "Figure", path: Path, dpi: int = 120) -> Path:
    """Write a figure as PNG."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")
    return path
