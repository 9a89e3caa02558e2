"""What a trial measured: its summary, its metrics over time, or what it printed."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from microtome.core.config_keys import nearest

MOST_NAMES = 12


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Every number by its dotted key; a list with one number a seed gives its mean; the rest is left out."""
    flat: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
            continue
        numbers = value if isinstance(value, list) else [value]
        numbers = [item for item in numbers if item is not None]
        if numbers and all(_is_number(item) for item in numbers):
            flat[name] = float(sum(numbers)) / len(numbers)
    return flat


def trial_metrics(folder: Path, log: Path) -> dict[str, float]:
    """The numbers a trial left, by dotted key.

    Later ones win: JSON objects printed on a line of their own, the last value of each key of
    ``metrics.jsonl``, ``summary.json``; the files in ``folder`` or in one run folder inside it.
    """
    found: dict[str, float] = {}
    for row in _rows(log):
        found |= flatten(row)
    home = _run_in(folder)
    for row in _rows(home / "metrics.jsonl"):
        found |= flatten(row)
    try:
        summary = json.loads((home / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        summary = None
    if isinstance(summary, Mapping):
        found |= flatten(summary)
    return found


def metric_history(folder: Path, log: Path, name: str) -> list[float]:
    """Every value of a metric so far, in the order reported, from ``metrics.jsonl`` or printed JSON lines."""
    path = _run_in(folder) / "metrics.jsonl"
    values = [find_metric(flatten(row), name) for row in _rows(path if path.is_file() else log)]
    return [value for value in values if value is not None]


def find_metric(metrics: Mapping[str, float], name: str) -> float | None:
    """The number called ``name``; ``/`` and ``.`` are alike, and ``total_loss`` may be called ``total``."""
    for candidate in (name, name.removesuffix("_loss"), name.removesuffix("_loss").removeprefix("loss/")):
        if candidate in metrics:
            return metrics[candidate]
        for key, value in metrics.items():
            if key.replace("/", ".") == candidate.replace("/", "."):
                return value
    return None


def no_such_metric(name: str, available: Sequence[str]) -> str:
    """One line for a metric that no trial reported."""
    if not available:
        return f"metric.name={name!r}: the trials reported no numbers; docs/sweeps.md says where to put them"
    names = sorted(set(available), key=lambda key: (key.count("."), key))
    near = nearest(name, names)
    listed = ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
    mend = f"did you mean {near}? There are {listed}" if near else f"choose one of {listed}"
    return f"metric.name={name!r}: no trial reported it; {mend}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The JSON objects that fill a line of a file; other lines, and one cut short, are passed over."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        if line.lstrip().startswith("{"):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, Mapping):
                yield row


def _run_in(folder: Path) -> Path:
    """The folder itself, or the only run folder in it."""
    if any((folder / name).is_file() for name in ("summary.json", "metrics.jsonl", "environment.json")):
        return folder
    inside = list(folder.glob("*/environment.json"))
    return inside[0].parent if len(inside) == 1 else folder
