"""``microtome decompose evaluate``: what a decomposition is worth, check by check."""

from collections.abc import Sequence
from pathlib import Path

from microtome.cli.flags import build, parse
from microtome.core.config import Config
from microtome.core.device import say
from microtome.core.errors import MicrotomeError

ABOUT = (
    "Measures a decomposition on inputs that it was not trained on, and prints a table of checks: what was"
    " measured, what was asked, passed, failed, unclear or not measured, and why. RUN is a run folder, its"
    " name, latest, or a folder or model file of the original codes. Written into the run: evaluation.json,"
    " results/evaluation.npz, plots/evaluation_*.png."
)


class Options(Config):
    """What belongs to the command."""

    strict: bool = False
    """Exit with 1 unless every check that was measured passed."""
    list: bool = False
    """List the metrics, and stop."""
    show: bool = False
    """Print the verdict that is stored, and measure nothing."""
    quiet: bool = False
    """Show no progress."""
    runs_root: Path = Path("runs")
    """The folder that `latest` and run names are looked for in, and new folders are made in."""


def main(arguments: Sequence[str]) -> int:
    """Evaluate a run and print the verdict."""
    from microtome.decomposition.evaluation.config import METRICS, EvaluateConfig

    parsed = parse(arguments, "decompose evaluate RUN", ABOUT, Options, EvaluateConfig)
    options: Options = parsed.options
    if options.list:
        width = max(map(len, METRICS))
        print("\n".join(f"{name:<{width}}  {what}" for name, what in METRICS.items()))
        return 0
    if len(parsed.positional) != 1:
        extra = (
            f", not also {parsed.positional[1]!r}" if parsed.positional else "; `microtome runs` lists them"
        )
        raise MicrotomeError(f"decompose evaluate: takes one run folder, or latest{extra}")
    config = build(EvaluateConfig, {}, parsed.values, "config", note=say)
    from microtome.decomposition.evaluation.result import load_evaluation
    from microtome.decomposition.evaluation.run import evaluate_run

    if options.show:
        found = load_evaluation(parsed.positional[0], runs_root=options.runs_root)
    else:
        found = evaluate_run(
            parsed.positional[0], config, runs_root=options.runs_root, progress=not options.quiet
        )
    print(found)
    assert found.run is not None
    files = "evaluation.json, results/evaluation.npz, plots/evaluation_*.png"
    print(f"Numbers and pictures in {found.run.path}: {files}")
    return 1 if options.strict and not found.passed else 0
