"""A comparison on disk: numbers, a report in words, and pictures under the documented names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from microtome.core.atomic import atomic_path, write_text
from microtome.core.plain import plain_value
from microtome.dynamics import before_after_plots, pattern_plots
from microtome.dynamics.before_after import AnalysisResult
from microtome.dynamics.comparison_report import markdown
from microtome.dynamics.run import DynamicsRun
from microtome.dynamics.spatial_patterns import most_turned

if TYPE_CHECKING:
    from torch import nn

MOST_MODULES = 8  # with pictures of their own
MOST_FILTERS = 8
HEADS_SHOWN = 8


def write_comparison(
    result: AnalysisResult,
    folder: str | Path,
    run: DynamicsRun | None = None,
    *,
    other: DynamicsRun | None = None,
    model: "nn.Module | None" = None,
    jump_steps: tuple[int, ...] = (),
    plots: bool = True,
    states: "tuple[Mapping[str, Any], Mapping[str, Any]] | None" = None,
) -> list[Path]:
    """Write ``analysis_results.json``, ``comparison_report.md`` and every picture that can be drawn.

    Pictures: ``layer_changes.png``, ``representation_similarity.png``, ``<module>_attention_pattern.png``,
    ``<parameter>_filter_viz.png``, ``attention_entropy_evolution.png`` (over all kept states) and
    ``learning_coefficient_<before|after>.png``. They are entered in ``result.visualizations``. States are
    read again from ``run`` (and ``other``), or given as ``states``; without them only numbers are drawn.
    """
    folder = Path(folder)
    figures = numbers_figures(result) if plots else {}
    if plots and run is not None and result.measurements.get("states"):
        from microtome.dynamics.comparison_states import state_figures

        figures |= state_figures(result, run, other or run, model, jump_steps)
    elif plots and states is not None:
        names = tuple(str(result.measurements["states"][word]) for word in ("before", "after"))
        figures |= filter_figures(states[0], states[1], (names[0], names[1]))
    written = []
    for name, figure in figures.items():
        path = folder / f"{safe(name)}.png"
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=150, format="png")
        result.visualizations[name] = str(path)
        written.append(path)
    found = {
        "experiment": result.experiment,
        "moment": result.moment,
        "measurements": plain_value(result.measurements),
        "visualizations": {name: Path(path).name for name, path in result.visualizations.items()},
    }
    return [
        write_text(folder / "analysis_results.json", json.dumps(found, indent=2) + "\n"),
        write_text(folder / "comparison_report.md", markdown(result)),
        *written,
    ]


def default_folder(result: AnalysisResult, run: DynamicsRun | None = None) -> Path:
    """Inside a recorded run a folder named by the comparison; otherwise one in the working folder."""
    if run is not None and run.path.is_dir():
        return run.path / f"comparison_{safe(result.moment)}"
    return Path(f"comparison_{safe(result.experiment)}_{safe(result.moment)}")


def numbers_figures(result: AnalysisResult) -> dict[str, Figure]:
    """The pictures that the measurements alone give."""
    found = result.measurements
    names = (f"step {found['step_before']}", f"step {found['step_after']}")
    figures = {}
    if found["measures"]:
        figures["layer_changes"] = before_after_plots.layer_changes_figure(
            found["measures"], names, f"{result.experiment}: dimensionality"
        )
    if found.get("representations"):
        figures["representation_similarity"] = before_after_plots.similarity_figure(
            found["representations"],
            "step {before} against step {after}, on the probe".format(**found["states"]),
        )
    for word, one in (found.get("learning_coefficient") or {}).items():
        traces = {f"step size {size}": np.array(rows) for size, rows in one["traces"].items()}
        figures[f"learning_coefficient_{word}"] = before_after_plots.trace_figure(
            traces, f"Local learning coefficient {word}: {one['value']:.3g} ({one['verdict']})"
        )
    return figures


def attention_figures(
    before: Mapping[str, Any], after: Mapping[str, Any], names: tuple[str, str]
) -> dict[str, Figure]:
    """Mean patterns over the probe of each module's heads, before above after."""
    figures = {}
    for module in [name for name in before if name in after][:MOST_MODULES]:
        pair = [np.asarray(patterns[module].mean(0).float().cpu()) for patterns in (before, after)]
        if pair[0].shape == pair[1].shape:
            figures[f"{module or 'model'}_attention_pattern"] = pattern_plots.attention_heads_figure(
                pair[0], pair[1], HEADS_SHOWN, names, f"{module or 'Attention'}, mean over the probe"
            )
    return figures


def filter_figures(
    before: Mapping[str, Any], after: Mapping[str, Any], names: tuple[str, str]
) -> dict[str, Figure]:
    """Convolution kernels wider than one place: the filters that turned most."""
    figures = {}
    kernels = [
        name for name, x in before.items() if x.ndim > 3 and max(x.shape[2:]) > 1 and x.is_floating_point()
    ]
    for name in kernels[:MOST_MODULES]:
        pair = [np.asarray(state[name].float().cpu()) for state in (before, after)]
        short = name.removesuffix(".weight")
        figures[f"{short}_filter_viz"] = pattern_plots.filters_before_after_figure(
            most_turned(pair[0], pair[1], MOST_FILTERS), names, f"{short}: the filters that turned most"
        )
    return figures


def safe(name: str) -> str:
    """A name that any file system takes."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)
