"""The page about a comparison: the differences that stand, then every analysis with its pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from microtome.comparison.part import Row
from microtome.comparison.result import AFTER, Comparison, load_comparison
from microtome.comparison.statistics import Judged
from microtome.explorer.page import Report

MAX_PICTURES = 8  # of one analysis; a page with more is slow to open
ROWS_SHOWN = 24
# Analysis -> its title, what it answers, its folder, and which pictures tell most, in order.
SECTIONS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "probes": (
        "What can be decoded",
        "Accuracy of linear and MLP probes by nested cross-validation, beside probes of untrained networks"
        " and of random labels.",
        "probe_analysis",
        ("*_linear_probe", "*_advantage_by_layer", "*_selectivity", "*_decodable_from", "*"),
    ),
    "similarity": (
        "Where representations differ",
        "Debiased CKA between layers: 1 is the same representation up to rotation and scale. It only means"
        " something beside the same number for an untrained network (floor) and for two seeds of one arm"
        " (ceiling).",
        "similarity",
        ("by_layer_*", "cka_*"),
    ),
    "features": (
        "Which features are shared",
        "Sparse dictionaries of both networks, matched by the inputs that their features fire for, and"
        " normalised between chance and another dictionary of the same network.",
        "autoencoder_analysis",
        ("feature_kinds", "features_by_layer", "crosscoder_*", "feature_cards_*"),
    ),
    "adaptation": (
        "What adaptation changes",
        "Every network adapted to the same few images by the same rule.",
        "adaptation",
        ("*",),
    ),
    "activations": (
        "How activations are spread",
        "Before and after the nonlinearity, over all images.",
        "activation_analysis",
        ("statistics_by_layer", "joint_pca"),
    ),
    "weights": (
        "Where weights differ",
        "Weights as they stand, and after the filters of one network were put in the order of the other's.",
        "weight_analysis",
        ("weights_by_layer", "spectra", "barrier*", "pca_comparison_*"),
    ),
}


def write_page(comparison: Comparison | str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a comparison (default: ``report.html`` in its folder). Raises ``CannotLoad``."""
    if not isinstance(comparison, Comparison):
        comparison = load_comparison(comparison)
    path = comparison.folder.path
    return page(comparison).write(out if out is not None else path / "report.html")


def page(comparison: Comparison) -> Report:
    """The page, to which more can be added."""
    facts = comparison.facts
    names = list(facts["arms"])
    seeds = ", ".join(f"{name}: {len(files)}" for name, files in facts["arms"].items())
    report = Report(
        " and ".join(names) + " side by side",
        f"{facts['images']} images of {facts['data']}; networks: {seeds}; untrained networks as a floor:"
        f" {max(facts['untrained'].values())}.",
    )
    _headlines(report, comparison)
    for name in ("", AFTER):
        for analysis, (title, words, folder, told) in SECTIONS.items():
            part = comparison.parts.get(f"{name}{analysis}")
            if part is None:
                continue
            report.section(f"{title}, after adaptation" if name else title, words)
            _pictures(report, comparison.folder.path / name / folder, told)
            rows = chosen(part.rows)
            left = len(rows) - ROWS_SHOWN
            note = f"{left} more rows are in results.csv." if left > 0 else ""
            report.table("In numbers", [_row(row) for row in rows[:ROWS_SHOWN]], note)
    return _how_it_was_made(report, comparison)


def _headlines(report: Report, comparison: Comparison) -> None:
    judged = comparison.by_weight
    standing = [one for one in judged if one.distinguishable]
    report.section(
        "What differs",
        f"{len(standing)} of {len(judged)} tested differences stand above the noise of images and seeds"
        " (95 %, corrected for the number of tests by Holm's method).",
    )
    if judged and not standing:
        report.verdict("Not distinguishable from noise: no tested difference stands.", good=False)
    for one in standing[:ROWS_SHOWN]:
        report.verdict(one.sentence)
    rest = [_claim_row(one) for one in judged if not one.distinguishable]
    if rest:
        note = f"{len(rest) - ROWS_SHOWN} more are in claims.csv." if len(rest) > ROWS_SHOWN else ""
        report.table("Tested, and not distinguishable from noise", rest[:ROWS_SHOWN], note)
    if comparison.remarks:
        report.table("To beware of", [{"note": line} for line in comparison.remarks])


def _claim_row(one: Judged) -> dict[str, Any]:
    claim = one.claim
    return {
        "differ in": claim.about,
        "networks": f"{claim.a}, {claim.b}",
        "effect": claim.effect,
        "95% interval": f"{claim.low:.3g} to {claim.high:.3g}",
        "p corrected": one.p_adjusted,
    }


def chosen(rows: Sequence[Row]) -> list[Row]:
    """The rows that stand beside a control first."""
    return sorted(rows, key=lambda row: row.floor is None and row.null is None and row.low is None)


def _row(row: Row) -> dict[str, Any]:
    told: dict[str, Any] = {"statistic": row.statistic, "layer": row.layer, "label": row.label}
    told["of"] = f"{row.arm} ~ {row.other}" if row.other else row.arm
    told["value"] = row.value
    if row.low is not None and row.high is not None:
        told["95% interval"] = f"{row.low:.3g} to {row.high:.3g}"
    for name in ("floor", "ceiling", "null", "n", "seeds"):
        value = getattr(row, name)
        if value is not None:
            told[name] = value
    return {key: value for key, value in told.items() if value != ""}


def _pictures(report: Report, folder: Path, patterns: Sequence[str]) -> None:
    found = sorted(folder.rglob("*.png"))
    told: dict[Path, None] = {}  # in the order of the patterns, each once
    for pattern in patterns:
        told |= dict.fromkeys(sorted(folder.glob(f"{pattern}.png")))
    for picture in list(told)[:MAX_PICTURES]:
        report.picture(picture, picture.stem.replace("_", " "))
    left = len(found) - min(len(told), MAX_PICTURES)
    if left > 0:
        report.text(f"{left} more pictures are in {folder.name}/.")


def _how_it_was_made(report: Report, comparison: Comparison) -> Report:
    folder, facts = comparison.folder, comparison.facts
    report.section("How it was made").commands([" ".join(map(str, folder.environment.get("command", [])))])
    report.table(
        "Layers that were set side by side",
        [{"layer": label} | dict(names) for label, names in facts["layers"].items()],
    )
    files = [{"arm": name, "file": file} for name, paths in facts["arms"].items() for file in paths]
    report.table("Networks", files)
    settings = [{"field": key, "value": _words(value)} for key, value in folder.config.items()]
    report.table("Settings", settings)
    versions = folder.environment.get("versions", {})
    return report.footer("; ".join(f"{k} {v}" for k, v in versions.items()) if versions else "")


def _words(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (dict, list)) else value
