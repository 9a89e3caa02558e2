"""``microtome dynamics report``: one self-contained page about a run and its transitions."""

from collections.abc import Sequence
from pathlib import Path

from microtome.cli.flags import parse
from microtome.core.config import Config
from microtome.core.errors import MicrotomeError

ABOUT = """Writes report.html: the course of a recorded run, its transitions, and a comparison of before and
after the strongest. RUN is a recorded folder, an original .json file, or latest (the default)."""


class Options(Config):
    """Where the page goes, and what is on it."""

    out: Path | None = None
    """The file; null writes report.html into the run, or report_NAME.html for a file."""
    model: str | None = None
    """Your network, package.module:Class(width=64), for runs that are not of a built-in task."""
    learning_coefficient: bool = False
    """Estimate the local learning coefficient before and after, with a sweep over step sizes."""
    runs_root: Path = Path("runs")
    """The folder that `latest` and run names are looked for in."""


def main(arguments: Sequence[str]) -> int:
    """Write the page and say where."""
    parsed = parse(list(arguments), "dynamics report [RUN]", ABOUT, Options)
    if len(parsed.positional) > 1:
        raise MicrotomeError("dynamics report: takes one run, or latest")
    from microtome.cli.dynamics_compare import own_model
    from microtome.explorer.dynamics import write_page

    options: Options = parsed.options
    written = write_page(
        parsed.positional[0] if parsed.positional else "latest",
        options.out,
        model=own_model(options.model),
        learning_coefficient=options.learning_coefficient,
        runs_root=options.runs_root,
    )
    print(f"Wrote {written}")
    return 0
