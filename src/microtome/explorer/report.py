"""The report of one run folder: its summary, its pictures in reading order, and how to look further."""

import re
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from microtome.core.runs import RunFolder
from microtome.explorer.page import Report, format_value

__all__ = ["CAPTIONS", "Report", "run_report", "write_report"]

# Beginning of a picture's name (a pattern) to what a reader should see in it, in reading order.
CAPTIONS = {
    "recovery": "Does a component point along each feature's weights (left), and is it as long (right)?",
    "tms_combined_diagram": "The target, the sum of all components, and each component by itself. A perfect "
    "decomposition has one component a feature.",
    "cosine_similarity_analysis": "Components against features: direction and length.",
    "components_": "First-layer components as images, and the classes they fire for.",
    "causal_importances": "Causal importance of each component when one feature is on, columns permuted "
    "towards the identity.",
    "UV_matrices": "The two factors of every rank-one component.",
    "component_weights": "Weights of the target, of the sum of components, and of the largest components.",
    "subnetwork_attributions": "Attributions of each component.",
    "subnet_categories": "How many features each component serves.",
    "resid_mlp_weights": "Which neurons carry each feature: in the target, and in its best component.",
    "neuron_contribution_pairs": "Neuron contributions in the target against those in the best component.",
    "virtual_weights": "Weights from feature to feature.",
    "mask_vals": "How causal importances are spread: sharp decompositions have peaks at 0 and 1 only.",
    "component_attributions": "What each component passes on to later ones: the strongest edges.",
    "prompt_": "One text, token by token: which components feed which, up to the next token.",
    "component_clusters": "Components that fire on the same inputs, cluster by cluster.",
    "merge_costs": "How long a description of the firing components is with fewer and fewer clusters.",
    "ablation": "The loss without the chosen components, and with nothing but them, beside random sets.",
    "mean_component_activation_counts": "How often each component is active.",
    "loss_curves": "Losses over training steps.",
    "evaluation_recon": "The output under each kind of mask, with 95 % intervals. Blue should lie near the "
    "target, black should not.",
    "evaluation_l0": "How many components matter for an input, site by site.",
    "evaluation_ci_histograms": "Causal importances: near 0 or 1, or in between?",
    "evaluation_mean_importance": "Each component's mean causal importance, sorted.",
    "evaluation_density": "The share of inputs on which each component is active, sorted.",
    "evaluation_permuted_ci": "Causal importances of one feature at a time, columns permuted.",
    "evaluation_uv": "The factors of every component.",
    "unified_grid": "Responses to one feature of growing magnitude.",
    "*_causal_importance_sweep": "Causal importances of all components, a panel an input feature.",
    "*_onsets": "The magnitude at which each component turns on for each input feature.",
}

MAX_PICTURES = 40  # a page with more is slow to open, and each is shrunk too far to read


def write_report(run: RunFolder | str | Path, path: str | Path | None = None) -> Path:
    """Write the report of a run folder (default: ``report.html`` in it) and return its path.

    Raises ``CannotLoad`` when ``run`` is no run folder.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    return run_report(folder).write(folder.path / "report.html" if path is None else path)


def run_report(run: RunFolder) -> Report:
    """The report of a run, to which more can be added."""
    state = "" if run.finished else " It has not finished: what follows is its state so far."
    report = Report(run.path.name, f"A run of kind {run.kind}.{state}")
    if (run.path / "evaluation.json").is_file():
        _verdict(report, run)
    numbers, others = _flat(run.summary)
    if numbers:
        report.section("Numbers").table("Summary", [_summary_row(k, v) for k, v in numbers.items()])
    for name, rows in others.items():
        report.table(name, rows)
    pictures = _in_reading_order(sorted([*(run.path / "plots").rglob("*.png"), *run.path.glob("*.png")]))
    if pictures:
        left = len(pictures) - MAX_PICTURES
        report.section("Pictures", f"{left} more are in {run.path}." if left > 0 else "")
    for picture in pictures[:MAX_PICTURES]:
        report.picture(picture, _caption(picture.stem), f"{picture.stem}: {_caption(picture.stem)}")
    environment = run.environment
    report.section("How it was made")
    if command := environment.get("command"):
        report.commands([command if isinstance(command, str) else " ".join(map(str, command))])
    report.table("Configuration", [{"field": k, "value": _words(v)} for k, v in run.config.items()])
    known = {k: v for k, v in environment.items() if k != "command" and v not in (None, "", {}, [])}
    return report.footer("; ".join(f"{key}: {_words(value)}" for key, value in known.items()))


def _verdict(report: Report, run: RunFolder) -> None:
    """The checks of an evaluation, as the command tells them."""
    found = run.load_json("evaluation.json")
    about = found["about"]
    told = f"{about['n_batches']} batches of {about['batch_size']:,}: {about['inputs']}."
    rows = [
        {
            "check": c["name"],
            "measured": c["measured"],
            "asked": c["wanted"],
            "verdict": c["status"],
            "why": c["why"],
        }
        for c in found["checks"]
    ]
    report.section("Verdict", told).table("Checks", rows)


def _words(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_words(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(_words(v)) for v in value)
    return value


def _flat(
    summary: dict[str, Any], prefix: str = ""
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Single values by dotted name, and lists of rows, which become tables of their own."""
    numbers: dict[str, Any] = {}
    tables: dict[str, list[dict[str, Any]]] = {}
    for key, value in summary.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            inner_numbers, inner_tables = _flat(value, f"{name}.")
            numbers |= inner_numbers
            tables |= inner_tables
        elif isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            tables[name] = value
        else:
            numbers[name] = value
    return numbers, tables


def _summary_row(name: str, value: Any) -> dict[str, Any]:
    """One measure: its value, or mean, standard deviation and values over seeds."""
    if isinstance(value, list) and value and all(isinstance(v, int | float) for v in value):
        sd = stdev(value) if len(value) > 1 else None
        return {
            "measure": name,
            "value": fmean(value),
            "sd": sd,
            "seeds": ", ".join(map(format_value, value)),
        }
    return {"measure": name, "value": _words(value), "sd": None, "seeds": None}


@cache
def _captions() -> dict[str, str]:
    """``CAPTIONS``, and the question that each further picture of a decomposition answers."""
    from microtome.decomposition.pictures import CATALOGUE

    questions = {name: picture.question for name, picture in CATALOGUE.items()}
    return CAPTIONS | {name: text for name, text in questions.items() if name not in CAPTIONS}


def _rank(stem: str) -> int:
    captions = _captions()
    matches = [(len(start), i) for i, start in enumerate(captions) if fnmatch(stem, f"{start}*")]
    return max(matches)[1] if matches else len(captions)


def _in_reading_order(pictures: list[Path]) -> list[Path]:
    """By the captions' order, without the states of a picture at earlier steps (``<name>_s<step>``)."""
    last = {picture.stem for picture in pictures}
    kept = [p for p in pictures if re.sub(r"_s\d+$", "", p.stem) not in last - {p.stem}]
    return sorted(kept, key=lambda p: (_rank(p.stem), p.stem))


def _caption(stem: str) -> str:
    captions, rank = list(_captions().values()), _rank(stem)
    return captions[rank] if rank < len(captions) else stem.replace("_", " ")
