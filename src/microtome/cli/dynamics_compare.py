"""``microtome dynamics compare``: what is different between two moments."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from microtome.cli.flags import parse
from microtome.core.config import Config
from microtome.core.errors import MicrotomeError

ABOUT = """Compares two moments of a run: RUN A B with training steps A and B (A B alone: of the latest run),
RUN alone for before and after its strongest transition, RUN@A RUN@B for steps of two runs, or two files of
states (.pt, .pth, .safetensors), whose weights are compared."""


class Options(Config):
    """How to compare, and where to write."""

    model: str | None = None
    """Your network, package.module:Class(width=64), for runs that are not of a built-in task."""
    measure: str | None = None
    """The measure whose layers come first; null takes the participation ratio."""
    learning_coefficient: bool = False
    """Estimate the local learning coefficient of both states, with a sweep over step sizes."""
    plots: bool = True
    """Draw pictures."""
    out_dir: Path | None = None
    """Where to write; null is a folder inside the run, or ./comparison_NAME for a file."""
    runs_root: Path = Path("runs")
    """The folder that `latest` and run names are looked for in."""


def main(arguments: Sequence[str]) -> int:
    """Compare, print what matters most, and list the files."""
    parsed = parse(list(arguments), "dynamics compare [RUN] [A B]", ABOUT, Options)
    options: Options = parsed.options
    from microtome.dynamics import compared
    from microtome.dynamics.comparison_report import headline

    if compared.are_states(parsed.positional):
        pair, model = None, None
        result, states = compared.compare_files(*parsed.positional)
    else:
        states = None
        pair = compared.find_pair(parsed.positional, options.runs_root)
        model = own_model(options.model)
        result = pair.compare(model, options.measure)
    if options.learning_coefficient:
        add_coefficient(result, pair, model)
    found = result.measurements
    print(f"{result.experiment}: {result.moment.replace('_', ' ')}")
    for line in (*headline(found), *(f"note: {note}" for note in found["notes"])):
        print(f"  {line}")
    for path in _write(result, pair, model, states, options):
        print(f"Wrote {path}")
    return 0


def own_model(text: str | None) -> Any:
    """The network that ``--model`` names. Raises ``CannotLoad``."""
    if text is None:
        return None
    from microtome.targets.python_modules import make_module, parse_call

    return make_module(parse_call(text))


def add_coefficient(result: Any, pair: Any, model: Any) -> None:
    """Enter the local learning coefficients of both states. Raises ``MicrotomeError``."""
    if pair is None or pair.other is not None or not result.measurements.get("states"):
        raise MicrotomeError("learning_coefficient: needs kept states of one run; record with save=auto")
    from microtome.dynamics.coefficients import coefficients

    result.measurements["learning_coefficient"] = coefficients(pair.run, result.measurements["states"], model)


def _write(result: Any, pair: Any, model: Any, states: Any, options: Options) -> list[Path]:
    from microtome.dynamics.comparison_files import default_folder, write_comparison

    folder = options.out_dir or default_folder(result, None if pair is None else pair.run)
    run = None if pair is None else pair.run
    other = None if pair is None else pair.other
    return write_comparison(result, folder, run, other=other, model=model, plots=options.plots, states=states)
