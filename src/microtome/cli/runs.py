"""``microtome runs``: the run folders there are."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from microtome.cli.flags import parse
from microtome.core.config import Config
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.runs import RunFolder, list_runs

ABOUT = "Lists the run folders, newest first: name, kind, state, age and key numbers."


class Options(Config):
    """Which runs."""

    runs_root: Path = Path("runs")
    """The folder to list."""
    kind: str | None = None
    """Only runs of this kind, such as train or decompose-spd."""


def main(arguments: Sequence[str]) -> int:
    """Print the table."""
    parsed = parse(arguments, "runs [FOLDER]", ABOUT, Options)
    if len(parsed.positional) > 1:
        raise MicrotomeError(f"runs: takes one folder, not also {parsed.positional[1]!r}")
    root = Path(parsed.positional[0]) if parsed.positional else parsed.options.runs_root
    found = list_runs(root, parsed.options.kind)
    if not found and parsed.options.kind and list_runs(root):
        print(f"No runs of kind {parsed.options.kind} under {root}; `microtome runs` lists all.")
        return 0
    if not found:
        print(f"No runs under {root}. `microtome demo` makes some.")
        return 0
    rows = [("run", "kind", "state", "age", "numbers"), *(describe(run, root) for run in reversed(found))]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)]
        print("  ".join([*cells, row[4]]).rstrip())
    return 0


def describe(run: RunFolder, root: Path) -> tuple[str, str, str, str, str]:
    """One row of the table."""
    environment = run.environment
    try:
        numbers = key_numbers(run.summary)
    except CannotLoad:
        numbers = ""
    state = "finished" if run.finished else "unfinished"
    if not run.finished:
        steps = run.checkpoint_steps()
        state = f"unfinished, step {steps[-1]}" if steps else "unfinished"
    name = str(run.path.relative_to(root)) if run.path.is_relative_to(root) else str(run.path)
    return name, run.kind, state, age(str(environment.get("started", ""))), numbers


def key_numbers(summary: Mapping[str, Any], most: int = 4) -> str:
    """The first few numbers of a summary; of a list with one number a seed, the mean."""
    shown = []
    for name, value in summary.items():
        numbers = value if isinstance(value, list) else [value]
        if numbers and all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in numbers):
            shown.append(f"{name}={sum(numbers) / len(numbers):.4g}")
    return " ".join(shown[:most])


def age(started: str) -> str:
    """How long ago an ISO time was: ``5m``, ``3h``, ``2d``."""
    try:
        passed = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(started)
    except (ValueError, TypeError):
        return "?"
    minutes = max(int(passed.total_seconds() // 60), 0)
    if minutes < 60:
        return f"{minutes}m"
    return f"{minutes // 60}h" if minutes < 48 * 60 else f"{minutes // (24 * 60)}d"
