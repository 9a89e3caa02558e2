"""The demonstration: small networks trained, taken apart and measured in about two minutes."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from microtome.core.atomic import cannot_write
from microtome.core.config import read_yaml
from microtome.core.device import set_threads, tune_allocator
from microtome.core.errors import MicrotomeError
from microtome.core.runs import RunFolder
from microtome.decomposition.config import config_from_mapping
from microtome.decomposition.decompose import run_config
from microtome.explorer.report import CAPTIONS, Report
from microtome.magnitude.config import MagnitudeConfig
from microtome.magnitude.run import run as sweep_magnitude
from microtome.training.classify import train_digits
from microtome.training.config import DigitsTrainConfig, TMSTrainConfig
from microtome.training.toy import train_tms

Say = Callable[[str], None]
Row = dict[str, Any]

PLAN = """This demonstration trains small networks, takes their weights apart, and measures what was found:
  1. Toy Models of Superposition: 5 features in 2 dimensions, several initialisations in one batch
  2. the same networks decomposed by SPD and by APD, several seeds at once
  3. one input's magnitude swept through a decomposed network
  4. a classifier of 1,797 real handwritten digits, decomposed by SPD
It takes about two minutes on two cores, needs no network, and writes to {folder}."""

# Mean over columns that each paper reports for TMS 5-2: (MMCS, ML2R).
PAPER = {"SPD": ("1.000", "0.993"), "APD": ("0.998", "0.893")}
MARK = "demo.json"


@dataclass(frozen=True)
class DemoResult:
    """Where the page is, and the tables on it."""

    report: Path
    mechanisms: list[Row]
    digits: list[Row]
    verdicts: list[str]


def run_demo(folder: Path, say: Say, *, show_progress: bool = True, steps: float = 1.0) -> DemoResult:
    """Run everything into ``folder`` and write ``report.html`` there.

    ``steps`` scales every number of steps; below 1 the networks are not fully taken apart. Raises
    ``MicrotomeError`` when ``folder`` holds something that is not an earlier demonstration.
    """
    _make_room(folder)
    set_threads(None)
    tune_allocator()
    say(PLAN.format(folder=folder))
    target = _train(folder / "tms-target", "demo_train_tms", TMSTrainConfig, train_tms, steps, show_progress)
    found = target.summary["polygon_found"]
    say(
        f"\n{len(found)} of {target.summary['trained_instances']} initialisations kept;"
        f" {sum(found)} of them are pentagons."
    )
    runs = {
        "SPD": _decompose(folder / "tms-spd", "demo_tms_5-2", target, steps, show_progress),
        "APD": _decompose(folder / "tms-apd", "demo_tms_5-2_apd", target, steps, show_progress),
    }
    mechanisms = [_mechanism_row(method, run.summary) for method, run in runs.items()]
    verdicts = [_verdict(method, run.summary) for method, run in runs.items()]
    sweep = folder / "magnitude"
    settings = {"model_path": str(runs["SPD"].path), "output_dir": sweep}
    sweep_magnitude(MagnitudeConfig.from_mapping(settings), note=lambda _: None)
    classifier = _train(
        folder / "digits-target", "demo_train_digits", DigitsTrainConfig, train_digits, steps, show_progress
    )
    runs["digits"] = _decompose(folder / "digits-spd", "demo_digits", classifier, steps, show_progress)
    digits = _digit_rows(runs["digits"].summary)
    verdicts.append(_digit_verdict(runs["digits"].summary))
    report = _report(folder, target, runs, sweep, mechanisms, digits, verdicts)
    return DemoResult(report, mechanisms, digits, verdicts)


def _make_room(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise MicrotomeError(f"out_dir={str(folder)!r}: is a file; choose another --out_dir")
    try:
        _empty(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK).write_text("{}\n")
    except OSError as error:
        raise cannot_write(folder, error) from error


def _empty(folder: Path) -> None:
    """Remove an earlier demonstration, and nothing else."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).is_file():
            raise MicrotomeError(
                f"out_dir={str(folder)!r}: already holds other files; choose another --out_dir"
            )
        shutil.rmtree(folder)


def recipe(name: str) -> dict[str, Any]:
    """The settings of a packaged recipe."""
    return read_yaml(Path(str(resources.files("microtome") / "recipes" / f"{name}.yaml")))


def _train(folder: Path, name: str, model: Any, train: Any, steps: float, show_progress: bool) -> RunFolder:
    values = _scaled(recipe(name), steps)
    return train(model.from_mapping(values, name), out_dir=folder, show_progress=show_progress)


def _decompose(folder: Path, name: str, target: RunFolder, steps: float, show_progress: bool) -> RunFolder:
    values = _scaled(recipe(name), steps)
    if values["method"] == "apd":
        values["task_config"] = {**values["task_config"], "pretrained_model_path": str(target.path)}
    else:
        values["pretrained_model_path"] = str(target.path)
    config = config_from_mapping(values, name)
    return run_config(config, out_dir=folder, command=["microtome", "demo"], progress=show_progress)


