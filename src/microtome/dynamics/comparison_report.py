"""A comparison in words: ``comparison_report.md``."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from microtome.dynamics.before_after import AnalysisResult

MOST_ROWS = 40
STRONGEST = 12


def headline(found: Mapping[str, Any]) -> list[str]:
    """What matters most, a sentence each."""
    pair = [found["loss_before"], found["loss_after"]]
    lines = [f"loss {number(pair[0])} -> {number(pair[1])}"] if math.isfinite(sum(pair)) else []
    probe = found.get("probe") or {}
    for name in ("loss", "accuracy"):
        pair = [probe.get(f"{name}_{word}") for word in ("before", "after")]
        if None not in pair and pair:
            lines.append(f"{name} on the probe {number(pair[0])} -> {number(pair[1])}")
    strongest = largest_changes(found, 1)
    if strongest:
        row = strongest[0]
        lines.append(
            f"largest relative change of {found['measure'].replace('_', ' ')}: {row['layer']},"
            f" {number(row['before'])} -> {number(row['after'])}"
        )
    similar = found.get("representations") or {}
    known = {layer: row["cka"] for layer, row in similar.items() if math.isfinite(row.get("cka", math.nan))}
    if known:
        least = min(known, key=lambda layer: known[layer])
        lines.append(f"least alike before and after: {least}, CKA {number(known[least])}")
    moved = weight_rows(found)
    if moved and not similar:
        row = moved[0]
        lines.append(
            f"weights that moved most: {row['parameter']}, by {number(row['relative change'])} of their norm"
        )
    for word, one in (found.get("learning_coefficient") or {}).items():
        lines.append(f"local learning coefficient {word}: {number(one['value'])} ({one['verdict']})")
    return lines


def largest_changes(found: Mapping[str, Any], most: int) -> list[dict[str, Any]]:
    """The layers by how much they changed relative to before, beside what such a span changes elsewhere."""
    usual = found.get("usual_changes") or {}
    rows = []
    for layer, change in found["layer_changes"].items():
        if not math.isfinite(change["change"]):
            continue
        row = {"layer": layer, **change, "usual change": usual.get(layer, math.nan)}
        row["times usual"] = abs(change["change"]) / usual[layer] if usual.get(layer) else math.nan
        rows.append(row)
    return sorted(
        rows, key=lambda row: -abs(row["relative_change"] if math.isfinite(row["relative_change"]) else 0)
    )[:most]


def representation_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a layer: similarity, sparsity, selectivity."""
    words = {
        "cka": "CKA",
        "procrustes": "Procrustes distance",
        "subspace_overlap": "overlap of 10 directions",
        "selectivity_before": "selectivity before",
        "selectivity_after": "after",
        "sparsity_before": "sparsity before",
        "sparsity_after": "sparsity after",
    }
    return [
        {"layer": layer, **{words[key]: row[key] for key in words if key in row}}
        for layer, row in (found.get("representations") or {}).items()
    ]


def attention_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a head: entropy and where it looks, before and after."""
    rows = []
    for name, module in (found.get("attention") or {}).items():
        for head, moved in enumerate(module["head_divergence"]):
            row: dict[str, Any] = {"head": f"{name or 'attention'} {head}"}
            for word in ("before", "after"):
                row[f"entropy {word}"] = module[word]["head_entropies"][head]
            row["even attention"] = module["uniform"]
            row["pattern moved"] = moved
            for habit in ("first", "self", "previous"):
                pair = [module[word]["habits"].get(habit, []) for word in ("before", "after")]
                if all(len(values) > head for values in pair):
                    row[f"on {habit}"] = " → ".join(f"{values[head]:.2f}" for values in pair)
            rows.append(row)
    return rows


def specialisation_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row an attending module."""
    return [
        {
            "module": name or "attention",
            "specialisation before": module["before"]["specialization_index"],
            "after": module["after"]["specialization_index"],
            "head diversity before": module["before"]["diversity"],
            "diversity after": module["after"]["diversity"],
        }
        for name, module in (found.get("attention") or {}).items()
    ]


def filter_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a weight: how far its units turned and how they part."""
    return [
        {
            "weight": name,
            "units": row["units"],
            "cosine with itself later": row["cosine_mean"],
            "smallest": row["cosine_min"],
            "differentiation before": row["differentiation_before"],
            "after": row["differentiation_after"],
            "by chance": row["differentiation_chance"],
        }
        for name, row in (found.get("filters") or {}).items()
    ]


def weight_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parameters that changed most, by their relative change."""
    rows = [
        {"parameter": name, "relative change": row["relative_change"], "cosine": row["cosine_similarity"]}
        for name, row in (found.get("weights") or {}).items()
    ]
    known = [row for row in rows if math.isfinite(row["relative change"])]
    return sorted(known, key=lambda row: -row["relative change"])[:STRONGEST]


def markdown(result: AnalysisResult) -> str:
    """The whole report."""
    found = result.measurements
    parts = [
        f"# {result.experiment}: {result.moment.replace('_', ' ')}",
        f"Steps {found['step_before']} and {found['step_after']}. " + "; ".join(headline(found)) + ".",
    ]
    parts += [f"> {note}." for note in found["notes"]]
    tables = (
        (f"Dimensionality ({found['measure'].replace('_', ' ')})", largest_changes(found, MOST_ROWS)),
        ("Representations on the probe", representation_rows(found)),
        ("Attention heads", attention_rows(found)),
        ("Head specialisation", specialisation_rows(found)),
        ("Filters and units", filter_rows(found)),
        ("Weights that moved most", weight_rows(found)),
        *((f"Local learning coefficient {w}", r["sweep"]) for w, r in _coefficients(found)),
    )
    for title, rows in tables:
        if rows:
            parts += [f"## {title}", table(rows[:MOST_ROWS])]
    if result.visualizations:
        parts += ["## Pictures", "\n".join(f"![{n}]({_name(p)})" for n, p in result.visualizations.items())]
    return "\n\n".join(parts) + "\n"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[number(row.get(column)) for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def number(value: Any) -> str:
    """Four significant digits, a dash for what is not known."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _coefficients(found: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    both = found.get("learning_coefficient") or {}
    return [(word, both[word]) for word in ("before", "after") if word in both]


def _name(path: Any) -> str:
    return str(path).rpartition("/")[2]
