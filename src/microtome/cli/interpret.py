"""``microtome interpret``: compute and draw every figure that a decomposition allows."""

from collections.abc import Sequence
from pathlib import Path

from microtome.cli.flags import build, parse
from microtome.core.config import Config
from microtome.core.device import say
from microtome.core.errors import MicrotomeError

ABOUT = (
    "Computes and draws every figure that a decomposition allows. RUN is a run folder, its name, latest, or a"
    " folder or model file of the original tools. Several runs (or a folder of runs) that differ in"
    " importance_minimality_coeff make the figure that compares them."
)


class Options(Config):
    """What belongs to the command."""

    redraw: bool = False
    """Draw what is stored, and compute nothing."""
    list: bool = False
    """List the figures and what each one answers, and stop."""
    quiet: bool = False
    """No progress line."""
    runs_root: Path = Path("runs")
    """The folder that `latest` and run names are looked for in."""


def main(arguments: Sequence[str]) -> int:
    """Interpret, and list the files."""
    from microtome.decomposition.interpret.config import InterpretConfig

    parsed = parse(arguments, "interpret RUN [RUN ...]", ABOUT, Options, InterpretConfig)
    options: Options = parsed.options
    if options.list:
        return _list()
    if not parsed.positional:
        raise MicrotomeError(
            "interpret: takes a run folder, or latest; `microtome runs` lists those there are"
        )
    config = build(InterpretConfig, {}, parsed.values, "config", note=say)
    from microtome.decomposition.interpret import minimality
    from microtome.decomposition.interpret import run as interpretation

    runs = minimality.runs_in(parsed.positional, options.runs_root)
    if len(runs) > 1:
        file = minimality.compare(runs, config, runs_root=options.runs_root)
        print(f"Wrote {file}")
        return 0
    if options.redraw:
        made = interpretation.redraw(runs[0], config, runs_root=options.runs_root)
    else:
        show = not options.quiet
        made = interpretation.interpret(runs[0], config, runs_root=options.runs_root, progress=show)
    print(f"Drew {len(made.files)} pictures:")
    for file in made.files:
        print(f"  {file}")
    return 0


def _list() -> int:
    from microtome.decomposition.pictures import CATALOGUE

    width = max(map(len, CATALOGUE))
    for name, picture in CATALOGUE.items():
        print(f"{name:<{width}}  {picture.question}")
    return 0
