"""``microtome demo``: train small networks, take them apart, write a page about it."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from microtome.cli.flags import parse
from microtome.core.config import Config
from microtome.core.errors import MicrotomeError

ABOUT = (
    "Trains small networks, takes them apart and writes a page of tables and pictures, in about two minutes."
)


class Options(Config):
    """Where the demonstration goes."""

    out_dir: Path = Path("runs/demo")
    """The folder; an earlier demonstration in it is replaced."""
    steps: float = Field(1.0, gt=0, le=1)
    """Share of the training steps, for a quick look at the machinery."""
    quiet: bool = False
    """Show no progress."""


def main(arguments: Sequence[str]) -> int:
    """Run it, print the tables, say where the page is."""
    parsed = parse(arguments, "demo", ABOUT, Options)
    if parsed.positional:
        raise MicrotomeError(f"demo: takes flags only, not {parsed.positional[0]!r}")

    from microtome.demo import next_commands, run_demo

    result = run_demo(
        parsed.options.out_dir, print, show_progress=not parsed.options.quiet, steps=parsed.options.steps
    )
    _print_table("Mechanisms of TMS 5-2", result.mechanisms)
    _print_table("Handwritten digits", result.digits)
    print("\n".join(result.verdicts))
    print(f"\nOpen {result.report}\nThen try:")
    print("\n".join(f"  {command}" for command in next_commands(parsed.options.out_dir)))
    return 0


def _print_table(title: str, rows: list[dict[str, object]]) -> None:
    """One row a measure and one column a method: narrow enough for any terminal."""
    from rich.console import Console
    from rich.table import Table

    first, *others = rows[0]
    table = Table(title=title, title_justify="left", show_header=True)
    sideways = len(others) > 2
    for name in [first, *(str(row[first]) for row in rows)] if sideways else [first, *others]:
        table.add_column(name)
    lines = (
        [[key, *(str(row[key]) for row in rows)] for key in others]
        if sideways
        else [[str(v) for v in r.values()] for r in rows]
    )
    for line in lines:
        table.add_row(*line)
    Console().print(table)
