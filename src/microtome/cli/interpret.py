"""``microtome interpret``: draw the pictures of a decomposition again."""

from collections.abc import Sequence
from pathlib import Path

from microtome.cli.flags import parse
from microtome.core.config import Config
from microtome.core.errors import MicrotomeError

ABOUT = "Draws the pictures of a decomposition again. RUN is a run folder, its name, or latest."


class Options(Config):
    """Where runs are looked for."""

    runs_root: Path = Path("runs")
    """The folder that `latest` and run names are looked for in."""


def main(arguments: Sequence[str]) -> int:
    """Redraw and list the files."""
    parsed = parse(arguments, "interpret RUN", ABOUT, Options)
    if len(parsed.positional) != 1:
        raise MicrotomeError(
            "interpret: takes one run folder, or latest; `microtome runs` lists those there are"
        )
    from microtome.core.references import open_run

    run = open_run(parsed.positional[0], runs_root=parsed.options.runs_root, want="decompose")
    if not run.kind.startswith("decompose"):
        raise MicrotomeError(
            f"{run.path}: a {run.kind} run, not a decomposition; give one that decompose made"
        )
    from microtome.decomposition.pictures import redraw

    files = redraw(run.path)
    print(f"Drew {len(files)} pictures:")
    for file in files:
        print(f"  {file}")
    return 0
