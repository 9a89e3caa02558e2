"""A verdict in words: what was looked at, a row a check, and how to read it."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from microtome.decomposition.evaluation.checks import Check

WIDTH = 112
_ORDER = ("passed", "failed", "unclear", "not measured")


def verdict_lines(about: Mapping[str, Any], checks: Sequence[Check]) -> list[str]:
    """The lines that the command prints."""
    lines = [_title(about), ""]
    widths = [max(len(row[i]) for row in map(_cells, checks)) for i in range(4)]
    head = ("verdict", "check", "measured", "asked")
    widths = [max(width, len(word)) for width, word in zip(widths, head, strict=True)]
    lines.append("  ".join(word.ljust(width) for word, width in zip(head, widths, strict=True)).rstrip())
    for check in checks:
        cells = zip(_cells(check), widths, strict=True)
        lines.append("  ".join(cell.ljust(width) for cell, width in cells).rstrip())
        indent = " " * (widths[0] + 2)
        lines += textwrap.wrap(
            check.why, WIDTH - len(indent), initial_indent=indent, subsequent_indent=indent
        )
    return [*lines, "", *_reading(about, checks)]


def _cells(check: Check) -> tuple[str, str, str, str]:
    return check.verdict, check.name, check.measured, check.wanted


def _title(about: Mapping[str, Any]) -> str:
    seeds = about["seeds"]
    many = f"{seeds} seeds" if seeds > 1 else "1 seed"
    batches = (
        f"{about['n_batches']} batches of {about['batch_size']:,}" if about["n_batches"] else "no batches"
    )
    return f"{about['name']}: {about['method'].upper()}, {many}, {batches} ({about['inputs']})"


def _reading(about: Mapping[str, Any], checks: Sequence[Check]) -> list[str]:
    counts = Counter(check.status for check in checks)
    told = ", ".join(f"{counts[status]} {status}" for status in _ORDER if counts[status])
    spread = "± (of ratios ×/÷) half the 95 % interval over batches (the widest seed's)"
    if about["n_batches"] < 2:
        spread = "no spread over batches is known: one batch"
    seeds = (
        "mean over seeds [lowest, highest]; a check passes when every seed does" if about["seeds"] > 1 else ""
    )
    return [
        f"{len(checks)} checks: {told}.",
        *_good(about["seeds"], checks),
        f"Measured: {'; '.join(part for part in (seeds, spread) if part)}.",
    ]


def good_seeds(n: int, checks: Sequence[Check]) -> list[int]:
    """The seeds that pass every check that was measured."""
    measured = [check.by_seed for check in checks if check.by_seed]
    return [k for k in range(n) if measured and all(by_seed[k] == "passed" for by_seed in measured)]


def _good(n: int, checks: Sequence[Check]) -> list[str]:
    if n < 2:
        return []
    good = good_seeds(n, checks)
    names = ", ".join(map(str, good)) if len(good) < n else "all"
    return [f"Seeds that pass all that was measured: {names or 'none'} of {n}."]
