"""``microtome view``: one page about a run."""

import webbrowser
from collections.abc import Sequence
from pathlib import Path

from microtome.cli.flags import parse
from microtome.core.config import Config
from microtome.core.errors import MicrotomeError

ABOUT = (
    "Writes one self-contained page about a run: its numbers, its pictures, and how it was made. RUN is a run"
    " folder of any kind, its name, or latest."
)


class Options(Config):
    """Which page, and whether to open it."""

    out: Path | None = None
    """The file; null writes report.html into the run."""
    open: bool = False
    """Open the page in a browser."""
    runs_root: Path = Path("runs")
    """The folder that `latest` and run names are looked for in."""


def main(arguments: Sequence[str]) -> int:
    """Write the page and say where it is."""
    parsed = parse(arguments, "view RUN", ABOUT, Options)
    if len(parsed.positional) != 1:
        raise MicrotomeError("view: takes one run folder, or latest; `microtome runs` lists those there are")
    from microtome.core.references import open_run
    from microtome.explorer.report import write_report

    options = parsed.options
    run = open_run(parsed.positional[0], runs_root=options.runs_root)
    page = write_report(run, options.out)
    print(f"Wrote {page}")
    if options.open:
        webbrowser.open(page.absolute().as_uri())
    return 0
