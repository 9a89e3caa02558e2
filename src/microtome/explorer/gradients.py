"""The page about a gradient analysis: which layers and which features move the loss, and on which tokens."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from microtome.core.references import open_run
from microtome.explorer.page import Report
from microtome.gradients.loading import result_in
from microtome.gradients.metadata import TRUST
from microtome.gradients.names import model_word
from microtome.gradients.result import GradientResult

LAYERS_SHOWN = 12  # layers with tables of their own
VALUES_SHOWN = 8
TOKENS_SHOWN = 3
PICTURES = 16


def write_page(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a run (default: ``report.html`` in it). Raises ``CannotLoad``."""
    folder = open_run(run, runs_root=Path(), want="gradients")
    result = result_in(folder)
    report = page(result, folder.summary)
    for picture in _pictures(folder.path):
        report.picture(picture, _caption(picture.stem))
    environment = folder.environment
    report.section("How it was made").commands([" ".join(map(str, environment.get("command", [])))])
    report.table("Settings", [{"field": key, "value": _words(value)} for key, value in folder.config.items()])
    return report.write(out if out is not None else folder.path / "report.html")


def page(result: GradientResult, summary: dict[str, Any]) -> Report:
    """The page without pictures, to which more can be added."""
    facts = result.metadata
    what = "dictionary features" if result.kind == "features" else "activation dimensions"
    report = Report(
        f"What moves the loss of {model_word(str(facts.get('model_name', 'the model')))}",
        f"Gradients of the loss by {what}, over {facts.get('samples', '?')} samples and"
        f" {facts.get('positions', 0):,} token positions.",
    )
    report.section("Layers", "" if result.kind == "layers" else f"Which score to trust: {TRUST}.")
    report.table("Each layer", [_layer_row(result, layer) for layer in result.layers])
    if "validation" in summary:
        report.section(
            "Do the scores predict?",
            "Rank correlation (Spearman) of each score with what truly happens to the loss when a value is"
            " removed. Removing is exact: the value goes, whatever else the layer gives out stays.",
        )
        rows = summary["validation"]["spearman"]
        report.table("Mean over layers", [{"score": name, "Spearman": rho} for name, rho in rows.items()])
        report.table("Layer by layer", summary["validation"]["spearman_by_layer"])
    report.section(f"Strongest {what}", "With the tokens on which each acts most, between ⟦ and ⟧.")
    for layer in list(result.layers)[:LAYERS_SHOWN]:
        report.table(f"Layer {layer}", _strongest(result, layer))
    report.section("Pictures")
    return report


def _layer_row(result: GradientResult, layer: int) -> dict[str, Any]:
    arrays = result.layers[layer]
    row: dict[str, Any] = {"layer": layer, "values": len(next(iter(arrays.values())))}
    for name, words in (("attribution_mean", "sum |attribution|"), ("gradients_mean_abs", "mean |gradient|")):
        if name in arrays:
            row[words] = float(np.abs(arrays[name]).sum() if "sum" in words else arrays[name].mean())
    if "active_share" in arrays and result.kind == "features":
        row["features that acted"] = int((arrays["active_share"] > 0).sum())
    best = int(np.argmax(np.abs(result.score(layer))))
    row["strongest"] = str(best)
    return row


def _strongest(result: GradientResult, layer: int) -> list[dict[str, Any]]:
    tokens = {row["index"]: row["tokens"] for row in result.tokens.get(layer, [])}
    rows = []
    for row in result.top(VALUES_SHOWN, layer).to_dict("records"):
        told = {"index": str(row["index"]), result.best_score.replace("_", " "): row[result.best_score]}
        if "low" in row:
            told["95% interval"] = f"{row['low']:.2e} to {row['high']:.2e}"
        if "active_share" in row and result.kind == "features":
            told["acts at"] = f"{100 * row['active_share']:.2g} %"
        found = tokens.get(row["index"], [])[:TOKENS_SHOWN]
        told["acts most on"] = "  |  ".join(_in_context(token) for token in found)
        rows.append(told)
    return rows


def _in_context(token: dict[str, Any]) -> str:
    before, after = token["before"][-30:], token["after"][:16]
    return " ".join(f"{before}⟦{token['token']}⟧{after}".split())


def _pictures(path: Path) -> list[Path]:
    found = [*sorted(path.glob("*_validation.png")), *sorted(path.glob("all_layers_*.png"))]
    if not any("all_layers" in picture.stem for picture in found):
        found += sorted(path.glob("layer_*.png"))
    return list(dict.fromkeys(found))[:PICTURES]


def _caption(stem: str) -> str:
    if stem.endswith("_validation"):
        return (
            "True ablations: prediction and truth, the rank correlation of each score, nudges, and removals."
        )
    words = stem.replace("_", " ")
    if "scatter" in stem:
        return f"{words}: every value by its index; stars are the 20 strongest, dashes the mean."
    return f"{words}: how the values are spread; dashes are the mean."


def _words(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (dict, list)) else value
