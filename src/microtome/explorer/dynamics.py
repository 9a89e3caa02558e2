"""The page about a recorded training: its course, the transitions found, and before against after."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from microtome.core.errors import CannotLoad
from microtome.dynamics.before_after import PREFERRED, AnalysisResult
from microtome.dynamics.compared import Pair, before_and_after, transitions
from microtome.dynamics.comparison_files import default_folder, write_comparison
from microtome.dynamics.comparison_report import (
    attention_rows,
    filter_rows,
    headline,
    largest_changes,
    representation_rows,
    specialisation_rows,
    weight_rows,
)
from microtome.dynamics.moments import CriticalMoment
from microtome.dynamics.run import DynamicsRun, open_run
from microtome.dynamics.run_plots import course_figure
from microtome.explorer.page import Report

if TYPE_CHECKING:
    from torch import nn

TRANSITIONS = 5
ROWS = 16
PICTURES = 8
CAPTIONS = {
    "layer_changes": "Every layer's dimensionality: open before, filled after.",
    "representation_similarity": "How alike each layer's activations on the probe are before and after.",
    "attention_pattern": "Mean attention over the probe, before above after, on one scale.",
    "filter_viz": "The filters that turned most, before above after, on one scale.",
    "attention_entropy_evolution": "Entropy of attention at every kept state; dashes: what is compared.",
    "learning_coefficient": "Every chain's draws at each step size; a settled chain is level.",
}


def write_page(
    run: str | Path | DynamicsRun,
    out: str | Path | None = None,
    *,
    model: "nn.Module | None" = None,
    learning_coefficient: bool = False,
    runs_root: Path = Path("runs"),
) -> Path:
    """Find the transitions of a run, compare before and after the strongest, write ``report.html``.

    Default: in the run's folder; for an original measurement file ``report_<name>.html`` here. The numbers
    and pictures of the comparison are written beside it. Raises ``MicrotomeError``.
    """
    recorded = run if isinstance(run, DynamicsRun) else open_run(run, runs_root=runs_root)
    if not len(recorded.steps()):
        raise CannotLoad(f"{recorded.path}: nothing was measured in it; record it again")
    target = Path(out) if out is not None else _default(recorded)
    moments = transitions(recorded, TRANSITIONS)
    pair = before_and_after(moments)
    first, last = (int(recorded.steps()[place]) for place in (0, -1))
    compared = (
        Pair(recorded, *pair) if pair is not None else Pair(recorded, first, last) if last > first else None
    )
    result = None
    if compared is not None:
        result = compared.compare(model)
        if learning_coefficient:
            from microtome.dynamics.coefficients import coefficients

            states = result.measurements.get("states") or {}
            result.measurements["learning_coefficient"] = coefficients(recorded, states, model)
        spot = default_folder(result, recorded)
        folder = spot if recorded.path.is_dir() else target.parent / spot.name
        write_comparison(result, folder, recorded, model=model)
    report = page(recorded, moments, result, found=pair is not None)
    return report.write(target)


def page(
    run: DynamicsRun, moments: list[CriticalMoment], result: AnalysisResult | None, *, found: bool
) -> Report:
    """The page: course, transitions, comparison, how it was made."""
    steps = run.steps()
    report = Report(
        f"What changed while {run.name} trained",
        f"{len(steps)} records from step {steps[0]} to {steps[-1]} of {len(run.layers)} layers;"
        f" {len(run.checkpoint_steps())} states kept.",
    )
    changes = transition_rows(moments)
    if found:
        first = changes[0]
        others = f", and {len(changes) - 1} more changes" if len(changes) > 1 else ""
        report.verdict(
            f"A {first['kind'].replace('_', ' ')} at step {first['step']}, from step {first['from']} to"
            f" {first['to']}, seen in {first.get('seen in', 'the run')}{others}."
        )
    else:
        report.verdict(
            "No transition: nothing here is distinguishable from a smooth course and its noise.", good=False
        )
    report.section("The course")
    report.picture(course(run, moments), "Loss, accuracy and dimensionality; shaded: transitions.")
    if changes:
        report.table("Changes: ramps first, then by strength", changes)
    if result is not None:
        _comparison(report, result, found)
    _made(report, run)
    return report


def course(run: DynamicsRun, moments: list[CriticalMoment]) -> Any:
    """The picture of the whole run."""
    losses, shares = {}, {}
    for name in run.scalars().columns:
        kind = losses if "loss" in name else shares if "accuracy" in name else None
        if kind is not None and len(run.scalar(name)[0]):
            kind[name] = run.scalar(name)
    measure = next((name for name in PREFERRED if name in run.measures), run.measures[0])
    spans = [
        (float(moments[i].step), float(moments[i + 2].step), str(moments[i + 1].step))
        for i in range(len(moments) - 2)
        if moments[i].moment_type.startswith("before_") and moments[i + 2].moment_type.startswith("after_")
    ]
    return course_figure(
        losses, shares, run.layers, run.steps(), run.values[measure], measure, spans, run.name
    )


def transition_rows(moments: list[CriticalMoment]) -> list[dict[str, Any]]:
    """One row a change, from its before, during and after."""
    rows = []
    for i in range(len(moments) - 2):
        before, during, after = moments[i : i + 3]
        if not (before.moment_type.startswith("before_") and after.moment_type.startswith("after_")):
            continue
        info = during.jump_info or {}
        row: dict[str, Any] = {
            "step": str(during.step),
            "kind": during.moment_type.removeprefix("during_"),
            "from": str(before.step),
            "to": str(after.step),
        }
        row["seen in"] = _seen_in(info)
        for key in ("size", "z", "fit", "coordination"):
            if isinstance(info.get(key), (int, float)):
                row[key] = float(info[key])
        rows.append(row)
    return rows


def _seen_in(info: dict[str, Any]) -> str:
    """The measure and the layer in which a change was found, and how many others have it."""
    measure = str(info.get("measure") or "the layers together").replace("_", " ")
    layers = info.get("layers") or []
    layer = f" of {info['layer']}" if info.get("layer") else ""
    more = len(set(map(str, layers)) - {str(info.get("layer"))}) if isinstance(layers, (list, tuple)) else 0
    return f"{measure}{layer}" + (f" and {more} more" if layer and more else "")


def _comparison(report: Report, result: AnalysisResult, found: bool) -> None:
    numbers = result.measurements
    title = "Before and after the strongest transition" if found else "From the first record to the last"
    report.section(title, "; ".join(headline(numbers)) + ".")
    for note in numbers["notes"]:
        report.text(f"Note: {note}.")
    tables = (
        (f"Layers: {numbers['measure'].replace('_', ' ')}", largest_changes(numbers, ROWS)),
        ("Representations on the probe", representation_rows(numbers)),
        ("Attention heads (entropies in nats)", attention_rows(numbers)),
        ("Head specialisation", specialisation_rows(numbers)),
        ("Filters and hidden units", filter_rows(numbers)),
        ("Weights that moved most", weight_rows(numbers)),
    )
    for caption, rows in tables:
        if rows:
            report.table(
                caption, rows[:ROWS], f"{len(rows) - ROWS} more not shown" if len(rows) > ROWS else ""
            )
    for word, one in (numbers.get("learning_coefficient") or {}).items():
        report.table(
            f"Local learning coefficient {word} (step {one['step']}, on {one['data']})",
            one["sweep"],
            one["verdict"],
        )
    for name, path in list(result.visualizations.items())[:PICTURES]:
        words = next((text for key, text in CAPTIONS.items() if key in name), name)
        report.picture(path, f"{name.replace('_', ' ')}: {words}")


def _made(report: Report, run: DynamicsRun) -> None:
    report.section("How it was made")
    command = _command(run)
    if command:
        report.commands([command])
    shown = {
        key: value
        for key, value in run.facts.items()
        if isinstance(value, (str, int, float)) and key not in ("layers", "measures")
    }
    if shown:
        report.table("Settings", [{"field": key, "value": value} for key, value in shown.items()])


def _command(run: DynamicsRun) -> str:
    if not run.path.is_dir():
        return ""
    from microtome.core.runs import RunFolder

    return " ".join(map(str, RunFolder(run.path).environment.get("command", [])))


def _default(run: DynamicsRun) -> Path:
    return run.path / "report.html" if run.path.is_dir() else Path(f"report_{run.name}.html")