def _scaled(values: dict[str, Any], steps: float) -> dict[str, Any]:
    return {**values, "steps": max(1, round(values["steps"] * steps))}


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.4f} ± {stdev(values):.4f}" if len(values) > 1 else f"{values[0]:.4f}"


def _alive(summary: dict[str, Any]) -> str:
    alive = summary["alive"]
    return ", ".join(map(str, alive["linear1"] if isinstance(alive, dict) else alive))


def _mechanism_row(method: str, summary: dict[str, Any]) -> Row:
    error = summary.get("output_error_causal_importance") or summary["output_error_topk"]
    return {
        "method": method,
        "seeds": summary["seeds"],
        "MMCS": _spread(summary["mmcs"]),
        "MMCS, paper": PAPER[method][0],
        "ML2R": _spread(summary["ml2r"]),
        "ML2R, paper": PAPER[method][1],
        "alive components": _alive(summary),
        "output error, all": f"{mean(summary['output_error_all_components']):.1e}",
        "output error, masked": f"{mean(error):.1e}",
        "recovered": ", ".join(f"{n}/{summary['mechanisms']}" for n in summary["recovered_mechanisms"]),
    }


def _verdict(method: str, summary: dict[str, Any]) -> str:
    wanted, found = summary["mechanisms"], summary["recovered_mechanisms"]
    full = sum(n == wanted for n in found)
    if full == len(found):
        return f"{method}: recovered {wanted} of {wanted} mechanisms in all {full} seeds."
    return (
        f"{method}: recovered {wanted} of {wanted} mechanisms in {full} of {len(found)} seeds;"
        f" the worst seed found {min(found)}."
    )


def _digit_rows(summary: dict[str, Any]) -> list[Row]:
    names = {
        "accuracy_target": "target",
        "accuracy_all_components": "sum of all components",
        "accuracy_causal_importance": "components masked by causal importance",
    }
    return [
        {"network": text, "test accuracy": ", ".join(f"{100 * value:.1f} %" for value in summary[key])}
        for key, text in names.items()
    ] + [
        {
            "network": f"L0 of {site} (of {summary['components'][site]} components)",
            "test accuracy": ", ".join(f"{value:.1f}" for value in values),
        }
        for site, values in summary["l0"].items()
    ]


def _digit_verdict(summary: dict[str, Any]) -> str:
    lost = max(
        a - b for a, b in zip(summary["accuracy_target"], summary["accuracy_causal_importance"], strict=True)
    )
    used = max(max(values) / summary["components"][site] for site, values in summary["l0"].items())
    return (
        f"Digits: each image needs at most {100 * used:.0f} % of a layer's components on average;"
        f" masking the others costs {100 * lost:.1f} points of test accuracy in the worst seed."
    )


def _report(
    folder: Path,
    target: RunFolder,
    runs: dict[str, RunFolder],
    sweep: Path,
    mechanisms: list[Row],
    digits: list[Row],
    verdicts: Sequence[str],
) -> Path:
    page = Report("Networks taken apart", " ".join(verdicts))
    page.section("A toy model of superposition")
    page.text(
        "Five features share two dimensions. The network keeps them apart by laying them out as a pentagon."
    )
    page.picture(target.path / "polygon.png", "The trained targets: one arrow a feature.", "Pentagons")
    note = "Mean ± standard deviation over seeds. MMCS: mean max cosine similarity; ML2R: mean L2 ratio."
    measures = [key for key in mechanisms[0] if key != "method"]
    turned = [{"": key, **{str(row["method"]): row[key] for row in mechanisms}} for key in measures]
    page.table("What was recovered", turned, f"{note} Both are 1 for a perfect decomposition.")
    for method in ("SPD", "APD"):
        page.section(f"Decomposed by {method}")
        _pictures(
            page, runs[method], ("tms_combined_diagram", "causal_importances", "subnetwork_attributions")
        )
        _pictures(page, runs[method], ("recovery", "loss_curves"))
    page.section("One feature of growing magnitude")
    for picture in sorted(sweep.glob("*.png"))[:1]:
        page.picture(picture, CAPTIONS["unified_grid"], "Magnitude sweep of feature 0")
    page.section("Handwritten digits")
    page.table("Accuracy on 354 held-out images, one value a seed", digits)
    first = sorted(path.stem for path in (runs["digits"].path / "plots").glob("components_*.png"))
    _pictures(page, runs["digits"], (*first, "mask_vals", "loss_curves"))
    page.section("Try next").commands(next_commands(folder))
    return page.write(folder / "report.html")


def _pictures(page: Report, run: RunFolder, names: Sequence[str]) -> None:
    for name in names:
        path = run.path / "plots" / f"{name}.png"
        if path.is_file():
            caption = next((text for start, text in CAPTIONS.items() if name.startswith(start)), name)
            page.picture(path, caption, f"{run.path.name}: {name}")


def next_commands(folder: Path) -> list[str]:
    """Three commands to try after the demonstration."""
    return [
        f"microtome magnitude --model_path {folder / 'tms-spd'} --features all",
        f"microtome decompose tms_5-2 --instances null --pretrained_model_path {folder / 'tms-target'}",
        "microtome train tms --help",
    ]
